"""Chat completions by fusions: the event stream rendered in OpenAI's shape, whole or chunk by chunk."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import Any

from local_fusion.core import events
from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import Answered, CallEnded, Event, MemberProgress, TextDelta
from local_fusion.core.model import ChatModel, Reply
from local_fusion.errors import LocalFusionError
from local_fusion.server import sse
from local_fusion.server.chat_schema import FusionChatRequest
from local_fusion.server.errors import defect, error_body
from local_fusion.server.waits import Waits

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Exchange:
    """One request to one fusion and its rendering. `request_id` is also the trace's id."""

    model: ChatModel
    asked: FusionChatRequest
    request: ChatRequest
    created: int = field(default_factory=lambda: int(time.time()))
    started: float = field(default_factory=time.monotonic)
    trace: list[dict[str, Any]] = field(default_factory=list)
    _waits: Waits = field(default_factory=Waits)

    def __post_init__(self) -> None:
        self._log({"type": "request", "user": self.asked.user, "metadata": self.asked.metadata})

    def _log(self, happened: dict[str, Any]) -> None:
        """Add to the trace what happened, `at` so many seconds after the request came."""
        self.trace.append({"at": round(time.monotonic() - self.started, 3), **happened})

    async def _events(self) -> AsyncGenerator[Event]:
        """The model's events, all but text and progress also kept for the trace."""
        async with aclosing(events.stream(self.model, self.request)) as happening:
            async for event in happening:
                if self._waits.hear(event) and not isinstance(event, TextDelta | MemberProgress | Answered):
                    self._log(events.to_json(event))
                yield event

    async def whole(self) -> dict[str, Any]:
        """The answer as one `chat.completion`.

        Raises what the fusion raises.
        """
        reply = None
        async for event in self._events():
            if isinstance(event, Answered):
                reply = event.reply
        assert reply is not None, "the event stream ends with Answered or raises"
        return {
            "id": f"chatcmpl-{self.request.request_id}",
            "object": "chat.completion",
            "created": self.created,
            "model": self.asked.model,
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": choice.text, "refusal": None},
                    "logprobs": None,
                    "finish_reason": choice.finish_reason,
                }
                for index, choice in enumerate(reply.choices)
            ],
            "usage": usage(reply),
            "fusion": self._report(reply),
        }

    async def chunks(self, keep_alive_seconds: float) -> AsyncGenerator[bytes]:
        """The answer as server-sent events: the first at once, comments while there is nothing else to send, errors
        as an event.
        """
        yield self._chunk([_delta({"role": "assistant", "content": ""})])
        try:
            async with aclosing(sse.with_pauses(self._rendered(), keep_alive_seconds)) as pieces:
                async for piece in pieces:
                    yield sse.comment(self._waits.latest or sse.AT_WORK) if piece is None else piece
        except LocalFusionError as error:
            yield sse.data(error_body(error))
        except Exception as error:
            logger.exception("request %s failed", self.request.request_id)
            yield sse.data(error_body(defect(error, self.request.request_id)))
        yield sse.DONE

    async def _rendered(self) -> AsyncGenerator[bytes]:
        """What the client is to see of the events."""
        want_usage = self.asked.stream_options is not None and self.asked.stream_options.include_usage
        with_events = self.asked.events()
        async with aclosing(self._events()) as happening:
            async for event in happening:
                match event:
                    case TextDelta():
                        yield self._chunk([_delta({"content": event.text}, index=event.index)])
                    case Answered(reply):
                        last = [
                            _delta({}, index=index, finish_reason=choice.finish_reason)
                            for index, choice in enumerate(reply.choices)
                        ]
                        yield self._chunk(last, fusion=self._report(reply))
                        if want_usage:
                            yield self._chunk([], usage=usage(reply))
                    case CallEnded():
                        pass  # counted in usage
                    case _ if with_events:
                        yield self._chunk([], fusion={"event": events.to_json(event)})

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return sse.data(
            {
                "id": f"chatcmpl-{self.request.request_id}",
                "object": "chat.completion.chunk",
                "created": self.created,
                "model": self.asked.model,
                "choices": choices,
                **more,
            }
        )

    def _report(self, reply: Reply) -> dict[str, Any]:
        """The `fusion` object: always who failed and whether the panel was partial; the rest where asked for."""
        report = reply.report
        if report is None:
            return {"trace_id": self.request.request_id, "strategy": None, "failed": [], "partial": False}
        told: dict[str, Any] = {
            "trace_id": report.trace_id,
            "strategy": report.strategy,
            "failed": [asdict(failure) for failure in report.failed],
            "partial": report.partial,
            "notes": list(report.notes),
            "trims": [asdict(trim) for trim in report.trims],
            "seconds": round(report.seconds, 3),
        }
        include = self.asked.include()
        if "candidates" in include:
            told["candidates"] = [asdict(candidate) for candidate in report.candidates]
        if "verdict" in include:
            told["verdict"] = asdict(report.verdict) if report.verdict else None
        if "trace" in include:
            told["trace"] = self.trace
        return told


def _delta(delta: dict[str, Any], *, index: int = 0, finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def usage(reply: Reply) -> dict[str, Any]:
    """OpenAI's usage: the honest total over all calls, and under `fusion` each call's share of it."""
    total = reply.usage
    return {
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.completion_tokens,
        "total_tokens": total.total_tokens,
        "fusion": {
            "calls": [
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
        },
    }
