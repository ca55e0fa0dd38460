"""Asking a model for JSON of a known shape, and never taking anything else for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from local_fusion.config.base import Reference
from local_fusion.core.chat import ChatRequest
from local_fusion.core.model import Choice
from local_fusion.core.records import Failure, Stage
from local_fusion.errors import EngineRejected
from local_fusion.fusion.calls import consult
from local_fusion.fusion.session import Session

Shape = TypeVar("Shape", bound=BaseModel)


def text(most: int, least: int = 0) -> dict[str, Any]:
    """The schema of a text of `least` to `most` characters: bounds keep a weak model from going on for ever."""
    return {"type": "string", "minLength": least, "maxLength": most}


def items(of: Mapping[str, Any], most: int, least: int = 0) -> dict[str, Any]:
    """The schema of a list of `least` to `most` such things."""
    return {"type": "array", "minItems": least, "maxItems": most, "items": of}


def fields(**properties: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an object with exactly these fields, written in this order."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def response_format(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's `response_format` for a schema."""
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}


def read(shape: type[Shape], choice: Choice, who: str, *, partly: bool = False) -> Shape:
    """The answer as a `shape`; `partly`: of one cut by its token limit all that is whole.

    Raises `EngineRejected` for anything else.
    """
    cut = partly and choice.finish_reason == "length"
    try:
        return shape.model_validate(from_json(choice.text, allow_partial=cut))
    except (ValueError, ValidationError) as error:
        raise EngineRejected(
            f"{who} did not answer in the JSON that was asked for ({str(error).splitlines()[0]})",
            hint="use a model whose engine supports structured outputs"
            + (", and raise its max_tokens" if choice.finish_reason == "length" else ""),
        ) from None


async def consult_for(
    shape: type[Shape],
    session: Session,
    stage: Stage,
    whom: Reference,
    request: ChatRequest,
    *,
    label: str = "",
    partly: bool = False,
) -> Shape:
    """What `whom` answers, as a `shape`. Raises as `calls.consult` and `read` do; each is kept as a failure."""
    choice = await consult(session, stage, whom, request, label=label)
    told = label or whom.model
    try:
        found = read(shape, choice, told, partly=partly)
    except EngineRejected as error:
        session.fail(Failure(stage, told, whom.model, error.code, error.message, error.hint))
        raise
    if choice.finish_reason == "length":
        session.note(f"{told} was cut short by its token limit; what it had written until then is used")
    return found
