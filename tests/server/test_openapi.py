"""`/openapi.json` describes every route there is, and nothing else; what it refers to is there."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from starlette.routing import Route

from local_fusion.server.openapi import document
from local_fusion.server.openapi_schemas import SCHEMAS
from tests.server.controlled import app_over, asking_of, controlled, overview

# Routes whose one parameter holds several, because names of models may have slashes.
SEVERAL = {"/admin/engines/{name_and_action}": "/admin/engines/{name}/{action}"}


def app() -> FastAPI:
    return app_over(controlled(overview("a"), one={"strategy": "single", "panel": ["a"]}))


def served() -> set[tuple[str, str]]:
    """Every method of every path."""
    found = set()
    for route in app().routes:
        assert isinstance(route, Route | APIRoute)
        path = re.sub(r":\w+}", "}", route.path)
        methods = {method for method in route.methods or () if method != "HEAD"}
        found |= {(method.lower(), SEVERAL.get(path, path)) for method in methods}
    return found


def described() -> set[tuple[str, str]]:
    return {(method, path) for path, there in document()["paths"].items() for method in there if method != "parameters"}


def test_every_route_is_described_and_nothing_else() -> None:
    assert described() == served()


def test_every_reference_leads_somewhere() -> None:
    told = json.dumps(document())
    known = document()["components"]
    for kind, name in re.findall(r'"#/components/(\w+)/([^"]+)"', told):
        assert name in known[kind]


@pytest.mark.parametrize("name", document()["components"]["schemas"])
def test_every_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(document()["components"]["schemas"][name])


def valid(name: str, value: Any) -> bool:
    validator = Draft202012Validator({"$ref": SCHEMAS + name, "components": document()["components"]})
    return bool(validator.is_valid(value))


def test_requests_are_described_by_what_checks_them() -> None:
    question = [{"role": "user", "content": "Hi"}]
    assert valid("ChatRequest", {"model": "one", "messages": question, "temperature": 0.5})
    assert not valid("ChatRequest", {"model": "one", "messages": question, "temperature": 9})
    assert not valid("ChatRequest", {"model": "one", "messages": question, "tempreature": 0.5})
    assert valid("MessagesRequest", {"model": "one", "max_tokens": 9, "messages": question})
    assert not valid("MessagesRequest", {"model": "one", "messages": question})
    assert valid("ResponsesRequest", {"model": "one", "input": "Hi"})
    assert not valid("ResponsesRequest", {"model": "one", "input": 7})
    assert valid("EngineRequest", {"model": "a", "anything": "that vLLM takes"})


async def test_an_answer_and_an_error_are_as_described() -> None:
    asking = asking_of(controlled(overview("a"), one={"strategy": "single", "panel": ["a"]}))
    question = [{"role": "user", "content": "Hi"}]
    for path, answer, error, more in (
        ("/v1/chat/completions", "ChatCompletion", "Error", {"messages": question}),
        ("/v1/messages", "Message", "AnthropicError", {"messages": question, "max_tokens": 9}),
        ("/v1/responses", "Response", "Error", {"input": "Hi", "store": False}),
    ):
        assert valid(answer, (await asking.post(path, {"model": "one", **more})).json())
        assert valid(error, (await asking.post(path, {"model": "one", **more, "nonsense": 1})).json())


async def test_it_is_shown_and_says_whether_keys_are_needed() -> None:
    runtime = controlled(overview("a"))
    shown = (await asking_of(runtime).get("/openapi.json")).json()
    assert shown["openapi"].startswith("3.1")
    assert {} in shown["security"]
    assert {} not in document(keys=True)["security"]
    assert document()["paths"]["/health"]["get"]["security"] == []
