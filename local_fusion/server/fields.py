"""Checking parts of a request one by one, so that an error names the field as the client wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from local_fusion.errors import RequestError

M = TypeVar("M", bound=BaseModel)

MOST_TOOLS = 1024  # of a request: each is read by the model, and more than a few hundred fit no context
LONGEST_SHOWN = 200  # of a path: names of fields may be as long as a request


class Part(BaseModel):
    """A part of a request; fields that it does not know are errors."""

    model_config = ConfigDict(extra="forbid")


def checked(kind: type[M], value: Any, path: str = "") -> M:
    """`value`, which stands at `path` (nothing for the whole request), as a `kind`.

    Raises `RequestError` for the first field that is unknown or has a bad value.
    """
    if not isinstance(value, Mapping):
        raise RequestError(f"'{path}' must be an object, not {shown(value)}", param=path)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _bad_field(kind, path, error) from None


def by_type(kinds: Mapping[str, type[Part]], value: Any, path: str, elsewhere: Mapping[str, str]) -> Part:
    """`value` as what its `type` says; `elsewhere` has reasons why some types that OpenAI knows are not taken.

    Raises `RequestError`.
    """
    if not isinstance(value, Mapping):
        raise RequestError(f"'{path}' must be an object, not {shown(value)}", param=path)
    found = value.get("type")
    if isinstance(found, str) and found in kinds:
        return checked(kinds[found], value, path)
    if "type" not in value:
        raise RequestError(f"'{path}.type' is missing", param=f"{path}.type")
    reason = elsewhere.get(found, "") if isinstance(found, str) else ""
    told = f": {reason}" if reason else f", which is none of {', '.join(kinds)}"
    raise RequestError(f"'{path}.type' is {shown(found)}{told}", param=f"{path}.type")


def listed(value: Any, path: str, most: int | None = None) -> list[Any]:
    """`value`, which must be a list, of at most so many.

    Raises `RequestError`.
    """
    if not isinstance(value, list):
        raise RequestError(f"'{path}' must be a list, not {shown(value)}", param=path)
    if most is not None and len(value) > most:
        raise RequestError(f"'{path}' has {len(value):,} entries, and {most:,} are taken", param=path)
    return value


def _bad_field(kind: type[BaseModel], path: str, error: ValidationError) -> RequestError:
    # A union reports every branch; the deepest location is the branch that the caller meant.
    first = max(error.errors(include_url=False), key=lambda problem: len(problem["loc"]))
    location = [part for part in first["loc"] if not _is_branch(part)]
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    path = path[:LONGEST_SHOWN]
    if first["type"] == "extra_forbidden":
        near = get_close_matches(str(location[-1])[:64], _names(kind), 1) if len(location) == 1 else []
        meant = f"; did you mean '{near[0]}'?" if near else ""
        return RequestError(f"unknown field '{path}'{meant}", param=path)
    if first["type"] == "missing":
        return RequestError(f"'{path}' is missing", param=path)
    said = str(first["msg"]).removeprefix("Value error, ")
    return RequestError(f"'{path}': {said}, got {shown(first['input'])}", param=path)


def _names(kind: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in kind.model_fields.items()]


def _is_branch(part: int | str) -> bool:
    """Whether a part of an error's location names a branch of a union, not a field."""
    return isinstance(part, str) and (part == "str" or part.startswith(("list[", "literal[")))


def shown(value: Any) -> str:
    """A bad value, as far as an error repeats it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
