"""The Responses request: every field is honoured, or rejected with 400 and its name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator

from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.sampling import Sampling
from local_fusion.errors import RequestError
from local_fusion.server.bodies import priority_of
from local_fusion.server.fields import Part, by_type, checked
from local_fusion.server.openai.responses.tools import Tool, checked_tools, chosen
from local_fusion.server.openrouter.schema import OpenRouterFields
from local_fusion.server.options import Options

_NOT_HERE = {
    "access_programs": "nothing here is open to some and closed to others by such programs",
    "background": "answers are not made in the background: ask with stream: true and keep the connection open",
    "background_options": "answers are not made in the background",
    "context_management": "conversations are not compacted: send those items that are to be read",
    "conversation": "there are no conversations: go on from a response with previous_response_id",
    "image": "images are not compressed",
    "moderation": "nothing is moderated",
    "prompt": "there are no stored prompts: send it as input and instructions",
}
# What may be asked for although it is never anything else: images of stored input are always shown, and thoughts are
# not read back (see `items`), so there is nothing for a client to carry over in encrypted form.
_INCLUDABLE = ("message.input_image.image_url", "reasoning.encrypted_content")
_NOT_INCLUDED = {"message.output_text.logprobs": "log-probabilities are answered by engines, at /v1/chat/completions"}


class Reasoning(Part):
    """How long to think, and whether to tell it."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    # Nobody sums thoughts up here: they are told as they are, which is what "detailed" comes closest to.
    summary: Literal["auto", "detailed"] | None = None
    generate_summary: Literal["auto", "detailed"] | None = None  # its former name
    context: Literal["auto", "current_turn"] | None = None  # of thoughts of former turns none are read, see `items`
    mode: Literal["standard"] | None = None


class TextFormat(Part):
    """The shape of the answer's text."""

    type: Literal["text", "json_object"]


class JsonSchema(Part):
    """A JSON schema to which the text is held."""

    type: Literal["json_schema"]
    name: str = Field(min_length=1)
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None

    def to_chat(self) -> dict[str, Any]:
        """The format in the shape of chat completions."""
        told = {"description": self.description, "strict": self.strict}
        named = {"name": self.name, "schema": self.schema_}
        return {
            "type": "json_schema",
            "json_schema": named | {name: value for name, value in told.items() if value is not None},
        }


class Text(Part):
    """How the answer's text is to be."""

    format: dict[str, Any] | None = None
    verbosity: Literal["medium"] | None = None  # which changes nothing; models here know no others


class _StreamOptions(Part):
    include_obfuscation: Literal[False] | None = None  # nothing is padded: nobody between reads local traffic


class ResponsesRequest(Sampling, OpenRouterFields):
    """What a client may ask. Sampling options that OpenAI does not have here, `seed` for one, are taken, too.

    Fields that cannot be honoured are listed with the one value that changes nothing, because clients send it.
    """

    model: str
    input: str | list[Any]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    include: list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    # Of tools that OpenAI runs. Nothing does here, so that any limit is kept; functions are called by the client.
    max_tool_calls: int | None = Field(None, ge=1)
    text: Text | None = None
    reasoning: Reasoning | None = None
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        None, max_length=16
    )
    user: str | None = None
    service_tier: str | None = None
    fusion: dict[str, Any] = Field({})

    # Hints to OpenAI's own cloud with no effect on the answer.
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None

    top_logprobs: Literal[0] | None = None
    truncation: Annotated[str, StringConstraints(max_length=32)] | None = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list) and len(value) > 4:
            raise ValueError("at most 4 stops")
        return value

    @cached_property
    def checked_tools(self) -> list[Tool]:
        """The tools, checked once however often they are told.

        Raises `RequestError`.
        """
        return checked_tools(self.tools)

    @cached_property
    def text_format(self) -> TextFormat | JsonSchema:
        """The shape that the answer's text is to have."""
        given = self.text.format if self.text is not None else None
        if given is None:
            return TextFormat(type="text")
        kinds: dict[str, type[Part]] = {"text": TextFormat, "json_object": TextFormat, "json_schema": JsonSchema}
        found = by_type(kinds, given, "text.format", {})
        assert isinstance(found, TextFormat | JsonSchema)
        return found

    @property
    def summary(self) -> str | None:
        """Whether thoughts are told as a summary: some clients show nothing else of them."""
        return (self.reasoning.summary or self.reasoning.generate_summary) if self.reasoning is not None else None

    def options(self) -> Options:
        """What the `fusion` object says.

        Raises `RequestError`.
        """
        return Options.of(self.fusion, stream=bool(self.stream))

    def to_request(self, messages: tuple[Message, ...], request_id: str) -> ChatRequest:
        """The request as every `ChatModel` understands it, over a conversation that is put together already."""
        sampling = Sampling.of(self)
        if self.max_output_tokens is not None:
            sampling = sampling.with_fields(max_tokens=self.max_output_tokens)
        tools, choice = chosen(self.checked_tools, self.tool_choice)
        shape = self.text_format
        plain = None if shape.type == "text" else {"type": shape.type}
        return ChatRequest(
            messages=messages,
            sampling=sampling,
            response_format=shape.to_chat() if isinstance(shape, JsonSchema) else plain,
            tools=tuple(tool.to_chat() for tool in tools),
            tool_choice=choice,
            parallel_tool_calls=self.parallel_tool_calls if tools else None,
            reasoning_effort=self.reasoning.effort if self.reasoning is not None else None,
            request_id=request_id,
            priority=priority_of(self.service_tier),
        )


def parse_responses(body: Mapping[str, Any]) -> ResponsesRequest:
    """The checked request; its input is still to be read (`items.read_items`).

    Raises `RequestError` with `param` for the first field that is unknown or has a bad value.
    """
    for name, reason in _NOT_HERE.items():
        if body.get(name) not in (None, False):
            raise RequestError(f"'{name}' is not taken: {reason}", param=name)
    if body.get("max_tokens") is not None:
        raise RequestError("'max_tokens' is called 'max_output_tokens' here", param="max_tokens")
    request = checked(ResponsesRequest, {name: value for name, value in body.items() if name not in _NOT_HERE})
    check_include(request.include or [])
    if request.truncation not in (None, "disabled"):
        raise RequestError(
            f"'truncation' is disabled here, not {request.truncation!r}: what does not fit the context is an error",
            param="truncation",
            hint="send fewer items",
        )
    if request.stream_options is not None and not request.stream:
        raise RequestError("stream_options needs stream: true", param="stream_options")
    request.options()
    request.to_request((), "")  # tools, formats and tiers are checked as they are read
    return request


def check_include(parts: list[str]) -> None:
    """Raises `RequestError` for what a response never includes here."""
    for number, part in enumerate(parts):
        if part not in _INCLUDABLE:
            reason = _NOT_INCLUDED.get(part, f"there is no such thing here; what there is: {', '.join(_INCLUDABLE)}")
            path = f"include[{number}]"
            raise RequestError(f"'{path}' is {part[:80]!r}: {reason}", param=path)
