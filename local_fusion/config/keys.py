"""Where in the user's data pydantic means, and which keys are valid there: read from the schema itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from local_fusion.config.problems import KeyPath
from local_fusion.config.schema import Config
from local_fusion.config.strategies import STRATEGY_CONFIGS


@cache
def _schema() -> dict[str, Any]:
    return Config.model_json_schema()


def strategies() -> tuple[str, ...]:
    """The names of all strategies."""
    return tuple(STRATEGY_CONFIGS)


def fusion_keys(strategy: str) -> tuple[str, ...]:
    """The keys that a fusion of this strategy may have."""
    return tuple(STRATEGY_CONFIGS[strategy].model_fields)


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the user's data.

    `keys` are those that the mapping around it may have. Where that mapping is one of several kinds (a fusion by its
    `strategy`, a judge by its `kind`), `discriminator` is the key that says which, `tag` what it says, and `kinds` has
    the keys of each. `named`: here a model's name may stand.
    """

    path: KeyPath
    keys: tuple[str, ...] = ()
    named: bool = False
    discriminator: str | None = None
    tag: str | None = None
    kinds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def place_of(loc: tuple[str | int, ...], data: Any) -> Place:
    """The place that pydantic calls `loc`.

    What pydantic puts in between is left out: the tags of unions, and the index of what is short for a list of itself.
    """
    if loc and loc[-1] == "[key]":
        loc = loc[:-1]
    place, schemas = Place(()), list(_choices(_schema()))
    union, tag = dict[str, Any](), None
    for step in loc:
        unions = [schema for schema in schemas if "oneOf" in schema]
        if unions and isinstance(step, str):
            union, tag = unions[0], step
            schemas = list(_tagged(union, step))
            continue
        below = [found for schema in schemas for found in _below(schema, step)]
        if isinstance(step, str) and isinstance(data, Mapping) and (below or step in data):
            place = Place((*place.path, step), _keys(schemas), **_kinds(union, tag))
            data = data.get(step)
        elif isinstance(step, int) and isinstance(data, list):
            place = Place((*place.path, step))
            data = data[step]
        elif not below:
            continue  # the tag of a union of plain values
        schemas, union, tag = below, {}, None
    return replace(place, named=any("model" in each.get("required", ()) for each in _with_branches(schemas)))


def _kinds(union: dict[str, Any], tag: str | None) -> dict[str, Any]:
    discriminator = union.get("discriminator")
    if discriminator is None:
        return {}
    kinds = {kind: _keys(list(_choices({"$ref": ref}))) for kind, ref in discriminator["mapping"].items()}
    return {"discriminator": discriminator["propertyName"], "tag": tag, "kinds": kinds}


def _keys(schemas: list[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for schema in schemas for key in schema.get("properties", {})))


def _tagged(union: dict[str, Any], tag: str) -> Iterator[dict[str, Any]]:
    """The branch of a union: of one without names for its branches the one that needs a key called like its tag."""
    if "discriminator" in union:
        yield from _choices({"$ref": union["discriminator"]["mapping"][tag]})
    else:
        yield from (branch for branch in _with_branches([union]) if tag in branch.get("required", ()))


def _with_branches(schemas: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for schema in schemas:
        yield schema
        for branch in schema.get("oneOf", ()):
            yield from _choices(branch)


def _below(schema: dict[str, Any], step: str | int) -> Iterator[dict[str, Any]]:
    if isinstance(step, int):
        found = schema.get("items", {})
    else:
        found = schema.get("properties", {}).get(step) or _values(schema)
    if found:
        yield from _choices(found)


def _values(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of the values of a mapping with free names."""
    named = schema.get("patternProperties", {}).values()
    for schema_of_values in (*named, schema.get("additionalProperties")):
        if isinstance(schema_of_values, dict):
            return schema_of_values
    return {}


def _choices(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schemas that one stands for: what it refers to, what it may be any of."""
    if "$ref" in schema:
        yield from _choices(_schema()["$defs"][schema["$ref"].rpartition("/")[2]])
    elif "anyOf" in schema:
        for choice in schema["anyOf"]:
            yield from _choices(choice)
    else:
        yield schema
