"""Reading what a judge has written as JSON."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from local_fusion.errors import EngineRejected

Shape = TypeVar("Shape", bound=BaseModel)


def read_as(shape: type[Shape], text: str, judge: str, *, cut: bool = False) -> Shape:
    """`text` as a `shape`: what stands around the outermost braces (a code fence, a word first) does not matter.

    `cut`: it broke off at its token limit, and is read as far as it goes.
    Raises `EngineRejected` for anything else.
    """
    begin, end = text.find("{"), text.rfind("}") + 1
    inside = text[max(begin, 0) :] if cut else text[max(begin, 0) : end or len(text)]
    try:
        return shape.model_validate(from_json(inside, allow_partial="trailing-strings" if cut else False))
    except (ValueError, ValidationError) as error:
        raise EngineRejected(
            f"the judge {judge} did not answer in the JSON asked for ({str(error).splitlines()[0]})",
            hint="use a judge whose engine supports structured outputs, and raise its max_tokens where it was cut off",
        ) from None
