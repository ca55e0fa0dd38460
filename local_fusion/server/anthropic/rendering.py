"""An exchange in Anthropic's shape: whole, or as the events of a stream."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from local_fusion.core import events
from local_fusion.core.chat import ToolCall
from local_fusion.core.events import Answered, CallEnded, ChoiceEnded, TextDelta, origin
from local_fusion.core.model import Choice, Reply
from local_fusion.errors import RequestError
from local_fusion.server import sse
from local_fusion.server.anthropic.schema import Asked, Thoughts
from local_fusion.server.exchange import Exchange, calls_of

PING = sse.event("ping", {"type": "ping"})


@dataclass(slots=True)
class Rendered:
    """The rendering of one exchange."""

    asked: Asked
    exchange: Exchange

    async def whole(self) -> dict[str, Any]:
        """The answer as one message.

        Raises what the model raises.
        """
        with self._in_the_clients_terms():
            reply = await self.exchange.reply()
        choice = reply.choices[0]
        return {
            **self._head(),
            "content": list(self._content(choice)),
            **_ending(choice),
            "usage": usage(reply),
            "fusion": self.exchange.report(reply),
        }

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The answer as server-sent events, the first at once. Panel events ride in pings, which clients skip.

        Raises what the model raises.
        """
        started = {**self._head(), "content": [], **_UNENDED, "usage": _counted(0, 0)}
        yield _event("message_start", message=started)
        blocks = _Blocks(self.asked.thoughts)
        with self._in_the_clients_terms():
            async with aclosing(self.exchange.events()) as happening:
                async for event in happening:
                    match event:
                        case TextDelta(text, reasoning=reasoning):
                            for piece in blocks.say(text, reasoning):
                                yield piece
                        case Answered(reply):
                            choice = reply.choices[0]
                            for piece in blocks.end(choice.tool_calls):
                                yield piece
                            report = self.exchange.report(reply)
                            yield _event("message_delta", delta=_ending(choice), usage=usage(reply), fusion=report)
                            yield _event("message_stop")
                        case CallEnded():
                            pass  # counted in usage
                        case _ if self.exchange.options.events and not isinstance(origin(event)[1], ChoiceEnded):
                            yield _event("ping", fusion={"event": events.to_json(event)})

    def _content(self, choice: Choice) -> Iterator[dict[str, Any]]:
        if choice.reasoning and self.asked.thoughts != "hidden":
            thinking = choice.reasoning if self.asked.thoughts == "shown" else ""
            yield {"type": "thinking", "thinking": thinking, "signature": _signature(choice.reasoning)}
        if choice.text:
            yield {"type": "text", "text": choice.text, "citations": None}
        for call in choice.tool_calls:
            yield {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call)}

    def _head(self) -> dict[str, Any]:
        return {
            "id": f"msg_{self.exchange.request.request_id}",
            "type": "message",
            "role": "assistant",
            "model": self.exchange.called,
        }

    @contextmanager
    def _in_the_clients_terms(self) -> Iterator[None]:
        try:
            yield
        except RequestError as error:
            self.asked.conversation.in_the_clients_terms(error)
            raise


@dataclass(slots=True)
class _Blocks:
    """The content blocks of a stream: one is open at a time, of thoughts or of text."""

    thoughts: Thoughts
    _index: int = -1
    _open: str | None = None
    _thought: list[str] = field(default_factory=list)

    def say(self, text: str, reasoning: str) -> Iterator[bytes]:
        """More thoughts, then more text."""
        if reasoning and self.thoughts != "hidden":
            yield from self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            self._thought.append(reasoning)
            if self.thoughts == "shown":
                yield self._delta({"type": "thinking_delta", "thinking": reasoning})
        if text:
            yield from self._begin("text", {"type": "text", "text": "", "citations": None})
            yield self._delta({"type": "text_delta", "text": text})

    def end(self, calls: tuple[ToolCall, ...]) -> Iterator[bytes]:
        """The end of what is open, and the tools that are called."""
        for call in calls:
            block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            yield from self._begin("tool_use", block)
            yield self._delta({"type": "input_json_delta", "partial_json": _as_json(_input(call))})
            yield from self._close()
        yield from self._close()

    def _begin(self, kind: str, block: dict[str, Any]) -> Iterator[bytes]:
        if self._open == kind:
            return
        yield from self._close()
        self._index, self._open = self._index + 1, kind
        yield _event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> Iterator[bytes]:
        if self._open is None:
            return
        if self._open == "thinking":
            signed = _signature("".join(self._thought))
            yield self._delta({"type": "signature_delta", "signature": signed})
            self._thought.clear()
        self._open = None
        yield _event("content_block_stop", index=self._index)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)


_UNENDED = {"stop_reason": None, "stop_sequence": None}


def _event(name: str, **more: Any) -> bytes:
    return sse.event(name, {"type": name, **more})


def _ending(choice: Choice) -> dict[str, str | None]:
    """Why the answer ended. What was cut by its limit is `max_tokens` first of all: a call in it may not be whole."""
    if choice.finish_reason == "length":
        reason = "max_tokens"
    elif choice.tool_calls:
        reason = "tool_use"
    elif choice.finish_reason == "content_filter":
        reason = "refusal"
    elif choice.stopped_by is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": choice.stopped_by}
    else:
        reason = "end_turn"
    return {"stop_reason": reason, "stop_sequence": None}


def _input(call: ToolCall) -> dict[str, Any]:
    """What a tool is called with.

    Models also write what is no object of JSON. It is told as Anthropic tells clients to send such a thing back, so
    that the tool refuses it and the model may see what it wrote.
    """
    try:
        given = json.loads(call.arguments or "{}")
        _as_json(given).encode()
    except (ValueError, RecursionError):  # no JSON, numbers or text that it cannot hold, or brackets without end
        given = None
    return given if isinstance(given, dict) else {"INVALID_JSON": call.arguments}


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _signature(thoughts: str) -> str:
    """Something for clients that keep no thoughts without one. Nobody checks it: thoughts are not read again."""
    return hashlib.blake2b(thoughts.encode(), digest_size=16).hexdigest()


def usage(reply: Reply) -> dict[str, Any]:
    """The honest total over all calls, and under `fusion` each call's share of it."""
    total = reply.usage
    return {**_counted(total.prompt_tokens, total.completion_tokens), "fusion": {"calls": calls_of(reply)}}


def _counted(read: int, written: int) -> dict[str, Any]:
    # What engines had in their caches is part of what was read: it costs less time, and nothing else.
    cached = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": read, **cached, "output_tokens": written}
