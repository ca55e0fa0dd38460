"""Texts that stand for what nobody writes in a simulation: as long as they should be, and different where it counts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
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


def fits(response_format: Mapping[str, Any]) -> str:
    """The shortest answer of OpenAI's `response_format`, as JSON."""
    schema = response_format.get("json_schema", {}).get("schema", {})
    return json.dumps(_instance(schema) if schema else {})


def _instance(schema: Mapping[str, Any]) -> Any:
    """The least that a schema of the plain kinds allows."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf"):
        if schema.get(choice):
            return _instance(schema[choice][0])
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {name: _instance(properties.get(name, {})) for name in schema.get("required", ())}
        case "array":
            return [_instance(schema.get("items", {})) for _ in range(schema.get("minItems", 0))]
        case "string":
            return "x" * schema.get("minLength", 0)
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return False
        case _:
            return None
