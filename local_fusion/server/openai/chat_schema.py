"""The chat-completions request of a fusion: every field is honoured, or rejected with 400 and its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from local_fusion.config.server import ServerConfig
from local_fusion.core.chat import ChatRequest
from local_fusion.core.sampling import Sampling
from local_fusion.errors import RequestError
from local_fusion.server.bodies import priority_of
from local_fusion.server.fields import Part
from local_fusion.server.media import check_media_url
from local_fusion.server.openai.messages import ChatMessage, ContentPart
from local_fusion.server.openai.problems import bad_field
from local_fusion.server.openai.tools import Tool, ToolChoice, check_tools, chosen
from local_fusion.server.openrouter.schema import OpenRouterFields
from local_fusion.server.options import Options

MOST_ANSWERS = 16  # of one request: each is the work of a whole panel
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class _StreamOptions(Part):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class _ResponseFormat(Part):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


class _Reasoning(Part):
    """OpenRouter's way to say how long a model is to think, and whether to tell it."""

    effort: Effort | None = None
    exclude: bool = False
    enabled: bool | None = None
    max_tokens: None = None  # of thinking alone: its share differs from model to model of a panel
    summary: Literal["auto", "detailed"] | None = None  # thoughts are told as they are


class _Prediction(Part):
    type: Literal["content"]
    content: str | list[ContentPart]


class FusionChatRequest(Sampling, OpenRouterFields):
    """What a client may ask of a fusion.

    Fields that a fusion cannot honour are listed with the one value that changes nothing, because clients send it;
    `problems` has the reasons.
    """

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stream: bool = False
    stream_options: _StreamOptions | None = None
    response_format: _ResponseFormat | None = None
    reasoning_effort: Effort | None = None
    reasoning: _Reasoning | None = None
    include_reasoning: bool | None = None  # vLLM's and OpenRouter's older word for what `reasoning.exclude` says
    user: str | None = None
    metadata: dict[str, str] | None = None
    fusion: dict[str, Any] = Field({})
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS)
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    service_tier: str | None = None

    # Hints to OpenAI's own cloud with no effect on the answer: its caches, whom it holds responsible, and a text from
    # which it may copy to be quicker.
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    prediction: _Prediction | None = None

    modalities: list[Literal["text"]] | None = None
    verbosity: Literal["medium"] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    logit_bias: dict[str, float] | None = Field(None, max_length=0)
    store: Literal[False] | None = None
    audio: None = None
    functions: None = None
    function_call: None = None
    web_search_options: None = None
    moderation: None = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list) and len(value) > 4:
            raise ValueError("at most 4 stops")
        return value

    @property
    def effort(self) -> str | None:
        """How long to think, by whichever name that was said."""
        if self.reasoning_effort is not None or self.reasoning is None:
            return self.reasoning_effort
        return "none" if self.reasoning.enabled is False else self.reasoning.effort

    @property
    def tells_thoughts(self) -> bool:
        """Whether what was thought before the answer is to be seen in it."""
        return self.include_reasoning is not False and not (self.reasoning is not None and self.reasoning.exclude)

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with its usage."""
        asked = self.stream_options is not None and self.stream_options.include_usage
        return asked or (self.usage is not None and self.usage.include)

    def options(self) -> Options:
        """What the `fusion` object says.

        Raises `RequestError`.
        """
        return Options.of(self.fusion, stream=self.stream)

    def to_request(self, request_id: str) -> ChatRequest:
        """The request as every `ChatModel` understands it; without the tools that the server itself has."""
        sampling = Sampling.of(self)
        if self.max_completion_tokens is not None:
            sampling = sampling.with_fields(max_tokens=self.max_completion_tokens)
        shape = self.response_format
        tools, choice = chosen(self.tools or [], self.tool_choice)
        return ChatRequest(
            messages=tuple(message.to_message() for message in self.messages),
            sampling=sampling,
            samples=self.n or 1,
            response_format=shape.model_dump(exclude_none=True) if shape and shape.type != "text" else None,
            tools=tools,
            # Engines refuse to choose among no tools.
            tool_choice=choice if tools else None,
            parallel_tool_calls=self.parallel_tool_calls if tools else None,
            reasoning_effort=self.effort,
            request_id=request_id,
            priority=priority_of(self.service_tier),
        )


def parse_chat(body: Mapping[str, Any], settings: ServerConfig | None = None) -> FusionChatRequest:
    """The checked request; `settings` say from where images may come.

    Raises `RequestError` with `param` for the first field that is unknown or has a bad value.
    """
    try:
        request = FusionChatRequest.model_validate(body)
    except ValidationError as error:
        raise bad_field(FusionChatRequest, error) from None
    _check_together(request)
    request.options()
    priority_of(request.service_tier)
    for index, message in enumerate(request.messages):
        message.check(f"messages[{index}]")
        for url, param in message.images(f"messages[{index}]"):
            check_media_url(url, param, settings or ServerConfig())
    check_tools(request.tools or [], request.tool_choice)
    return request


def _check_together(request: FusionChatRequest) -> None:
    """Raises `RequestError` for fields that are well by themselves and do not go together."""
    if request.stream_options is not None and not request.stream:
        raise RequestError("stream_options needs stream: true", param="stream_options")
    if request.max_tokens is not None and request.max_completion_tokens not in (None, request.max_tokens):
        raise RequestError("max_tokens and max_completion_tokens differ: give one of them", param="max_tokens")
    shape = request.response_format
    if shape is not None and (shape.type == "json_schema") != (shape.json_schema is not None):
        told = "missing" if shape.json_schema is None else "for type 'json_schema'"
        raise RequestError(f"'response_format.json_schema' is {told}", param="response_format.json_schema")
    reasoning = request.reasoning
    if reasoning is None:
        return
    if reasoning.enabled is False and reasoning.effort not in (None, "none"):
        raise RequestError("reasoning is not enabled, and has an effort: give one", param="reasoning.effort")
    if request.reasoning_effort is not None and reasoning.effort not in (None, request.reasoning_effort):
        raise RequestError("reasoning_effort and reasoning.effort differ: give one of them", param="reasoning_effort")
