"""A conversation and what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from local_fusion.core.budget import Spending
from local_fusion.core.sampling import Sampling

Role = Literal["system", "developer", "user", "assistant", "tool"]
Priority = Literal["interactive", "batch"]
"""Somebody waits for the answer, or nobody does: interactive calls come first, and only they wait at most so long."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to have a function of the client called; `arguments` is JSON, as the model wrote it."""

    id: str
    name: str
    arguments: str

    def to_openai(self) -> dict[str, Any]:
        """The call in the shape of OpenAI's chat completions."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class Image:
    """A picture in a message: a data URL, or an address where the server allows such; `detail` as OpenAI has it."""

    url: str
    detail: str | None = None

    def to_openai(self) -> dict[str, Any]:
        """The image as a content part of OpenAI's chat completions."""
        shown = {"url": self.url} if self.detail is None else {"url": self.url, "detail": self.detail}
        return {"type": "image_url", "image_url": shown}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; an assistant's may call tools, and a tool's answers such a call.

    `content` is its text. Where there are images, `parts` has text and images in their order.
    """

    role: Role
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    parts: tuple[str | Image, ...] = ()

    def to_openai(self) -> dict[str, Any]:
        """The message in the shape of OpenAI's chat completions."""
        shaped: dict[str, Any] = {"role": self.role, "content": self._content()}
        if self.name is not None:
            shaped["name"] = self.name
        if self.tool_calls:
            shaped["tool_calls"] = [call.to_openai() for call in self.tool_calls]
        if self.tool_call_id is not None:
            shaped["tool_call_id"] = self.tool_call_id
        return shaped

    def adding(self, text: str) -> Message:
        """The same with a paragraph more at its end."""
        return replace(self, content=f"{self.content}\n\n{text}", parts=(*self.parts, text) if self.parts else ())

    def saying(self, text: str) -> Message:
        """The same with another text; its images, which come first then, stay."""
        if text == self.content:
            return self
        images = tuple(part for part in self.parts if isinstance(part, Image))
        return replace(self, content=text, parts=(*images, text) if images else ())

    def without_images(self) -> Message:
        """The same as text alone, with `[image]` in place of each image."""
        if not self.parts:
            return self
        text = "\n".join("[image]" if isinstance(part, Image) else part for part in self.parts)
        return replace(self, content=text, parts=())

    def _content(self) -> str | list[dict[str, Any]]:
        if not self.parts:
            return self.content
        return [part.to_openai() if isinstance(part, Image) else {"type": "text", "text": part} for part in self.parts]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A conversation put to a `ChatModel`.

    `samples` answers are wanted (one engine request, vLLM's `n`). `response_format`, `tools`, `tool_choice` and
    `reasoning_effort` are OpenAI's. Every answer begins with `prefix`, which is not repeated in what comes back.
    `certainty` asks for `Choice.certainty`. `request_id`, `depth` (see `core/depth.py`), `priority` and `spending`
    travel with every call made on behalf of one client request. `described`: a model that takes no images may answer by
    the text alone, with `[image]` in their place. `up_to_context`: where the context has no room for
    `max_tokens`, as many are asked for as it has.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    samples: int = 1
    response_format: Mapping[str, Any] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    prefix: str = ""
    certainty: bool = False
    request_id: str = ""
    depth: int = 0
    priority: Priority = "interactive"
    described: bool = False
    up_to_context: bool = False
    spending: Spending | None = field(default=None, compare=False, repr=False)

    @property
    def image_at(self) -> str | None:
        """Where its first image is (`messages[0].content[1]`); None where there is none."""
        for index, message in enumerate(self.messages):
            for number, part in enumerate(message.parts):
                if isinstance(part, Image):
                    return f"messages[{index}].content[{number}]"
        return None

    def but(self, **changes: Any) -> ChatRequest:
        """The same request with some fields changed."""
        return replace(self, **changes)
