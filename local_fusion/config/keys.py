"""Which keys are valid where, read from the schema itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from local_fusion.config.problems import KeyPath
from local_fusion.config.schema import Config


@cache
def _schema() -> dict[str, Any]:
    return Config.model_json_schema()


def strategies() -> tuple[str, ...]:
    """The names of all strategies."""
    return tuple(_values(_schema()["properties"]["fusions"])["discriminator"]["mapping"])


def fusion_keys(strategy: str) -> tuple[str, ...]:
    """The keys that a fusion of this strategy may have."""
    return valid_keys(("fusions", "any"), {"fusions": {"any": {"strategy": strategy}}})


def valid_keys(path: KeyPath, data: Any) -> tuple[str, ...]:
    """The keys that the mapping at `path` may have; `data`, the whole document, tells each fusion's strategy."""
    schemas = [_schema()]
    for step in path:
        data = _item(data, step)
        schemas = [found for schema in schemas for found in _below(schema, step, data)]
    return tuple(dict.fromkeys(key for schema in schemas for key in schema.get("properties", {})))


def _item(data: Any, step: str | int) -> Any:
    if isinstance(data, Mapping):
        return data.get(step)
    if isinstance(data, list) and isinstance(step, int) and step < len(data):
        return data[step]
    return None


def _below(schema: dict[str, Any], step: str | int, data: Any) -> Iterator[dict[str, Any]]:
    if isinstance(step, int):
        found = schema.get("items", {})
    else:
        found = schema.get("properties", {}).get(step) or _values(schema)
    yield from _alternatives(found, data)


def _values(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of the values of a mapping with free names."""
    named = schema.get("patternProperties", {}).values()
    for schema_of_values in (*named, schema.get("additionalProperties")):
        if isinstance(schema_of_values, dict):
            return schema_of_values
    return {}


def _alternatives(schema: dict[str, Any], data: Any) -> Iterator[dict[str, Any]]:
    if "discriminator" in schema:
        strategy = data.get("strategy") if isinstance(data, Mapping) else None
        reference = schema["discriminator"]["mapping"].get(strategy) if isinstance(strategy, str) else None
        if reference is not None:
            yield from _alternatives({"$ref": reference}, data)
    elif "$ref" in schema:
        yield _schema()["$defs"][schema["$ref"].rpartition("/")[2]]
    else:
        yield schema
        for choice in schema.get("anyOf", ()):
            yield from _alternatives(choice, data)
