"""Every field of every dialect refuses what it cannot be, with 400 and its name; so does one that is unknown.

The table is made of the schemas that `/openapi.json` shows, which are those of the classes that check requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from local_fusion.server.openapi import document
from local_fusion.server.openapi_schemas import SCHEMAS
from tests.scripted import Scripted
from tests.server.controlled import asking_over
from tests.server.test_fuzz import ONE, SOUND

REQUESTS = {
    "ChatRequest": "/v1/chat/completions",
    "ResponsesRequest": "/v1/responses",
    "MessagesRequest": "/v1/messages",
    "CountableRequest": "/v1/messages/count_tokens",
}
# Each is refused by most fields, and none spells a number or a truth, which would be read as such.
MOST = 3  # of them for each field
WRONG: list[Any] = ["no such", -(10**9), 10**9 + 0.5, {"no_such": "field"}, [{"no_such": "field"}], ["no such"], [[]]]


def fields() -> Iterator[Any]:
    """Every field of every request with everything that its schema refuses."""
    components = document()["components"]
    for name in REQUESTS:
        for field, schema in components["schemas"][name]["properties"].items():
            if field == "model":  # of which `test_fuzz` knows
                continue
            validator = Draft202012Validator({**schema, "components": components})
            wrong = [value for value in WRONG if not validator.is_valid(value)]
            assert wrong, f"{name}.{field} takes anything"
            yield from (pytest.param(name, field, value, id=f"{name}.{field}={value!r}") for value in wrong[:MOST])


def required(name: str) -> list[str]:
    return [field for field in document()["components"]["schemas"][name]["required"] if field != "model"]


async def refusal(name: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await asking_over(Scripted("a", ["Hello."]), one=ONE).post(REQUESTS[name], body)
    told: dict[str, Any] = answer.json()
    assert answer.status == 400, told
    assert (told.get("type") == "error") == (REQUESTS[name].startswith("/v1/messages"))
    error: dict[str, Any] = told["error"]
    assert (error["type"], error["fault"]) == ("invalid_request_error", "caller")
    return error


@pytest.mark.parametrize(("name", "field", "value"), [*fields()])
async def test_a_wrong_value_is_refused_with_the_field_s_name(name: str, field: str, value: Any) -> None:
    error = await refusal(name, {**SOUND[REQUESTS[name]], field: value})
    assert error["param"].split(".")[0].split("[")[0] == field, error
    assert field in error["message"]


@pytest.mark.parametrize("name", REQUESTS)
async def test_an_unknown_field_is_refused_with_its_name(name: str) -> None:
    error = await refusal(name, {**SOUND[REQUESTS[name]], "no_such": None})
    assert error["param"] == "no_such"
    assert "no_such" in error["message"]


@pytest.mark.parametrize(("name", "field"), [(name, field) for name in REQUESTS for field in required(name)])
async def test_a_missing_field_is_named(name: str, field: str) -> None:
    body = {key: value for key, value in SOUND[REQUESTS[name]].items() if key != field}
    error = await refusal(name, body)
    assert error["param"] == field
    assert "missing" in error["message"]


def parts() -> Iterator[Any]:
    """Every field that is an object with fields of its own."""
    schemas = document()["components"]["schemas"]
    for name in REQUESTS:
        for field, schema in schemas[name]["properties"].items():
            for branch in schema.get("anyOf", [schema]):
                inner = schemas.get(branch.get("$ref", "").removeprefix(SCHEMAS), {})
                if inner.get("additionalProperties") is False and not inner.get("required"):
                    yield name, field


@pytest.mark.parametrize(("name", "field"), [*parts()])
async def test_an_unknown_field_within_a_field_is_refused_with_its_path(name: str, field: str) -> None:
    error = await refusal(name, {**SOUND[REQUESTS[name]], "stream": True, field: {"no_such": 1}})
    assert error["param"] == f"{field}.no_such"
