"""A conversation and what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

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
class Message:
    """One turn of a conversation, as text; an assistant's may call tools, and a tool's answers such a call."""

    role: Role
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    def to_openai(self) -> dict[str, Any]:
        """The message in the shape of OpenAI's chat completions."""
        shaped: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.name is not None:
            shaped["name"] = self.name
        if self.tool_calls:
            shaped["tool_calls"] = [call.to_openai() for call in self.tool_calls]
        if self.tool_call_id is not None:
            shaped["tool_call_id"] = self.tool_call_id
        return shaped


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A conversation put to a `ChatModel`.

    `samples` answers are wanted (one engine request, vLLM's `n`). `response_format`, `tools` and `tool_choice` are
    OpenAI's. Every answer begins with `prefix`, which is not repeated in what comes back. `certainty` asks for
    `Choice.certainty`. `request_id` and `priority` travel with every call made on behalf of one client request.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    samples: int = 1
    response_format: Mapping[str, Any] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    prefix: str = ""
    certainty: bool = False
    request_id: str = ""
    priority: Priority = "interactive"

    def but(self, **changes: Any) -> ChatRequest:
        """The same request with some fields changed."""
        return replace(self, **changes)
