"""How large one request may be, in every dialect and on the way to an engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from local_fusion.config.server import ServerConfig
from local_fusion.errors import RequestError, TooLarge
from local_fusion.server.guard.bounds import bounded_body
from tests.scripted import Scripted
from tests.server.guard.guarded import CHAT, MESSAGES, Guarded, guarded

TURNS = [{"role": role, "content": "hello"} for role in ("user", "assistant", "user", "assistant", "user")]
IN_EACH_DIALECT = pytest.mark.parametrize(
    ("path", "messages", "tokens"),
    [
        ("/v1/chat/completions", "messages", "max_completion_tokens"),
        ("/v1/messages", "messages", "max_tokens"),
        ("/v1/responses", "input", "max_output_tokens"),
    ],
)


def asked(server: Guarded, model: str = "a") -> Scripted:
    scripted = server.runtime.models[model]
    assert isinstance(scripted, Scripted)
    return scripted


def body(path: str, **fields: Any) -> dict[str, Any]:
    if path == "/v1/responses":
        return {"model": "one", "input": "hello", "store": False, **fields}
    return {**(MESSAGES if path == "/v1/messages" else CHAT), **fields}


@IN_EACH_DIALECT
async def test_longer_conversations_than_are_taken_are_too_large(path: str, messages: str, tokens: str) -> None:
    server = guarded(max_messages=3)
    answer = await server.post(path, body(path, **{messages: TURNS}))
    assert answer.status == 413
    assert "5 messages, and 3 are taken" in answer.error["message"]
    assert "server.max_messages" in answer.error["message"]
    assert (await server.post(path, body(path, **{messages: TURNS[:3]}))).status == 200


@IN_EACH_DIALECT
async def test_longer_answers_than_may_be_are_not_asked_for(path: str, messages: str, tokens: str) -> None:
    server = guarded(max_tokens=100)
    answer = await server.post(path, body(path, **{tokens: 101}))
    if path == "/v1/messages":  # whose clients mean a bound: Claude Code sends 32000 whatever it asks
        assert answer.status == 200
        assert [request.sampling.max_tokens for request in asked(server).requests] == [100]
        return
    assert answer.status == 400
    assert "an answer may have 100 tokens" in answer.error["message"]
    assert "server.max_tokens" in answer.error["message"]
    assert (await server.post(path, body(path, **{tokens: 100}))).status == 200


async def test_who_names_no_number_of_tokens_gets_the_most_there_is() -> None:
    server = guarded(max_tokens=100)
    await server.post("/v1/chat/completions", CHAT)
    await server.post("/v1/chat/completions", {**CHAT, "max_tokens": 7})
    assert [request.sampling.max_tokens for request in asked(server).requests] == [100, 7]
    unlimited = guarded()
    await unlimited.post("/v1/chat/completions", CHAT)
    assert asked(unlimited).requests[0].sampling.max_tokens is None


async def test_members_of_a_requests_own_fusion_write_no_more_either() -> None:
    server = guarded(max_tokens=100)
    answer = await server.post(
        "/v1/chat/completions", {**CHAT, "fusion": {"panel": [{"model": "a", "max_tokens": 101}]}}
    )
    assert (answer.status, answer.error["param"]) == (400, "fusion.panel[0].max_tokens")


async def test_a_body_that_says_it_is_too_large_is_not_even_read() -> None:
    server = guarded(max_body_bytes=1000)
    answer = await server.post("/v1/chat/completions", b"", {"content-length": "1001"})
    assert answer.status == 413
    assert "server.max_body_bytes" in answer.error["message"]
    assert (await server.post("/v1/chat/completions", b" " * 1001)).status == 413


@pytest.mark.parametrize(
    ("raw", "headers", "says"),
    [
        (json.dumps(CHAT).encode("utf-16"), {}, "not UTF-8"),
        (b"\xff", {}, "not UTF-8"),
        (b"\x1f\x8b\x08", {"content-encoding": "gzip"}, "compressed bodies are not taken"),
        (b"[" * 100_000, {}, "not JSON"),
        (b'{"model": ' + b"9" * 5000 + b"}", {}, "not JSON"),
    ],
)
async def test_what_is_no_json_in_utf_8_is_refused(raw: bytes, headers: dict[str, str], says: str) -> None:
    answer = await guarded().post("/v1/chat/completions", raw, headers)
    assert answer.status == 400
    assert says in answer.error["message"]


def passed(given: dict[str, Any], *, writes: bool = True, **options: Any) -> dict[str, Any]:
    raw = json.dumps(given, indent=1).encode() + b" \n"
    sent = bounded_body(raw, given, ServerConfig.model_validate(options), writes=writes)
    if sent is not raw:
        assert sent.startswith(raw.rstrip()[:-1])
    told: dict[str, Any] = json.loads(sent)
    return told


def test_what_goes_to_an_engine_stays_as_it_came_where_nothing_limits_it() -> None:
    raw = b'{"model": "a"}'
    assert bounded_body(raw, {"model": "a"}, ServerConfig(), writes=True) is raw
    limited = ServerConfig(max_tokens=100)
    assert bounded_body(raw, {"model": "a", "max_tokens": 5}, limited, writes=True) is raw
    assert bounded_body(raw, {"model": "a"}, limited, writes=False) is raw


def test_a_number_of_tokens_is_put_where_there_is_none() -> None:
    for lacking in ({}, {"max_tokens": None}, {"max_completion_tokens": None}, {"nested": {"max_tokens": 5}}):
        assert passed({"model": "a", **lacking}, max_tokens=100)["max_tokens"] == 100


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("value", [101, 101.0, 10**30, "101", " 1_01 "])
def test_engines_are_asked_for_no_longer_answers_however_the_number_is_written(field: str, value: Any) -> None:
    with pytest.raises(RequestError) as refused:
        passed({"model": "a", "max_tokens": 5, field: value}, max_tokens=100)
    assert refused.value.param == field


def test_engines_are_sent_no_longer_conversations_and_no_more_prompts() -> None:
    with pytest.raises(TooLarge, match="5 messages"):
        passed({"model": "a", "messages": TURNS}, max_messages=3)
    huge = {"prompt": ["x"] * 9, "n": int("9" * 4300)}
    for many in ({"n": 9}, {"n": "9"}, {"n": 9.0}, {"prompt": ["x"] * 9}, {"prompt": ["x"] * 3, "n": 3}, huge):
        with pytest.raises(RequestError, match="one request may order 8"):
            passed({"model": "a", **many}, max_request_candidates=8)
    passed({"model": "a", "input": ["x"] * 9}, writes=False, max_request_candidates=8)


def test_what_is_malformed_is_left_to_the_engine_to_refuse() -> None:
    for most in (None, 100):
        assert passed({"model": "a", "messages": "x", "max_tokens": "many"}, max_tokens=most)["max_tokens"] == "many"


async def test_only_so_many_requests_are_worked_on_at_the_same_time() -> None:
    server = guarded(max_requests=1)
    access = server.access
    assert (await server.post("/v1/chat/completions", CHAT)).status == 200
    assert access.running == 0
    access.running = 1
    for path, there in (("/v1/chat/completions", CHAT), ("/v1/messages", MESSAGES)):
        answer = await server.post(path, there)
        assert answer.status == 429
        assert answer.header("retry-after") == "1"
        assert "server.max_requests" in answer.error["message"]
    assert (await server.get("/health")).status == 200
    assert access.running == 1
