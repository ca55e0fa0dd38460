"""The chat-completions request of a fusion: every field is honoured, or rejected with 400 and its name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from local_fusion.core.chat import ChatRequest, Message, ToolCall
from local_fusion.core.sampling import Sampling
from local_fusion.errors import RequestError
from local_fusion.server.bodies import priority_of
from local_fusion.server.options import Options

MOST_ANSWERS = 16  # of one request: each is the work of a whole panel


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class _Called(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    arguments: str
    parsed_arguments: Any = None  # the same once more: the official client's helpers leave it in what is sent back


class _ToolCall(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str
    type: Literal["function"] = "function"
    function: _Called
    index: int | None = None  # left over where a client has put the call together from a stream

    def to_call(self) -> ToolCall:
        return ToolCall(self.id, self.function.name, self.function.arguments)


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    # What our own answers carry, so that a client may send them back as they came. What was thought is left out: it was
    # one member's, and would reach the others as if it were theirs.
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: None = None
    annotations: list[Any] | None = Field(None, max_length=0)
    audio: None = None
    function_call: None = None
    parsed: Any = None  # the content once more, see `_Called`

    def to_message(self) -> Message:
        content = self.content or ""
        text = content if isinstance(content, str) else "\n".join(part.text for part in content)
        calls = tuple(call.to_call() for call in self.tool_calls or ())
        return Message(self.role, text, self.name, calls, self.tool_call_id)


class _Function(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["function"]
    function: _Function


class _FunctionName(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str


class _NamedTool(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["function"]
    function: _FunctionName


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
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS)
    tools: list[_Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | _NamedTool | None = None
    parallel_tool_calls: bool | None = None
    service_tier: str | None = None

    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    logit_bias: dict[str, float] | None = Field(None, max_length=0)
    store: Literal[False] | None = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list) and len(value) > 4:
            raise ValueError("at most 4 stops")
        return value

    def options(self) -> Options:
        """What the `fusion` object says.

        Raises `RequestError`.
        """
        return Options.of(self.fusion, stream=self.stream)

    def to_request(self, request_id: str) -> ChatRequest:
        """The request as every `ChatModel` understands it."""
        sampling = Sampling.of(self)
        if self.max_completion_tokens is not None:
            sampling = sampling.with_fields(max_tokens=self.max_completion_tokens)
        shape, choice = self.response_format, self.tool_choice
        return ChatRequest(
            messages=tuple(message.to_message() for message in self.messages),
            sampling=sampling,
            samples=self.n or 1,
            response_format=shape.model_dump(exclude_none=True) if shape and shape.type != "text" else None,
            tools=tuple(tool.model_dump(exclude_unset=True) for tool in self.tools or ()),
            # Engines refuse to choose among no tools.
            tool_choice=(choice.model_dump() if isinstance(choice, _NamedTool) else choice) if self.tools else None,
            parallel_tool_calls=self.parallel_tool_calls if self.tools else None,
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
    request.options()
    priority_of(request.service_tier)
    _check_parts(request)
    return request


_BELONGS_TO = {"tool_call_id": "tool", **dict.fromkeys(("tool_calls", "reasoning", "reasoning_content"), "assistant")}


def _check_parts(request: FusionChatRequest) -> None:
    """Raises `RequestError` where parts that are well by themselves do not go together.

    Results of calls that are not in the conversation pass, as they do with vLLM: clients that shorten their history
    leave such behind.
    """
    for index, message in enumerate(request.messages):
        for name, role in _BELONGS_TO.items():
            if getattr(message, name) is not None and message.role != role:
                param = f"messages[{index}].{name}"
                raise RequestError(f"'{param}' is for messages of role '{role}'", param=param)
        if message.content is None and message.role != "assistant":
            raise RequestError(f"'messages[{index}].content' is missing", param=f"messages[{index}].content")
        if message.role == "tool" and message.tool_call_id is None:
            param = f"messages[{index}].tool_call_id"
            raise RequestError(f"'{param}' is missing: which call does this result answer?", param=param)
    names = [tool.function.name for tool in request.tools or ()]
    if request.tool_choice == "required" and not names:
        raise RequestError("a tool is required, and there are no 'tools'", param="tool_choice")
    if isinstance(request.tool_choice, _NamedTool) and request.tool_choice.function.name not in names:
        wanted, offered = request.tool_choice.function.name, ", ".join(names) or "none"
        raise RequestError(f"no tool is called '{wanted}', there are: {offered}", param="tool_choice.function.name")


_ELSEWHERE = {
    "logprobs": "log-probabilities",
    "top_logprobs": "log-probabilities",
    "logit_bias": "logit biases",
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
    return isinstance(part, str) and (part in ("str", _NamedTool.__name__) or part.startswith(("list[", "literal[")))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
