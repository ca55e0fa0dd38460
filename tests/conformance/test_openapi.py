"""What the server says of itself in `/openapi.json` and what it does, put side by side by Schemathesis.

`LOCAL_FUSION_FUZZ=1000` looks deeper: at so many requests of each operation, others every time.
"""

from __future__ import annotations

import copy
import json
import os
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from local_fusion.server.openapi import document
from tests.conformance.conftest import Endpoint

DEEP = int(os.environ.get("LOCAL_FUSION_FUZZ", "0"))
EXAMPLES = DEEP or 20
# Administration puts the engines of the other tests to sleep, and what MCP's paths answer is the SDK's matter.
LEFT_OUT = ("/admin", "/mcp")
LOOKED_AT = ("/admin/plan", "/admin/engines", "/admin/engines/{name}")
FUSIONS = ("one", "quality")
NAMES = (*FUSIONS, "a", "b")
# A schema cannot say which fields go together, nor which names there are. And what spells a number or a truth is read
# as one, as vLLM reads it; that fields refuse what cannot be read is shown in `tests/server/test_bad_fields.py`.
EXCLUDED = ("positive_data_acceptance", "negative_data_rejection")


def operations(told: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for result in schemathesis.openapi.from_dict(told).get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]
        if not operation.path.startswith(LEFT_OUT) or operation.path in LOOKED_AT:
            found[f"{operation.method.upper()} {operation.path}"] = operation
    return found


def of_fusions() -> dict[str, Any]:
    """The document without what may be asked of engines, where nearly nothing is wrong before vLLM has seen it."""
    told = copy.deepcopy(document())
    asked = told["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]
    asked["schema"] = asked["schema"]["anyOf"][0]
    return told


OPERATIONS = {GenerationMode.POSITIVE: operations(document()), GenerationMode.NEGATIVE: operations(of_fusions())}


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def test_the_server_shows_the_document(endpoint: Endpoint) -> None:
    with urllib.request.urlopen(f"{endpoint.url}/openapi.json") as answer:
        assert json.load(answer) == json.loads(json.dumps(document()))


def ways() -> Iterator[Any]:
    """Every operation asked well, and badly where there is something that could be wrong: a body or a query."""
    for name, operation in OPERATIONS[GenerationMode.NEGATIVE].items():
        yield pytest.param(name, GenerationMode.POSITIVE, id=f"{name} well")
        if operation.body or operation.query:
            yield pytest.param(name, GenerationMode.NEGATIVE, id=f"{name} badly")


@pytest.mark.parametrize(("name", "mode"), [*ways()])
def test_every_answer_is_one_that_the_document_describes(
    endpoint: Endpoint, session: requests.Session, name: str, mode: GenerationMode
) -> None:
    operation = OPERATIONS[mode][name]
    names = FUSIONS if mode == GenerationMode.NEGATIVE else NAMES
    load_all_checks()
    excluded: list[Any] = [CHECKS.get_one(check) for check in EXCLUDED]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a failure is told as it is found: shrinking one takes hundreds of requests
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode), called=st.sampled_from(names))
    def ask(case: Case[Any], called: str) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = called
        case.call_and_validate(base_url=endpoint.url, session=session, excluded_checks=excluded)

    (ask if DEEP else seed(42)(ask))()
