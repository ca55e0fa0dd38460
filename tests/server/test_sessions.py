"""Sessions: requests under `/session/ID/…` are the same requests, and what they used is told by their ID."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
from starlette.testclient import TestClient

from local_fusion.core.records import CallRecord, Usage
from local_fusion.server.context import Caller, Context
from local_fusion.server.sessions import IDLE_SECONDS, MOST, Sessions
from tests.scripted import Scripted
from tests.server.controlled import app_over, controlled, overview

ID = "a" * 22
OTHER = "b" * 32


def call(model: str = "a", read: int = 10, written: int = 5, error: str | None = None) -> CallRecord:
    return CallRecord("panel", model, Usage(read, written), 0.5, error=error)


def context(session: str | None = ID, caller: str = "") -> Context:
    return Context(caller=Caller(caller), session=session, model="quality")


def test_calls_are_added_up_by_model() -> None:
    sessions = Sessions()
    for each in (call(), call(), call("b", 1, 2, error="timeout")):
        sessions.hear(context(), each)
    told = sessions.usage(Caller(), ID)
    assert told["models"]["a"] == {
        "calls": 2,
        "failed": 0,
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "seconds": 1.0,
    }
    assert told["models"]["b"]["failed"] == 1
    assert (told["calls"], told["failed"], told["prompt_tokens"], told["completion_tokens"]) == (3, 1, 21, 12)


def test_what_belongs_to_no_session_is_counted_for_none() -> None:
    sessions = Sessions()
    sessions.hear(context(session=None), call())
    assert sessions.usage(Caller(), ID)["calls"] == 0


def test_one_callers_session_is_nothing_to_others() -> None:
    sessions = Sessions()
    sessions.hear(context(caller="anna"), call())
    assert sessions.usage(Caller("anna"), ID)["calls"] == 1
    assert sessions.usage(Caller("bert"), ID)["calls"] == 0


def test_only_so_many_are_remembered_those_heard_of_last() -> None:
    sessions = Sessions()
    for number in range(MOST + 1):
        sessions.hear(context(f"{number:022}"), call())
        sessions.hear(context(f"{0:022}"), call())
    assert sessions.usage(Caller(), f"{0:022}")["calls"] == MOST + 2
    assert sessions.usage(Caller(), f"{1:022}")["calls"] == 0
    assert sessions.usage(Caller(), f"{2:022}")["calls"] == 1


def test_a_session_is_forgotten_a_day_after_it_was_last_heard_of() -> None:
    now = 1000.0
    sessions = Sessions(lambda: now)
    sessions.hear(context(), call())
    now += IDLE_SECONDS - 1
    sessions.hear(context(), call())
    now += IDLE_SECONDS - 1
    assert sessions.usage(Caller(), ID)["calls"] == 2
    assert sessions.usage(Caller(), ID)["began"] == 1000
    now += 2
    assert sessions.usage(Caller(), ID)["calls"] == 0


def test_requests_count_once_they_have_got_to_a_model_and_are_seen_while_they_run() -> None:
    sessions = Sessions()
    sessions.begun(ID)
    sessions.begun(ID)
    assert sessions.usage(Caller(), ID)["running"] == 2
    sessions.ended(ID, context())
    sessions.ended(ID, Context(session=ID))
    told = sessions.usage(Caller(), ID)
    assert (told["running"], told["requests"]) == (0, 1)


@pytest.fixture
def client() -> Iterator[TestClient]:
    runtime = controlled(overview("a"), one={"strategy": "single", "panel": ["a"]})
    cast(Scripted, runtime.models["a"]).texts = ["Hi there."]
    with TestClient(app_over(runtime), base_url="http://127.0.0.1") as client:
        yield client


def test_a_request_in_a_session_is_answered_as_without_one_and_counted(client: TestClient) -> None:
    body = {"model": "one", "messages": [{"role": "user", "content": "Hello"}]}
    plain = client.post("/v1/chat/completions", json=body)
    within = client.post(f"/session/{ID}/v1/chat/completions", json=body)
    assert plain.status_code == within.status_code == 200
    assert plain.json()["choices"] == within.json()["choices"]
    told = client.get(f"/session/{ID}/usage").json()
    assert told["requests"] == 1
    assert told["models"]["a"]["calls"] == 1
    assert told["completion_tokens"] == within.json()["usage"]["completion_tokens"]
    assert client.get(f"/session/{OTHER}/usage").json()["requests"] == 0


def test_the_dialect_is_that_of_the_path_within(client: TestClient) -> None:
    answer = client.get(f"/session/{ID}/v1/messages")
    assert answer.json()["type"] == "error"
    assert client.get(f"/session/{ID}/v1/nothing").json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    "path",
    [
        f"/session/{ID}/admin/engines",
        f"/session/{ID}/metrics",
        f"/session/{ID}/health",
        f"/session/{ID}",
        f"/session/{ID}/v1",
        f"/session/{ID}/session/{OTHER}/v1/models",
        f"/session/{ID}//v1/models",
        "/session/short/v1/models",
        f"/session/{'a' * 65}/v1/models",
        "/session/aaaaaaaaaaaaaaaaaaaaaa.b/v1/models",
    ],
)
def test_nothing_else_is_led_anywhere(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_name_that_could_be_guessed_is_no_session(client: TestClient) -> None:
    answer = client.get("/session/mine/usage")
    assert answer.status_code == 404
    assert "random" in answer.json()["error"]["message"]
