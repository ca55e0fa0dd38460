"""What happens on the way to an answer: one stream of events that the server, the command line and the trace all read.

Inside, a `ChatModel` pushes events through `emit`; at the border `stream()` turns that into an `AsyncIterator[Event]`
that ends with `Answered` or raises the error.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from local_fusion.core.chat import ChatRequest
from local_fusion.core.model import ChatModel, Reply
from local_fusion.core.records import Candidate, Failure, Stage, Trim, Verdict

QUEUE_LENGTH = 256  # events a slow reader may lag behind before the work itself waits for it


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of answer `index`; `tokens` were generated for it (0 where the text was not generated just now)."""

    text: str
    index: int = 0
    tokens: int = 0
    type: Literal["text_delta"] = "text_delta"


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage begins: the panel is asked, the judge compares, the synthesizer writes. `models` take part in it."""

    stage: Stage
    models: tuple[str, ...]
    type: Literal["stage_started"] = "stage_started"


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
    | StageStarted
    | MemberStarted
    | MemberProgress
    | MemberFinished
    | Failed
    | Trimmed
    | VerdictReached
    | Noted
    | Nested
    | Answered,
    Field(discriminator="type"),
]

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


async def stream(model: ChatModel, request: ChatRequest) -> AsyncIterator[Event]:
    """Ask `model` and yield its events as they happen, `Answered` last.

    Raises what `model.answer` raises. Closing the iterator cancels the work and waits until it has ended. A reader that
    lags `QUEUE_LENGTH` events behind holds the work up.
    """
    queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE_LENGTH)

    async def work() -> Reply:
        try:
            return await model.answer(request, queue.put)
        finally:
            # The reader only waits while the queue is empty, so a full queue needs no end mark to wake it.
            with suppress(asyncio.QueueFull):
                queue.put_nowait(None)

    task = asyncio.create_task(work(), name=f"answer {model.name} {request.request_id}")
    try:
        while not (task.done() and queue.empty()):
            event = await queue.get()
            if event is not None:
                yield event
        yield Answered(await task)
    finally:
        task.cancel()
        await asyncio.wait([task])
