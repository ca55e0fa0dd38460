"""An engine's own name in the place of an alias: in a request's bytes, of which nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from json.decoder import WHITESPACE, scanstring  # type: ignore[attr-defined]

_DECODER = json.JSONDecoder()


def renamed(raw: bytes, name: str) -> bytes:
    """The body, which is a JSON object, asking for the model `name`."""
    encoding = json.detect_encoding(raw)
    text = raw.decode(encoding, "surrogatepass")
    written, kept = json.dumps(name), 0
    parts: list[str] = []
    for begin, end in _values(text, "model"):
        parts += [text[kept:begin], written]
        kept = end
    return "".join([*parts, text[kept:]]).encode(encoding, "surrogatepass")


def _values(text: str, wanted: str) -> Iterator[tuple[int, int]]:
    """Where the values of the key `wanted` of the outermost object stand. It may be there twice: the last one counts,
    to most readers.
    """
    position = _after(text, text.index("{") + 1)
    while text[position] != "}":
        key, position = scanstring(text, position + 1, True)
        begin = _after(text, _after(text, position) + 1)  # and the colon
        _, end = _DECODER.raw_decode(text, begin)
        if key == wanted:
            yield begin, end
        position = _after(text, end)
        if text[position] == ",":
            position = _after(text, position + 1)


def _after(text: str, position: int) -> int:
    """Where white space from `position` on ends."""
    found = WHITESPACE.match(text, position)
    return position if found is None else int(found.end())
