"""The form of an answer in JSON, as engines that hold a model to a schema are told it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def text(most: int, least: int = 0) -> dict[str, Any]:
    """A text of `least` to `most` characters: bounds keep a weak model from going on for ever."""
    return {"type": "string", "minLength": least, "maxLength": most}


def items(of: Mapping[str, Any], most: int, least: int = 0) -> dict[str, Any]:
    """A list of `least` to `most` such things."""
    return {"type": "array", "minItems": least, "maxItems": most, "items": of}


def fields(**properties: Mapping[str, Any]) -> dict[str, Any]:
    """An object with exactly these fields, written in this order."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def response_format(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's `response_format` for a schema."""
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}
