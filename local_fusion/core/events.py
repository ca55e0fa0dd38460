"""What happens on the way to an answer: one stream of events that the server, the command line and the trace all read.

Inside, a `ChatModel` pushes events through `emit`; at the border `stream()` turns that into an asynchronous
iterator that ends with `Answered` or raises the error.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from local_fusion.core.chat import ChatRequest
from local_fusion.core.model import ChatModel, Choice, Reply
from local_fusion.core.records import CallRecord, Candidate, Failure, Saving, Stage, Trim, Verdict


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of answer `index`; `tokens` were generated for it (0 where the text was not generated just now).

    `reasoning` is thought before the answer. `certainties` are those of the tokens, where they were asked for (see
    `records.Certainty`).
    """

    text: str
    index: int = 0
    tokens: int = 0
    reasoning: str = ""
    certainties: tuple[float, ...] = ()
    type: Literal["text_delta"] = "text_delta"


@dataclass(frozen=True, slots=True)
class ChoiceEnded:
    """Answer `index` is whole, while others of the same call may still be written."""

    index: int
    choice: Choice
    type: Literal["choice_ended"] = "choice_ended"


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage begins: the panel is asked, the judge compares, the synthesizer writes. `models` take part in it.

    `round` counts from 1 where a strategy goes round.
    """

    stage: Stage
    models: tuple[str, ...]
    round: int = 1
    type: Literal["stage_started"] = "stage_started"


@dataclass(frozen=True, slots=True)
class Queued:
    """A call to `model` waits: `ahead` others come first, and `reason` says for what. Told again as that changes."""

    model: str
    ahead: int
    reason: str
    type: Literal["queued"] = "queued"

    @property
    def text(self) -> str:
        """For people: `waiting for gemma: 3 ahead, swap in progress`."""
        return f"waiting for {self.model}: {f'{self.ahead} ahead, ' if self.ahead else ''}{self.reason}"

    def counts_on(self, before: Queued) -> bool:
        """Whether only numbers have changed: calls ahead, seconds to go."""
        return self.model == before.model and without_numbers(self.reason) == without_numbers(before.reason)


def without_numbers(text: str) -> str:
    """What is left of a reason when times and counts, which change all the time, are not looked at."""
    return "".join(letter for letter in text if not letter.isdigit())


@dataclass(frozen=True, slots=True)
class MemberStarted:
    """A member was asked for `samples` answers."""

    member: str
    model: str
    samples: int
    type: Literal["member_started"] = "member_started"


@dataclass(frozen=True, slots=True)
class MemberProgress:
    """A member has generated `tokens` tokens so far, over all its samples."""

    member: str
    tokens: int
    type: Literal["member_progress"] = "member_progress"


@dataclass(frozen=True, slots=True)
class MemberFinished:
    """A member has given its candidates."""

    member: str
    candidates: tuple[Candidate, ...]
    seconds: float
    type: Literal["member_finished"] = "member_finished"


@dataclass(frozen=True, slots=True)
class CallEnded:
    """One engine call is over, whatever became of it."""

    call: CallRecord
    type: Literal["call_ended"] = "call_ended"


@dataclass(frozen=True, slots=True)
class Failed:
    """A member, the judge or the synthesizer failed; the fusion may go on without it."""

    failure: Failure
    type: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A candidate was cut to fit its reader's context."""

    trim: Trim
    type: Literal["trimmed"] = "trimmed"


@dataclass(frozen=True, slots=True)
class VerdictReached:
    """The judge is done."""

    verdict: Verdict
    type: Literal["verdict_reached"] = "verdict_reached"


@dataclass(frozen=True, slots=True)
class Noted:
    """Something the reader of the answer should know (a fallback, a candidate left out)."""

    text: str
    type: Literal["noted"] = "noted"


@dataclass(frozen=True, slots=True)
class Saved:
    """Some work was left out."""

    saving: Saving
    type: Literal["saved"] = "saved"


@dataclass(frozen=True, slots=True)
class Nested:
    """An event of a fusion that is itself a member, judge or synthesizer of another (`source` is its label)."""

    source: str
    event: Event
    type: Literal["nested"] = "nested"


@dataclass(frozen=True, slots=True)
class Answered:
    """The end: the whole reply."""

    reply: Reply
    type: Literal["answered"] = "answered"


Event = Annotated[
    TextDelta
    | ChoiceEnded
    | StageStarted
    | Queued
    | MemberStarted
    | MemberProgress
    | MemberFinished
    | CallEnded
    | Failed
    | Trimmed
    | VerdictReached
    | Noted
    | Saved
    | Nested
    | Answered,
    Field(discriminator="type"),
]


def origin(event: Event) -> tuple[tuple[str, ...], Event]:
    """Where an event comes from, outermost source first, and what happened there."""
    sources: list[str] = []
    while isinstance(event, Nested):
        sources.append(event.source)
        event = event.event
    return tuple(sources), event


_adapter: TypeAdapter[Event] | None = None


def _events() -> TypeAdapter[Event]:
    global _adapter
    if _adapter is None:
        _adapter = TypeAdapter(Event)
    return _adapter


def to_json(event: Event) -> dict[str, Any]:
    """The event as plain JSON values; `from_json` is its inverse."""
    plain: dict[str, Any] = _events().dump_python(event, mode="json")
    return plain


def from_json(data: dict[str, Any]) -> Event:
    """The event that `to_json` made.

    Raises `pydantic.ValidationError` for anything else.
    """
    return _events().validate_python(data)


class _Backlog:
    """Events not yet read. Text and progress that pile up are merged, so a slow reader costs little memory."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._waiting = asyncio.Event()

    def put(self, event: Event) -> None:
        last = self._events[-1] if self._events else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta) and last.index == event.index:
            self._events[-1] = TextDelta(
                last.text + event.text,
                event.index,
                last.tokens + event.tokens,
                last.reasoning + event.reasoning,
                last.certainties + event.certainties,
            )
        elif last is not None and _supersedes(event, last):
            self._events[-1] = event
        else:
            self._events.append(event)
        self.wake()

    def wake(self) -> None:
        self._waiting.set()

    async def wait(self) -> None:
        await self._waiting.wait()
        self._waiting.clear()

    def take(self) -> Iterator[Event]:
        while self._events:
            yield self._events.popleft()


def _supersedes(event: Event, last: Event) -> bool:
    """Whether `event` tells all that `last` told, only newer."""
    source, now = origin(event)
    last_source, before = origin(last)
    if source != last_source:
        return False
    match now, before:
        case MemberProgress(), MemberProgress():
            return now.member == before.member
        case Queued(), Queued():
            return now.model == before.model
        case _:
            return False


async def stream(
    model: ChatModel, request: ChatRequest, overhear: Callable[[Event], None] = lambda _: None
) -> AsyncGenerator[Event]:
    """Ask `model` and yield its events as they happen, `Answered` last.

    Raises what `model.answer` raises. Closing the iterator cancels the work and waits until it has ended. `overhear` is
    told of every event but `Answered` at once, also of those of the cancelled work, which nobody iterates over.
    """
    backlog = _Backlog()

    def emit(event: Event) -> None:
        overhear(event)
        backlog.put(event)

    task = asyncio.create_task(model.answer(request, emit), name=f"answer {model.name} {request.request_id}")
    task.add_done_callback(lambda _: backlog.wake())
    try:
        while not task.done():
            await backlog.wait()
            for event in backlog.take():
                yield event
        yield Answered(await task)
    finally:
        task.cancel()
        await asyncio.wait([task])
