"""Asking a model for JSON of a known shape, and never taking anything else for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from local_fusion.config.base import Reference
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate, Failure, Stage
from local_fusion.errors import EngineRejected, NotJson, NotTheSchema
from local_fusion.fusion.calls import consult_about
from local_fusion.fusion.fitting import Build
from local_fusion.fusion.session import Session

Shape = TypeVar("Shape", bound=BaseModel)


def read(shape: type[Shape], choice: Choice, who: str, *, partly: bool = False, alone: bool = False) -> Shape:
    """The answer as a `shape`; what stands around the outermost braces (a code fence, a word first) does not matter.

    `partly`: one that broke off at its token limit is read as far as it goes. `alone`: nothing may stand around it.
    Raises `NotJson` and `NotTheSchema` for anything else.
    """
    cut = choice.finish_reason == "length"
    text = choice.text
    if not alone:
        begin, end = text.find("{"), text.rfind("}") + 1
        text = text[max(begin, 0) :] if cut and partly else text[max(begin, 0) : end or len(text)]
    try:
        return shape.model_validate(from_json(text, allow_partial="trailing-strings" if cut and partly else False))
    except ValueError as error:
        kind = NotTheSchema if isinstance(error, ValidationError) else NotJson
        raise kind(
            f"{who} did not answer in the JSON that was asked for ({str(error).splitlines()[0]})",
            hint="use a model whose engine supports structured outputs" + (", and raise its max_tokens" if cut else ""),
        ) from None


async def consult_for(
    shape: type[Shape],
    session: Session,
    stage: Stage,
    whom: Reference,
    build: Build,
    shown: Sequence[Candidate],
    *,
    most: int,
    response_format: Mapping[str, Any],
    partly: bool = False,
    alone: bool = False,
) -> Shape:
    """What `whom` answers, as a `shape`. Raises as `calls.consult_about` and `read` do; each is kept as a failure."""
    choice = await consult_about(session, stage, whom, build, shown, most=most, response_format=response_format)
    try:
        found = read(shape, choice, whom.model, partly=partly, alone=alone)
    except EngineRejected as error:
        session.fail(Failure(stage, whom.model, whom.model, error.code, error.message, error.hint))
        raise
    if choice.finish_reason == "length":
        session.note(f"{whom.model} was cut short by its token limit; what it had written until then is used")
    return found
