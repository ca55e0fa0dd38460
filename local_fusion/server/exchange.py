"""One request to one model, in no dialect yet: its events, its reply, the report of how the answer came about."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import Any

from local_fusion.core import events
from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import Answered, CallEnded, ChoiceEnded, Event, MemberProgress, TextDelta, origin
from local_fusion.core.model import ChatModel, Reply
from local_fusion.core.records import CallRecord
from local_fusion.server.options import Options
from local_fusion.server.progress import as_reasoning
from local_fusion.server.waits import Waits

_NOT_TRACED = TextDelta | ChoiceEnded | MemberProgress | Answered


@dataclass(slots=True)
class Exchange:
    """One request to a fusion or an engine. `called` is the model as the client named it; `about` opens the trace.

    The request's id is the trace's too. `ended` hears of every engine call. `progress`: the panel's work is told in
    the reasoning of answers that are streamed. `thought`: tokens of the answer that were thought before it.
    """

    called: str
    model: ChatModel
    request: ChatRequest
    options: Options = field(default_factory=Options)
    about: Mapping[str, Any] = field(default_factory=dict)
    ended: Callable[[CallRecord], None] = lambda _: None
    progress: bool = False
    thought: int = 0
    created: int = field(default_factory=lambda: int(time.time()))
    trace: list[dict[str, Any]] = field(default_factory=list)
    _started: float = field(default_factory=time.monotonic)
    _waits: Waits = field(default_factory=Waits)

    def __post_init__(self) -> None:
        self._log({"type": "request", **self.about})

    @property
    def waiting_for(self) -> str | None:
        """What the request waits for just now, for people; None where it is being worked on."""
        return self._waits.latest

    async def events(self) -> AsyncGenerator[Event]:
        """The model's events, `Answered` last, for whoever streams the answer; see `as_reasoning` for its progress.

        Raises what the model raises. Closing it cancels everything done for the request.
        """
        async with aclosing(as_reasoning(self._happening()) if self.progress else self._happening()) as happening:
            async for event in happening:
                yield event

    async def _happening(self) -> AsyncGenerator[Event]:
        """The model's events; where the trace is asked for, all but answers and progress are also kept for it."""
        traced = "trace" in self.options.include
        async with aclosing(events.stream(self.model, self.request, self._overhear)) as happening:
            async for event in happening:
                if self._waits.hear(event) and traced and not isinstance(origin(event)[1], _NOT_TRACED):
                    self._log(events.to_json(event))
                yield event

    def _overhear(self, event: Event) -> None:
        """Calls that are cancelled end when nobody iterates over the events any longer, and count all the same."""
        match event:
            case CallEnded(call):
                self.ended(call)
            case TextDelta("", tokens=tokens, reasoning=reasoning) if reasoning:
                self.thought += tokens

    async def reply(self) -> Reply:
        """The whole reply.

        Raises what the model raises.
        """
        async with aclosing(self._happening()) as happening:
            async for event in happening:
                if isinstance(event, Answered):
                    return event.reply
        raise AssertionError("the event stream ends with Answered or raises")

    def report(self, reply: Reply) -> dict[str, Any]:
        """The `fusion` object: who failed, whether the panel was partial, what was saved; the rest where asked for."""
        report = reply.report
        if report is None:
            trace_id = self.request.request_id
            alone: dict[str, Any] = {
                "trace_id": trace_id,
                "strategy": None,
                "failed": [],
                "partial": bool(reply.budget),
                "savings": [],
            }
            return alone | ({"budget": asdict(reply.budget)} if reply.budget else {})
        told: dict[str, Any] = {
            "trace_id": report.trace_id,
            "strategy": report.strategy,
            "failed": [asdict(failure) for failure in report.failed],
            "partial": report.partial,
            "savings": [asdict(saving) for saving in report.savings],
            "notes": list(report.notes),
            "trims": [asdict(trim) for trim in report.trims],
            "seconds": round(report.seconds, 3),
        }
        if reply.budget is not None:
            told["budget"] = asdict(reply.budget)
        if "candidates" in self.options.include:
            told["candidates"] = [asdict(candidate) for candidate in report.candidates]
        if "verdict" in self.options.include:
            told["verdict"] = asdict(report.verdict) if report.verdict else None
        if "trace" in self.options.include:
            told["trace"] = self.trace
        return told

    def _log(self, happened: dict[str, Any]) -> None:
        """Add to the trace what happened, `at` so many seconds after the request came."""
        self.trace.append({"at": round(time.monotonic() - self._started, 3), **happened})


def calls_of(reply: Reply) -> list[dict[str, Any]]:
    """Each engine call of a reply, as plain values: what every dialect's usage breaks down to."""
    return [
        {
            "stage": call.stage,
            "model": call.model,
            "samples": call.samples,
            "prompt_tokens": call.usage.prompt_tokens,
            "completion_tokens": call.usage.completion_tokens,
            "seconds": round(call.seconds, 3),
            "error": call.error,
        }
        for call in reply.calls
    ]
