"""A response event by event, in the order and with the numbers by which OpenAI's clients put it together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

from local_fusion.core import events
from local_fusion.core.events import Answered, CallEnded, ChoiceEnded, Event, TextDelta, origin
from local_fusion.core.model import Choice, Reply
from local_fusion.errors import LocalFusionError
from local_fusion.server import sse
from local_fusion.server.errors import error_body
from local_fusion.server.openai.responses.items import Item
from local_fusion.server.openai.responses.progress import KIND, FusionCall
from local_fusion.server.openai.responses.rendering import Rendering, status_of, text_part

Keep = Callable[[dict[str, Any]], Awaitable[None]]
"""Keeps a response, if it is to be kept; one that could not be says so."""


@dataclass(slots=True)
class _Open:
    """An item that is being written."""

    kind: Literal["message", "reasoning"]
    index: int
    id: str
    text: str = ""

    @property
    def place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index}


@dataclass(slots=True)
class ResponseStream:
    """The stream of one response. `panel` tells of the panel's work, where there is one."""

    rendering: Rendering
    keep: Keep
    panel: FusionCall | None = None
    _number: int = 0
    _output: list[Item] = field(default_factory=list)
    _open: dict[str, _Open] = field(default_factory=dict)

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Events: the first two at once, then what the client is to see, `response.completed` or `.incomplete` last.

        Raises what the model raises: `failed` tells it.
        """
        begun = self.rendering.begun()
        yield self._event("response.created", response=begun)
        yield self._event("response.in_progress", response=begun)
        if self.panel is not None and not self.panel.source:
            for piece in self._panel_begins(self.panel):
                yield piece
        with_events = self.rendering.exchange.options.events
        async with aclosing(self.rendering.exchange.events()) as happening:
            async for event in happening:
                if self.panel is not None:
                    for piece in self._told(self.panel, event):
                        yield piece
                match event:
                    case TextDelta():
                        for piece in self._written(event):
                            yield piece
                    case Answered(reply):
                        for piece in self._ending(reply.choices[0]):
                            yield piece
                        for piece in self._panel_ends(reply):
                            yield piece
                        response = self.rendering.ended(reply, self._output)
                        await self.keep(response)  # before the client can go on from it
                        yield self._event(f"response.{response['status']}", response=response)
                    case CallEnded():
                        pass  # counted in usage
                    case _ if with_events and not isinstance(origin(event)[1], ChoiceEnded):
                        yield self._event(f"{KIND}.event", event=events.to_json(event))

    def failed(self, error: LocalFusionError) -> bytes:
        """How the stream tells that it cannot go on: an error, which clients raise, and a response that failed."""
        told = error_body(error)["error"]
        told_flat = {name: told[name] for name in ("code", "message", "param")}
        kinds = {429: "rate_limit_exceeded"} | dict.fromkeys((400, 413), "invalid_prompt")
        short = {"code": kinds.get(error.status, "server_error"), "message": told["message"], "param": told["param"]}
        for item in self._open.values():  # as far as they came
            self._output[item.index] = self._item(item.kind, item.index, item.text, "incomplete")
        first = self._event("error", **told_flat, error=told)
        return first + self._event("response.failed", response=self.rendering.failed(short, self._output))

    def _panel_begins(self, panel: FusionCall) -> Iterator[bytes]:
        index = len(self._output)
        if self.rendering.result is not None:
            yield self._added(self.rendering.panel(index, None))
        yield self._event(**panel.begin(self.rendering.item_id("st_fusion", index), index))

    def _told(self, panel: FusionCall, event: Event) -> Iterator[bytes]:
        if not panel.begun and panel.concerns(event):
            yield from self._panel_begins(panel)
        for payload in panel.hear(event):
            yield self._event(**payload)

    def _panel_ends(self, reply: Reply) -> Iterator[bytes]:
        """Its result, in the place that was kept for it."""
        if self.panel is None or not self.panel.begun or self.rendering.result is None:
            return
        result = self.rendering.result(reply)
        index = self.panel.output_index
        yield self._done(index, self.rendering.panel(index, result or {"status": "error"}))

    def _written(self, delta: TextDelta) -> Iterator[bytes]:
        if delta.reasoning:
            yield from self._more("reasoning", delta.reasoning)
        if delta.text:
            yield from self._close("reasoning", "completed")
            yield from self._more("message", delta.text)

    def _ending(self, choice: Choice) -> Iterator[bytes]:
        """What has not been streamed, ends of what was, and the functions to call."""
        status = status_of(choice)
        message, thoughts = self._open.get("message"), self._open.get("reasoning")
        if choice.reasoning and message is None and thoughts is None and not self._has("reasoning"):
            yield from self._more("reasoning", choice.reasoning)
        said = message is not None or choice.text or choice.tool_calls
        yield from self._close("reasoning", "completed" if said else status)
        streamed = message.text if message is not None else ""
        if choice.text.startswith(streamed) and choice.text != streamed:
            yield from self._more("message", choice.text[len(streamed) :])
        if "message" not in self._open and not choice.tool_calls:
            yield from self._begin("message")
        yield from self._close("message", status)
        for call in choice.tool_calls:
            index = len(self._output)
            yield self._added(self.rendering.call(index, call, "in_progress"))
            place = {"item_id": self._output[index]["id"], "output_index": index}
            yield self._event("response.function_call_arguments.delta", **place, delta=call.arguments)
            done = {"name": call.name, "arguments": call.arguments}
            yield self._event("response.function_call_arguments.done", **place, **done)
            yield self._done(index, self.rendering.call(index, call, "completed"))

    def _has(self, kind: str) -> bool:
        return any(item["type"] == kind for item in self._output)

    def _more(self, kind: Literal["message", "reasoning"], text: str) -> Iterator[bytes]:
        if kind not in self._open:
            yield from self._begin(kind)
        item = self._open[kind]
        item.text += text
        if kind == "message":
            yield self._event("response.output_text.delta", **item.place, content_index=0, delta=text, logprobs=[])
        elif self._sums_up:
            yield self._event("response.reasoning_summary_text.delta", **item.place, summary_index=0, delta=text)
        else:
            yield self._event("response.reasoning_text.delta", **item.place, content_index=0, delta=text)

    def _begin(self, kind: Literal["message", "reasoning"]) -> Iterator[bytes]:
        index = len(self._output)
        yield self._added(self._item(kind, index, "", "in_progress"))
        item = self._open[kind] = _Open(kind, index, self._output[index]["id"])
        yield self._part("added", item)

    def _close(self, kind: Literal["message", "reasoning"], status: str) -> Iterator[bytes]:
        item = self._open.pop(kind, None)
        if item is None:
            return
        if kind == "message":
            done = {"content_index": 0, "text": item.text, "logprobs": []}
            yield self._event("response.output_text.done", **item.place, **done)
        elif self._sums_up:
            yield self._event("response.reasoning_summary_text.done", **item.place, summary_index=0, text=item.text)
        else:
            yield self._event("response.reasoning_text.done", **item.place, content_index=0, text=item.text)
        yield self._part("done", item)
        yield self._done(item.index, self._item(kind, item.index, item.text, status))

    def _item(self, kind: Literal["message", "reasoning"], index: int, text: str, status: str) -> Item:
        make = self.rendering.message if kind == "message" else self.rendering.reasoning
        return make(index, text, status)

    @property
    def _sums_up(self) -> bool:
        return self.rendering.asked.summary is not None

    def _part(self, what: Literal["added", "done"], item: _Open) -> bytes:
        if item.kind == "message":
            part = text_part(item.text)
            return self._event(f"response.content_part.{what}", **item.place, content_index=0, part=part)
        if self._sums_up:
            part = {"type": "summary_text", "text": item.text}
            return self._event(f"response.reasoning_summary_part.{what}", **item.place, summary_index=0, part=part)
        part = {"type": "reasoning_text", "text": item.text}
        return self._event(f"response.content_part.{what}", **item.place, content_index=0, part=part)

    def _added(self, item: Item) -> bytes:
        self._output.append(item)
        return self._event("response.output_item.added", output_index=len(self._output) - 1, item=item)

    def _done(self, index: int, item: Item) -> bytes:
        self._output[index] = item
        return self._event("response.output_item.done", output_index=index, item=item)

    def _event(self, type: str, **payload: Any) -> bytes:
        number = self._number
        self._number += 1
        return sse.event(type, {"type": type, "sequence_number": number, **payload})
