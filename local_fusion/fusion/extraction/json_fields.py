"""A field of the JSON object in an answer."""

from __future__ import annotations

import json
import re
from typing import Any

from local_fusion.fusion.extraction.spelling import NUMBER, GivenUp, canonical_number, folded

# Work spent on what looks like an object and is none, in characters read; each try counts for TRY of them at least.
MOST_WORK = 5_000_000
TRY = 1000
_BEGINNING = re.compile(r'\{\s*["}]')


class _Number(str):
    """A number as it was written: neither rounded nor limited in length."""

    __slots__ = ()


_DECODER = json.JSONDecoder(parse_int=_Number, parse_float=_Number)


def json_field(text: str, path: str) -> str | None:
    """The field `path` (`a.b`, `a.0`) of the last JSON object in `text`, spelled one way for each value.

    A string that is a number is that number; null, an empty string and a field that is not there are no answer.
    Raises `GivenUp`.
    """
    value = _last_object(text)
    for key in path.split("."):
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and len(key) < 10 and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    try:
        return None if value is None else _spelled(value)
    except RecursionError:
        raise GivenUp("the JSON is nested too deeply") from None


def _last_object(text: str) -> Any:
    """The last object that is not part of another; None where there is none."""
    last, position, work = None, 0, 0
    while (mark := _BEGINNING.search(text, position)) is not None:
        begin = mark.start()
        try:
            last, position = _DECODER.raw_decode(text, begin)
            continue
        except json.JSONDecodeError as error:
            read = error.pos - begin
        except RecursionError:
            read = len(text) - begin  # at most: where it went too deep is not told
        position = begin + 1
        work += max(read, TRY)
        if work > MOST_WORK:
            raise GivenUp("too much of it looks like JSON and is none")
    return last


def _spelled(value: Any) -> str | None:
    match value:
        case _Number():
            return canonical_number(value) or str(value)
        case bool():
            return "true" if value else "false"
        case str():
            stripped = value.strip()
            return canonical_number(stripped) if NUMBER.fullmatch(stripped) else folded(value)
        case dict() | list():
            return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False)
        case _:
            return str(value)


def _plain(value: Any) -> Any:
    """The same with every value in it spelled one way."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return None if value is None else _spelled(value)
