"""Messages of chat completions: what a client may send in each, and what that is to every `ChatModel`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from local_fusion.core.chat import Image, Message, ToolCall
from local_fusion.errors import RequestError
from local_fusion.server.fields import Part


class _ImageUrl(Part):
    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ContentPart(Part):
    """A text, an image, or an assistant's refusal: a text, too."""

    type: Literal["text", "image_url", "refusal"]
    text: str | None = None
    image_url: _ImageUrl | None = None
    refusal: str | None = None
    # Hints to the caches of OpenAI's and Anthropic's clouds, with no effect on the answer.
    prompt_cache_breakpoint: dict[str, Any] | None = None
    cache_control: dict[str, Any] | None = None

    def to_part(self) -> str | Image:
        """The text or the image, once `check` has found that it is there."""
        if self.image_url is not None:
            detail = self.image_url.detail
            return Image(self.image_url.url, None if detail == "auto" else detail)
        return self.text or self.refusal or ""

    def check(self, path: str) -> None:
        """Raises `RequestError` unless there is exactly what `type` says."""
        if getattr(self, self.type) is None:
            raise RequestError(f"'{path}.{self.type}' is missing", param=f"{path}.{self.type}")
        for name in ("text", "image_url", "refusal"):
            if name != self.type and getattr(self, name) is not None:
                raise RequestError(f"'{path}.{name}' is for parts of type '{name}'", param=f"{path}.{name}")


class _Called(Part):
    name: str
    arguments: str
    parsed_arguments: Any = None  # the same once more: the official client's helpers leave it in what is sent back


class _ToolCall(Part):
    id: str
    type: Literal["function"] = "function"
    function: _Called
    index: int | None = None  # left over where a client has put the call together from a stream

    def to_call(self) -> ToolCall:
        return ToolCall(self.id, self.function.name, self.function.arguments)


class ChatMessage(Part):
    """One message."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    # What our own answers carry, so that a client may send them back as they came. What was thought is left out: it was
    # one member's, and would reach the others as if it were theirs. `reasoning_details` are OpenRouter's.
    reasoning: str | None = None
    reasoning_content: str | None = None
    reasoning_details: list[Any] | None = None
    refusal: str | None = None
    annotations: list[Any] | None = Field(None, max_length=0)
    audio: None = None
    function_call: None = None
    parsed: Any = None  # the content once more, see `_Called`
    cache_control: dict[str, Any] | None = None  # a hint to Anthropic's cache, by way of OpenRouter

    def to_message(self) -> Message:
        """The message as every `ChatModel` understands it."""
        calls = tuple(call.to_call() for call in self.tool_calls or ())
        if not isinstance(self.content, list):
            return Message(self.role, self.content or self.refusal or "", self.name, calls, self.tool_call_id)
        parts = tuple(part.to_part() for part in self.content)
        text = "\n".join(part for part in parts if isinstance(part, str))
        seen = parts if len(parts) > 0 and any(isinstance(part, Image) for part in parts) else ()
        return Message(self.role, text, self.name, calls, self.tool_call_id, seen)

    def images(self, path: str) -> Iterator[tuple[str, str]]:
        """The address of each image, and the field that has it."""
        for number, part in enumerate(self.content if isinstance(self.content, list) else ()):
            if part.image_url is not None:
                yield part.image_url.url, f"{path}.content[{number}].image_url.url"

    def check(self, path: str) -> None:
        """Raises `RequestError` where parts that are well by themselves do not go together.

        Results of calls that are not in the conversation pass, as they do with vLLM: clients that shorten their history
        leave such behind.
        """
        for name, role in _BELONGS_TO.items():
            if getattr(self, name) is not None and self.role != role:
                raise RequestError(f"'{path}.{name}' is for messages of role '{role}'", param=f"{path}.{name}")
        if self.content is None and self.role != "assistant":
            raise RequestError(f"'{path}.content' is missing", param=f"{path}.content")
        if self.role == "tool" and self.tool_call_id is None:
            param = f"{path}.tool_call_id"
            raise RequestError(f"'{param}' is missing: which call does this result answer?", param=param)
        for number, part in enumerate(self.content if isinstance(self.content, list) else ()):
            part.check(where := f"{path}.content[{number}]")
            allowed = _PARTS.get(part.type)
            if allowed is not None and self.role not in allowed:
                told = " and ".join(f"'{role}'" for role in allowed)
                raise RequestError(f"'{where}': {part.type} is for messages of role {told}", param=where)


_ASSISTANTS = ("tool_calls", "reasoning", "reasoning_content", "reasoning_details", "refusal")
_BELONGS_TO = {"tool_call_id": "tool", **dict.fromkeys(_ASSISTANTS, "assistant")}
_PARTS = {"image_url": ("user", "tool"), "refusal": ("assistant",)}
