"""The messages request: every field is honoured, or rejected with 400 and its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, StringConstraints

from local_fusion.core.chat import ChatRequest
from local_fusion.core.sampling import Sampling
from local_fusion.errors import NoThreads, RequestError
from local_fusion.server.anthropic.blocks import CheckImage
from local_fusion.server.anthropic.conversation import Conversation
from local_fusion.server.anthropic.tools import ToolChoice, checked_tools, chosen
from local_fusion.server.fields import Part, by_type, checked
from local_fusion.server.options import Options

F = TypeVar("F", bound="Countable")

Thoughts = Literal["shown", "omitted", "hidden"]
"""What becomes of what was thought: told, or only that there was something, or nothing at all.

Thoughts that nobody asked for are hidden: many clients take the first block of an answer for its text.
"""

_NOT_HERE = {
    "container": "nothing is run here",
    "mcp_servers": "the client calls MCP servers: give their tools in 'tools'",
    "compaction": "conversations are not compacted here: send the messages themselves",
    "fallbacks": "a fusion in the configuration says who answers where another fails",
}
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}


class _Display(Part):
    # Nobody sums thoughts up here: "summarized", which is how Claude's come, shows them as they are.
    display: Literal["summarized", "omitted"] | None = None


class _Enabled(_Display):
    type: Literal["enabled"]
    budget_tokens: int = Field(ge=1)


class _Adaptive(_Display):
    type: Literal["adaptive"]


class _Disabled(Part):
    type: Literal["disabled"]


_THINKING: dict[str, type[Part]] = {"enabled": _Enabled, "adaptive": _Adaptive, "disabled": _Disabled}
_THINKING_NOT_HERE = {"between_tools": "models here think before each answer or not at all"}


class _Format(Part):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class _OutputConfig(Part):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _Format | None = None


class _Edits(Part):
    edits: list[Any] | None = None


class _Metadata(Part):
    user_id: str | None = None


class Countable(Part):
    """What of a request can be counted."""

    model: str
    messages: list[Any] = Field(min_length=1)
    system: str | list[Any] | None = None
    tools: list[Any] | None = None
    tool_choice: ToolChoice | None = None
    thinking: dict[str, Any] | None = None
    output_config: _OutputConfig | None = None
    output_format: _Format | None = None  # what output_config.format was called before
    context_management: _Edits | None = None

    # Hints to Anthropic's own cloud, with no effect on the answer: its cache, where and how fast it works there, on
    # whose account, and what it is to tell about its cache. Here there is nothing to place, to hurry or to bill.
    cache_control: dict[str, Any] | None = None
    diagnostics: dict[str, Any] | None = None
    inference_geo: str | None = None
    speed: Literal["standard", "fast"] | None = None
    user_profile_id: str | None = None


class MessagesRequest(Countable):
    """What a client may ask."""

    max_tokens: int = Field(ge=1)
    stream: bool = False
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    stop_sequences: list[Annotated[str, StringConstraints(min_length=1)]] | None = Field(None, max_length=64)
    metadata: _Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None  # there is one tier, and both take it
    fusion: dict[str, Any] = Field({})

    def options(self) -> Options:
        """What the `fusion` object says.

        Raises `RequestError`.
        """
        return Options.of(self.fusion, stream=self.stream)

    def sampling(self) -> Sampling:
        """How tokens are drawn."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=self.stop_sequences or None,
            max_tokens=self.max_tokens,
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked request: its fields, the conversation, and what every `ChatModel` understands of both."""

    conversation: Conversation
    chat: ChatRequest
    thoughts: Thoughts


def parse_messages(body: Mapping[str, Any], request_id: str, check: CheckImage) -> tuple[MessagesRequest, Asked]:
    """The checked request.

    Raises `RequestError` with `param` for the first field that is unknown or has a bad value.
    """
    fields = _checked(MessagesRequest, body)
    fields.options()
    asked = _asked(fields, request_id, check)
    return fields, Asked(asked.conversation, asked.chat.but(sampling=fields.sampling()), asked.thoughts)


def parse_countable(body: Mapping[str, Any], request_id: str, check: CheckImage) -> tuple[Countable, Asked]:
    """The checked request to count.

    Raises as `parse_messages` does.
    """
    fields = _checked(Countable, body)
    return fields, _asked(fields, request_id, check)


def _checked(kind: type[F], body: Mapping[str, Any]) -> F:
    if body.get("thread"):
        raise NoThreads("'thread': conversations are not kept here", param="thread", hint="send all messages")
    for field, reason in _NOT_HERE.items():
        if body.get(field):
            raise RequestError(f"'{field}': {reason}", param=field)
    return checked(kind, {name: value for name, value in body.items() if name not in (*_NOT_HERE, "thread")})


def _asked(fields: Countable, request_id: str, check: CheckImage) -> Asked:
    conversation = Conversation(fields.system, fields.messages, check)
    tools = () if fields.tools is None else checked_tools(fields.tools)
    choice = fields.tool_choice
    effort, thoughts = _thinking(fields)
    _check_edits(fields.context_management)
    chat = ChatRequest(
        messages=conversation.messages,
        response_format=_response_format(fields),
        tools=tools,
        tool_choice=chosen(choice, tools),
        parallel_tool_calls=False if choice is not None and choice.disable_parallel_tool_use and tools else None,
        reasoning_effort=effort,
        prefix=conversation.prefix,
        request_id=request_id,
        up_to_context=True,  # `max_tokens` is a bound to Anthropic's clients: Claude Code sends 32000 whatever it asks
    )
    return Asked(conversation, chat, thoughts)


def _thinking(fields: Countable) -> tuple[str | None, Thoughts]:
    """How long to think, and what to tell of it.

    `disabled` is no effort. Else `output_config.effort` says it, and what is above `high` is `high`, the most that
    open models know. A budget without it is `low` below 4096 tokens, `medium` below 16384, and `high`.
    """
    effort = _EFFORTS.get((fields.output_config and fields.output_config.effort) or "")
    if fields.thinking is None:
        return effort, "hidden"
    match by_type(_THINKING, fields.thinking, "thinking", _THINKING_NOT_HERE):
        case _Disabled():
            return "none", "hidden"
        case _Enabled(budget_tokens=budget, display=display):
            by_budget = "low" if budget < 4096 else "medium" if budget < 16384 else "high"
            return effort or by_budget, "omitted" if display == "omitted" else "shown"
        case _Adaptive(display=display):
            return effort, "omitted" if display == "omitted" else "shown"
    raise AssertionError("the table has no other kinds")


def _response_format(fields: Countable) -> dict[str, Any] | None:
    inner = fields.output_config.format if fields.output_config is not None else None
    if inner is not None and fields.output_format is not None:
        raise RequestError("output_format and output_config.format: give one of them", param="output_format")
    shape = inner or fields.output_format
    if shape is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": shape.schema_, "strict": True}}


def _check_edits(management: _Edits | None) -> None:
    """Clearing old thoughts is what happens anyway (see `blocks`), however many are to be kept: none is read again.

    Raises `RequestError` for edits that would have to be made.
    """
    for number, edit in enumerate((management and management.edits) or ()):
        kind = edit.get("type") if isinstance(edit, Mapping) else edit
        if kind != "clear_thinking_20251015":
            field = f"context_management.edits[{number}]"
            raise RequestError(
                f"'{field}': {str(kind)[:80]!r}: conversations are read as they are sent",
                param=field,
                hint="leave it out, and let the client shorten what it sends",
            )
