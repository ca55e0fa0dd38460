"""Chat completions by fusions: the event stream rendered in OpenAI's shape, whole or chunk by chunk."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import Any

from local_fusion.core import events
from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import Answered, CallEnded, ChoiceEnded, Event, MemberProgress, TextDelta, origin
from local_fusion.core.model import ChatModel, Choice, Reply
from local_fusion.errors import LocalFusionError
from local_fusion.server import sse
from local_fusion.server.chat_schema import FusionChatRequest
from local_fusion.server.errors import defect, error_body
from local_fusion.server.waits import Waits

logger = logging.getLogger(__name__)

_NOT_TRACED = TextDelta | ChoiceEnded | MemberProgress | Answered


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
        """The model's events, all but answers and progress also kept for the trace."""
        async with aclosing(events.stream(self.model, self.request)) as happening:
            async for event in happening:
                if self._waits.hear(event) and not isinstance(origin(event)[1], _NOT_TRACED):
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
                    "message": _message(choice),
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
        first = {"role": "assistant", "content": ""}
        yield self._chunk([_delta(first, index=index) for index in range(self.request.samples)])
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
        whole: set[int] = set()
        async with aclosing(self._events()) as happening:
            async for event in happening:
                match event:
                    case TextDelta(text, index, reasoning=reasoning):
                        if reasoning:
                            yield self._chunk([_delta({"reasoning": reasoning}, index=index)])
                        if text:
                            yield self._chunk([_delta({"content": text}, index=index)])
                    case ChoiceEnded(index):
                        whole.add(index)
                    case Answered(reply):
                        for chunk in self._ending(reply, whole):
                            yield chunk
                        if want_usage:
                            yield self._chunk([], usage=usage(reply))
                    case CallEnded():
                        pass  # counted in usage
                    case _ if with_events and not isinstance(origin(event)[1], ChoiceEnded):
                        yield self._chunk([], fusion={"event": events.to_json(event)})

    def _ending(self, reply: Reply, whole: set[int]) -> Iterator[bytes]:
        """Tool calls, one a chunk because some clients read no more of it, and why each answer ended.

        Of several answers some may have failed: those in `whole` are there.
        """
        indexes = sorted(whole) if len(whole) == len(reply.choices) else range(len(reply.choices))
        reasons = dict.fromkeys(range(self.request.samples), "error")  # vLLM's word for it
        for index, choice in zip(indexes, reply.choices, strict=True):
            reasons[index] = choice.finish_reason
            for number, call in enumerate(choice.tool_calls):
                yield self._chunk([_delta({"tool_calls": [{"index": number, **call.to_openai()}]}, index=index)])
        last = [_delta({}, index=index, finish_reason=reason) for index, reason in reasons.items()]
        yield self._chunk(last, fusion=self._report(reply))

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
        """The `fusion` object: who failed, whether the panel was partial, what was saved; the rest where asked for."""
        report = reply.report
        if report is None:
            trace_id = self.request.request_id
            return {"trace_id": trace_id, "strategy": None, "failed": [], "partial": False, "savings": []}
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
        include = self.asked.include()
        if "candidates" in include:
            told["candidates"] = [asdict(candidate) for candidate in report.candidates]
        if "verdict" in include:
            told["verdict"] = asdict(report.verdict) if report.verdict else None
        if "trace" in include:
            told["trace"] = self.trace
        return told


def _message(choice: Choice) -> dict[str, Any]:
    """A whole answer; `reasoning` is vLLM's field for what was thought before it."""
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.reasoning:
        message["reasoning"] = choice.reasoning
    if choice.tool_calls:
        message["content"] = choice.text or None
        message["tool_calls"] = [call.to_openai() for call in choice.tool_calls]
    return message


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
