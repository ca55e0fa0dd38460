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
class Message:
    """One turn of a conversation, as text."""

    role: Role
    content: str
    name: str | None = None

    def to_openai(self) -> dict[str, Any]:
        """The message in the shape of OpenAI's chat completions."""
        shaped: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.name is not None:
            shaped["name"] = self.name
        return shaped


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A conversation put to a `ChatModel`.

    `samples` answers are wanted (one engine request, vLLM's `n`). `response_format` is OpenAI's: it constrains the
    text of every answer. `request_id` and `priority` travel with every call made on behalf of one client request.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    samples: int = 1
    response_format: Mapping[str, Any] | None = None
    request_id: str = ""
    priority: Priority = "interactive"

    def but(self, **changes: Any) -> ChatRequest:
        """The same request with some fields changed."""
        return replace(self, **changes)
