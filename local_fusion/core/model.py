"""The one interface of everything that answers: engines and fusions alike, which is all that nesting needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.records import CallRecord, Candidate, Failure, Trim, Usage, Verdict

if TYPE_CHECKING:
    from local_fusion.core.events import Event

Emit = Callable[["Event"], Awaitable[None]]


async def unheard(event: Event) -> None:
    """An `Emit` for callers that only want the reply."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer: its text and why it ended (`stop`, `length`)."""

    text: str
    finish_reason: str = "stop"


@dataclass(frozen=True, slots=True)
class FusionReport:
    """How a fusion came to its answer. `partial`: some part of what was asked for failed, and `failed` says which."""

    trace_id: str
    fusion: str
    strategy: str
    failed: tuple[Failure, ...] = ()
    partial: bool = False
    candidates: tuple[Candidate, ...] = ()
    verdict: Verdict | None = None
    trims: tuple[Trim, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a `ChatModel` answers: `choices` (as many as samples were asked for), each engine call, a fusion's report."""

    choices: tuple[Choice, ...]
    calls: tuple[CallRecord, ...] = ()
    report: FusionReport | None = None

    @property
    def usage(self) -> Usage:
        """The honest total over all calls."""
        return sum((call.usage for call in self.calls), Usage())


@dataclass(frozen=True, slots=True)
class Weights:
    """Probabilities of the next token being each label, normalised over the labels; and the calls made to learn them."""

    probabilities: Mapping[str, float]
    calls: tuple[CallRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Room:
    """How long a conversation is for a model: `tokens` as it counts them, of a context of `limit` tokens."""

    tokens: int
    limit: int

    @property
    def left(self) -> int:
        """Tokens left for the answer (never negative)."""
        return max(0, self.limit - self.tokens)


class ChatModel(Protocol):
    """Answers conversations. Errors are `LocalFusionError`s; cancelling a call cancels everything done for it."""

    @property
    def name(self) -> str:
        """The name it is configured and served under."""
        ...

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        """Answer `request`; `emit` receives events on the way (`TextDelta`s of the final text first of all)."""
        ...

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...]) -> Weights:
        """How likely each of `labels` is as the next token of the answer: one forward pass, nothing generated."""
        ...

    async def measure(self, messages: tuple[Message, ...]) -> Room:
        """How long `messages` are for this model, and how long they may be."""
        ...


@dataclass(slots=True)
class CallLog:
    """Collects the calls of one request in the order in which they ended, whatever became of them."""

    calls: list[CallRecord] = field(default_factory=list)

    def add(self, *calls: CallRecord) -> None:
        """Record calls."""
        self.calls.extend(calls)
