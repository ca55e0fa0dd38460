"""The chat-completions request of a fusion: every field is honoured, or rejected with 400 and its name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.sampling import Sampling
from local_fusion.errors import RequestError
from local_fusion.server.bodies import priority_of

INCLUDABLE = ("candidates", "verdict", "trace")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part] | None = None
    name: str | None = None
    # What our own answers carry, so that a client may send them back as they came.
    refusal: None = None
    annotations: list[Any] | None = Field(None, max_length=0)
    audio: None = None
    function_call: None = None
    tool_calls: list[Any] | None = Field(None, max_length=0)

    def to_message(self) -> Message:
        content = self.content or ""
        text = content if isinstance(content, str) else "\n".join(part.text for part in content)
        return Message(self.role, text, self.name)


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class _ResponseFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


class FusionChatRequest(Sampling):
    """What a client may ask of a fusion.

    Fields that a fusion cannot honour are listed with the one value that changes nothing, because clients send it.
    """

    model: str
    messages: list[_Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stream: bool = False
    stream_options: _StreamOptions | None = None
    response_format: _ResponseFormat | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    fusion: dict[str, Any] = Field({})

    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    logit_bias: dict[str, float] | None = Field(None, max_length=0)
    tools: list[Any] | None = Field(None, max_length=0)
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    store: Literal[False] | None = None
    service_tier: str | None = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list) and len(value) > 4:
            raise ValueError("at most 4 stops")
        return value

    def include(self) -> frozenset[str]:
        """Which parts of the report the client wants to see."""
        wanted = self.fusion.get("include", [])
        if not isinstance(wanted, list) or any(part not in INCLUDABLE for part in wanted):
            raise RequestError(f"fusion.include takes a list of {', '.join(INCLUDABLE)}", param="fusion.include")
        return frozenset(wanted)

    def events(self) -> bool:
        """Whether panel events are to ride along in the stream."""
        wanted = self.fusion.get("events", False)
        if not isinstance(wanted, bool):
            raise RequestError("fusion.events is true or false", param="fusion.events")
        if wanted and not self.stream:
            raise RequestError("fusion.events needs stream: true", param="fusion.events")
        return wanted

    def overrides(self) -> dict[str, Any]:
        """The parts of the named fusion that this request replaces."""
        return {name: value for name, value in self.fusion.items() if name not in ("include", "events")}

    def to_request(self, request_id: str) -> ChatRequest:
        """The request as every `ChatModel` understands it."""
        sampling = Sampling.of(self)
        if self.max_completion_tokens is not None:
            sampling = sampling.with_fields(max_tokens=self.max_completion_tokens)
        shape = self.response_format
        return ChatRequest(
            messages=tuple(message.to_message() for message in self.messages),
            sampling=sampling,
            response_format=shape.model_dump(exclude_none=True) if shape and shape.type != "text" else None,
            request_id=request_id,
            priority=priority_of(self.service_tier),
        )


def parse_chat(body: Mapping[str, Any]) -> FusionChatRequest:
    """The checked request.

    Raises `RequestError` with `param` for the first field that is unknown or has a bad value.
    """
    try:
        request = FusionChatRequest.model_validate(body)
    except ValidationError as error:
        raise _bad_field(body, error) from None
    if request.stream_options is not None and not request.stream:
        raise RequestError("stream_options needs stream: true", param="stream_options")
    if request.max_tokens is not None and request.max_completion_tokens not in (None, request.max_tokens):
        raise RequestError("max_tokens and max_completion_tokens differ: give one of them", param="max_tokens")
    if str(request.fusion.get("extract", "")).startswith("regex:"):
        # A pattern can be made to run for hours, and nothing can interrupt it.
        raise RequestError("patterns are taken from the configuration only", param="fusion.extract")
    request.include()
    request.events()
    priority_of(request.service_tier)
    return request


_ELSEWHERE = {
    "tools": "tool calls",
    "tool_calls": "tool calls",
    "logprobs": "log-probabilities",
    "top_logprobs": "log-probabilities",
    "logit_bias": "logit biases",
    "n": "several answers",
}


def _bad_field(body: Mapping[str, Any], error: ValidationError) -> RequestError:
    # A union reports every branch; the deepest location is the branch that the caller meant.
    first = max(error.errors(include_url=False), key=lambda problem: len(problem["loc"]))
    unknown = first["type"] == "extra_forbidden"
    *inner, last = first["loc"] or ("",)
    location = [part for part in inner if not _is_branch(part)]
    if unknown or not _is_branch(last):
        location.append(last)
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    name = str(location[-1]) if location else ""
    if unknown:
        near = get_close_matches(name, FusionChatRequest.model_fields, 1) if len(location) == 1 else []
        meant = f"; did you mean '{near[0]}'?" if near else ""
        return RequestError(f"unknown field '{path}': a fusion does not know it{meant}", param=path)
    if first["type"] == "missing":
        return RequestError(f"'{path}' is missing", param=path)
    hint = f"{_ELSEWHERE[name]} are answered by engines: use an engine's name as model" if name in _ELSEWHERE else ""
    return RequestError(f"'{path}': {first['msg']}, got {_shown(first['input'])}", param=path, hint=hint)


def _is_branch(part: int | str) -> bool:
    """Whether a part of an error's location names a branch of a union, not a field."""
    return part == "str" or (isinstance(part, str) and part.startswith("list["))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
