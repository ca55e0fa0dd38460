"""Items as the messages of a conversation, and errors about messages as errors about items."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from local_fusion.core.chat import Image, Message, ToolCall
from local_fusion.errors import LocalFusionError, RequestError
from local_fusion.server.openai.responses.items import Item

_SYSTEM = ("system", "developer")
_NAMES = {
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "tool_choice.function.name": "tool_choice.name",
}
_MESSAGE = re.compile(r"messages\[(\d+)\](.*)")


@dataclass(slots=True)
class Conversation:
    """`messages`, and for each of them, in `origins`, the field of the request that it began with."""

    messages: list[Message] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, instructions: str | None, before: Iterable[Item], items: Sequence[Item]) -> Conversation:
        """The instructions, what was said `before` (`previous_response_id`), and the items of the input."""
        made = cls()
        if instructions:
            made._add(Message("system", instructions), "instructions")
        for item in before:
            made._take(item, "previous_response_id")
        for number, item in enumerate(items):
            made._take(item, f"input[{number}]")
        if all(message.role in _SYSTEM for message in made.messages):
            raise RequestError("'input' holds nothing to answer", param="input", hint="add a user's message")
        return made

    def in_terms_of_items(self, error: LocalFusionError) -> LocalFusionError:
        """The same error; one about a field of a chat completion names the field that it came from."""
        if isinstance(error, RequestError) and error.param is not None:
            found = _MESSAGE.fullmatch(error.param)
            if found and int(found[1]) < len(self.origins):
                error.param = self.origins[int(found[1])] + found[2]
            else:
                error.param = _NAMES.get(error.param, error.param)
        return error

    def _take(self, item: Item, origin: str) -> None:
        match item["type"]:
            case "message":
                self._add(_spoken(item), origin)
            case "function_call":
                self._call(ToolCall(item["call_id"], item["name"], item["arguments"]), origin)
            case "function_call_output":
                text, parts = _content(item["output"])
                self._add(Message("tool", text, tool_call_id=item["call_id"], parts=parts), origin)
            case _:
                # How an answer came about: thoughts were one member's, and would reach the others as if they were
                # theirs; a panel's findings have gone into the answer that follows.
                pass

    def _add(self, message: Message, origin: str) -> None:
        last = self.messages[-1] if self.messages else None
        at_the_top = last is not None and len(self.messages) == 1 and last.role in _SYSTEM
        if last is not None and at_the_top and message.role in _SYSTEM:
            # Many chat templates take one system message, or none but at the very beginning.
            self.messages[-1] = Message("system", f"{last.content}\n\n{message.content}")
            return
        self.messages.append(message)
        self.origins.append(origin)

    def _call(self, call: ToolCall, origin: str) -> None:
        """Calls of one turn stand in one message, with what was said before them."""
        last = self.messages[-1] if self.messages else None
        if last is not None and last.role == "assistant":
            self.messages[-1] = Message("assistant", last.content, tool_calls=(*last.tool_calls, call))
        else:
            self._add(Message("assistant", "", tool_calls=(call,)), origin)


def _spoken(item: Item) -> Message:
    text, parts = _content(item["content"])
    return Message(item["role"], text, parts=parts)


def _content(content: str | list[Any]) -> tuple[str, tuple[str | Image, ...]]:
    """Its text, and text and images in their order where there are images."""
    if isinstance(content, str):
        return content, ()
    parts: list[str | Image] = []
    for part in content:
        if part["type"] == "input_image":
            parts.append(Image(part["image_url"], None if part["detail"] == "auto" else part["detail"]))
        else:
            parts.append(part["refusal"] if part["type"] == "refusal" else part["text"])
    text = "\n".join(part for part in parts if isinstance(part, str))
    return text, tuple(parts) if any(isinstance(part, Image) for part in parts) else ()
