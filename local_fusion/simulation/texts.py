"""Texts that stand for what nobody writes in a simulation: as long as they should be, and different where it counts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from local_fusion.core.chat import Message

CHARACTERS = 4
"""Of a token, in English (OpenAI's rule of thumb)."""

_FRAME = 4  # tokens that a chat template puts around a message, about
_FILLER = "and so on in the same way for a while, "


def tokens_of(messages: Iterable[Message]) -> int:
    """How long a conversation is, in tokens."""
    return sum(_FRAME + tokens_in(message.content) for message in messages)


def tokens_in(text: str) -> int:
    """How long a text is, in tokens."""
    return -(-len(text) // CHARACTERS)


def text_of(tokens: int, beginning: str) -> str:
    """A text of so many tokens that starts with `beginning`."""
    length = tokens * CHARACTERS
    return (beginning + _FILLER * (1 + length // len(_FILLER)))[:length]


def answer_of(tokens: int, source: random.Random) -> str:
    """An answer of so many tokens that agrees with no other and does not repeat itself."""
    length, babble = tokens * CHARACTERS, _babble()
    start = source.randrange(len(babble))
    text = f"answer {source.randrange(10**9)}: " + babble[start : start + length]
    return (text + babble * (length // len(babble) + 1))[:length]


@cache
def _babble() -> str:
    """Words in no order, enough that what is found twice is far apart."""
    source = random.Random(0)
    return "".join("".join(source.choices("bdfgklmnprstvz", k=source.randrange(3, 9))) + " " for _ in range(40_000))


def fits(response_format: Mapping[str, Any], source: random.Random) -> str:
    """The shortest answer of OpenAI's `response_format`, as JSON; what is to be chosen in it is drawn by lot."""
    schema = response_format.get("json_schema", {}).get("schema", {})
    return json.dumps(_instance(schema, source) if schema else {})


def _instance(schema: Mapping[str, Any], source: random.Random) -> Any:
    """The least that a schema of the plain kinds allows."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return source.choice(schema["enum"])
    for choice in ("anyOf", "oneOf"):
        if schema.get(choice):
            return _instance(schema[choice][0], source)
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {name: _instance(properties.get(name, {}), source) for name in schema.get("required", ())}
        case "array":
            return [_instance(schema.get("items", {}), source) for _ in range(schema.get("minItems", 0))]
        case "string":
            return "x" * schema.get("minLength", 0)
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return source.random() < 0.5
        case _:
            return None
