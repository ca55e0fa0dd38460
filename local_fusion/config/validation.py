"""The border to pydantic: its errors become problems in plain words, at the key path the user wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from local_fusion.config.keys import Place, place_of, strategies
from local_fusion.config.presets import why_not
from local_fusion.config.problems import KeyPath, Problem, nearest, shown, suggestion

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping (lines of `key: value`)",
    "model_type": "a mapping (lines of `key: value`)",
    "model_attributes_type": "a mapping (lines of `key: value`)",
    "union_tag_not_found": "a mapping (lines of `key: value`)",
    "none_required": "null",
}
_NAME = "a name of letters, digits and . _ : - that starts with a letter or digit (parts may be joined by /)"
_PATTERN = "a name, in which `*` may stand for any part"


def problems_of(error: ValidationError, data: Any, *, within: KeyPath = ()) -> list[Problem]:
    """The problems that pydantic found in the part at `within` of `data`, a whole configuration."""
    details = error.errors(include_url=False)
    for each in details:
        each["loc"] = (*within, *each["loc"])
    return [_problem(place_of(each["loc"], data), each) for each in details if not _is_text_branch(each)]


def _is_text_branch(details: ErrorDetails) -> bool:
    """Whether this says that a "text or list" is no text; that it is no good list either is another error."""
    loc = details["loc"]
    return details["type"] == "string_type" and loc[-1] == "str" and loc[0] == "fusions"


def _problem(place: Place, details: ErrorDetails) -> Problem:
    path, kind, value, context = place.path, details["type"], details["input"], details.get("ctx", {})
    match kind:
        case "extra_forbidden":
            return Problem(path, _unknown_key(place))
        case "missing":
            return Problem(path, f"missing: expected {_article(path)}")
        case "union_tag_not_found" if isinstance(value, Mapping) and "preset" in value:
            return Problem((*path, "preset"), why_not(value["preset"]))
        case "union_tag_not_found" if isinstance(value, Mapping):
            told = f"missing: expected one of {', '.join(strategies())}; or name a `preset`"
            return Problem((*path, "strategy"), told)
        case "union_tag_invalid":
            key, tag = str(context["discriminator"]).strip("'"), str(context["tag"])
            tags = str(context["expected_tags"]).replace("'", "").split(", ")
            plural = {"strategy": "strategies"}.get(key, f"{key}s")
            return Problem((*path, key), f"unknown {key} '{tag}'{suggestion(tag, tags, plural=plural)}")
        case "literal_error":
            valid = str(context.get("expected", ""))
            near = nearest(value, valid.replace("'", "").replace(" or ", ", ").split(", ")) if _is_text(value) else None
            return Problem(
                path, f"expected {valid}, got {shown(value)}" + (f"; did you mean '{near}'?" if near else "")
            )
        case "string_pattern_mismatch":
            pattern = path[0] == "aliases" and details["loc"][-1] == "[key]"
            return Problem(path, f"expected {_PATTERN if pattern else _NAME}, got {shown(value)}")
        case "value_error":
            return _own_error(path, str(context.get("error", details["msg"])), value)
        case "string_too_short":
            return Problem(path, "expected a text, got an empty one")
        case "too_short" | "too_long":
            bound, count = ("least", "min_length") if kind == "too_short" else ("most", "max_length")
            entries = "1 entry" if context[count] == 1 else f"{context[count]} entries"
            return Problem(path, f"expected at {bound} {entries}, got {context.get('actual_length') or 'none'}")
        case "string_too_long":
            return Problem(path, f"expected at most {context['max_length']} characters, got {len(value)}")
        case "int_from_float":
            return Problem(path, f"expected a whole number, got {shown(value)}")
    if details["loc"][-1] == "list[str]":
        return Problem(path, f"expected text or a list of texts, got {shown(value)}")
    if place.named and kind in ("model_type", "model_attributes_type"):
        return Problem(path, f"expected the name of a model or fusion, or a mapping, got {shown(value)}")
    if kind in _EXPECTED:
        return Problem(path, f"expected {_EXPECTED[kind]}, got {shown(value)}{_way_out(kind, value)}")
    bound = details["msg"].removeprefix("Input should be ").removeprefix("Value should have ")
    bound = f"a value {bound}" if bound.startswith(("less", "greater")) else bound[:1].lower() + bound[1:]
    return Problem(path, f"expected {bound}, got {shown(value)}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _unknown_key(place: Place) -> str:
    key = str(place.path[-1])
    others = [kind for kind, keys in place.kinds.items() if key in keys]
    if key == "preset" and place.discriminator == "strategy":
        return "a preset has a strategy of its own; remove `preset` or `strategy`"
    if others and place.discriminator == "strategy":
        told = "remove it, or use a strategy that does"
        return f"strategy {place.tag} takes no '{key}'; {told}: {', '.join(others)}"
    if others:
        return f"a {place.tag} judge takes no '{key}'; kinds that do: {', '.join(others)}"
    return f"unknown key{suggestion(key, place.keys, plural='keys')}"


def _article(path: KeyPath) -> str:
    match path[-1]:
        case "models":
            return "a mapping of names to models, each with a `source`"
        case "source":
            return "a hub id such as Qwen/Qwen3-8B, a local folder or a GGUF file"
        case "panel":
            return "a list of members, each a model's or fusion's name"
        case "judge" | "model" | "muse" | "otherwise":
            return "the name of a model or fusion"
        case "reviewer":
            return "the name of a model or fusion, or a mapping with a `command`"
        case key:
            return f"a value for '{key}'"


def _own_error(path: KeyPath, message: str, value: Any) -> Problem:
    """A schema's own message; where it starts with `key: `, the problem lies at that key."""
    key, colon, rest = message.partition(": ")
    if colon and isinstance(value, Mapping) and key in value:
        return Problem((*path, key), rest)
    told = isinstance(value, (Mapping, list)) or str(value) in message
    return Problem(path, message if told else f"{message}, got {shown(value)}")


def _way_out(kind: str, value: Any) -> str:
    if kind == "string_type" and isinstance(value, (int, float)):
        return f"; write '{shown(value)}' in quotes"
    if kind in ("dict_type", "model_type") and _is_text(value) and ":" in value:
        return "; is a space missing after the colon?"
    if kind == "list_type" and _is_text(value):
        return f"; write [{value}]"
    if (
        kind in ("int_type", "float_type")
        and _is_text(value)
        and value.strip().lstrip("-").replace(".", "", 1).isdigit()
    ):
        return "; remove the quotes"
    return ""
