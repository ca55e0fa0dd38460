"""The one interface of everything that answers: engines and fusions alike, which is all that nesting needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from local_fusion.core.budget import Spent
from local_fusion.core.chat import ChatRequest, ToolCall
from local_fusion.core.records import CallRecord, Candidate, Certainty, Failure, Saving, Trim, Usage, Verdict

if TYPE_CHECKING:
    from local_fusion.core.events import Event

# Never blocks and never fails, so that it can be called while an error or a cancellation is passing through.
Emit = Callable[["Event"], None]


def unheard(event: Event) -> None:
    """An `Emit` for callers that only want the reply."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer: its text and why it ended (`stop`, `length`, `tool_calls`); `stopped_by` is the stop of the request's
    that ended it, where one did.

    `reasoning` is what the model thought before it answered, where its engine tells the two apart. `certainty` is there
    where the request asked for it and the model can tell.
    """

    text: str
    finish_reason: str = "stop"
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    certainty: Certainty | None = None
    stopped_by: str | None = None


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
    savings: tuple[Saving, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a `ChatModel` answers: as many `choices` as samples were asked for, every engine call, a fusion's report.

    `budget`: what ran out on the way, so that this is the best answer there was by then.
    """

    choices: tuple[Choice, ...]
    calls: tuple[CallRecord, ...] = ()
    report: FusionReport | None = None
    budget: Spent | None = None

    @property
    def usage(self) -> Usage:
        """The honest total over all calls."""
        return sum((call.usage for call in self.calls), Usage())


@dataclass(frozen=True, slots=True)
class Room:
    """How long a conversation is for a model: `tokens` as it counts them, of a context of `limit` tokens."""

    tokens: int
    limit: int

    @property
    def left(self) -> int:
        """Tokens left for the answer (never negative)."""
        return max(0, self.limit - self.tokens)


@dataclass(frozen=True, slots=True)
class Score:
    """How likely an answer is to a model: the sum of its tokens' log-probabilities (natural), over `tokens` tokens."""

    logprob: float
    tokens: int

    @property
    def mean(self) -> float:
        """Log-probability of a token (0 for an empty answer)."""
        return self.logprob / self.tokens if self.tokens else 0.0


class ChatModel(Protocol):
    """Answers conversations. Errors are `LocalFusionError`s; cancelling a call cancels everything done for it.

    Every engine call that ends, well or not or cancelled, is emitted as one `CallEnded`, so no token goes uncounted.
    """

    @property
    def name(self) -> str:
        """The name it is configured and served under."""
        ...

    @property
    def takes_images(self) -> bool:
        """Whether it answers conversations with images in them."""
        ...

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        """Answer `request`; `emit` receives events on the way: `TextDelta`s of the final text first of all, and one
        `ChoiceEnded` for each answer, as soon as it is whole.
        """
        ...

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> Mapping[str, float]:
        """Probability of each of `labels` being the answer's first token, normalised over them: one forward pass."""
        ...

    async def score(self, request: ChatRequest, answers: tuple[str, ...], emit: Emit = unheard) -> tuple[Score, ...]:
        """How likely each of `answers` is to this model as what follows `request` and its `prefix` (teacher forcing):
        one forward pass for each, nothing generated.
        """
        ...

    async def measure(self, request: ChatRequest) -> Room:
        """How long the messages of `request` are for this model, and how long they may be."""
        ...

    def expecting(self, request: ChatRequest) -> AbstractContextManager[None]:
        """While in this block, `request` may call this model: whoever schedules engines may have it awake by then."""
        ...
