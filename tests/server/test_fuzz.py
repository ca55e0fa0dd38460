"""Bodies that no client should send, on every path that takes one: each answer is an error of the caller's, in the
shape of its dialect, or right; never a defect of ours.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.scripted import Scripted
from tests.server.controlled import Asking, Exchange, asking_over

ONE: dict[str, Any] = {"strategy": "single", "panel": ["a"]}
QUESTION = [{"role": "user", "content": "Hi"}]
# A sound request to each path; `model` is a fusion where one can answer.
SOUND: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "one", "messages": QUESTION},
    "/v1/responses": {"model": "one", "input": "Hi", "store": False},
    "/v1/responses/input_tokens": {"model": "a", "input": "Hi"},
    "/v1/messages": {"model": "one", "max_tokens": 9, "messages": QUESTION},
    "/v1/messages/count_tokens": {"model": "a", "messages": QUESTION},
    # Fusions do not answer these, and the body is read before anybody can say so.
    "/v1/completions": {"model": "one", "prompt": "Hi"},
    "/v1/embeddings": {"model": "one", "input": "Hi"},
}
PATHS = pytest.mark.parametrize("path", SOUND)
ANSWERING = pytest.mark.parametrize(
    "path", [path for path in SOUND if path not in ("/v1/completions", "/v1/embeddings")]
)
SPEAKING = pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
LARGE = 1024**2


def server(text: str = "Hello.") -> Asking:
    return asking_over(Scripted("a", [text]), server={"max_body_bytes": LARGE}, one=ONE)


def refused(path: str, answer: Exchange, status: int = 400) -> dict[str, Any]:
    """The error, which is the caller's fault and in the path's dialect."""
    body = answer.json()
    assert (answer.status, body["error"]["fault"]) == (status, "caller"), body
    assert answer.headers["content-type"] == "application/json"
    if path.startswith("/v1/messages"):
        assert (body["type"], body["request_id"]) == ("error", answer.headers["request-id"])
    else:
        assert answer.headers["x-request-id"]
        assert body.keys() == {"error"}
    told: dict[str, Any] = body["error"]
    return told


def right_or_refused(path: str, answer: Exchange) -> None:
    if answer.status != 200:
        assert 400 <= answer.status < 500, answer.text
        refused(path, answer, answer.status)


@ANSWERING
async def test_what_is_varied_here_is_sound(path: str) -> None:
    assert (await server().post(path, SOUND[path])).status == 200


NOT_JSON: dict[str, bytes] = {
    "nothing": b"",
    "half": b'{"model": "one", ',
    "not UTF-8": b'{"model": "\xff"}',
    "UTF-16": '{"model": "one"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"model": "one"}',
    "a list": b"[]",
    "a text": b'"model"',
    "null": b"null",
    "NaN": b'{"model": "one", "temperature": NaN}',
    "Infinity": b'{"model": "one", "temperature": -Infinity}',
    "a number beyond all floats": b'{"model": "one", "temperature": 1e999}',
    "an integer of 5000 digits": b'{"model": "one", "seed": ' + b"9" * 5000 + b"}",
    "half of a surrogate pair": b'{"model": "one", "user": "\\ud800"}',
    "half of a pair in a field's name": b'{"model": "one", "\\udfff": 1}',
    "nested too deeply": b'{"model": "one", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested too deeply in objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "two texts": b'{"model": "one"}{"model": "one"}',
    "a NUL after the end": b'{"model": "one"}\x00',
}


@PATHS
@pytest.mark.parametrize("kind", NOT_JSON)
async def test_what_is_no_json_object_is_refused(path: str, kind: str) -> None:
    assert refused(path, await server().post(path, NOT_JSON[kind]))["message"]


@PATHS
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, identity"])
async def test_a_compressed_body_is_refused(path: str, encoding: str) -> None:
    packed = gzip.compress(json.dumps(SOUND[path]).encode())
    told = refused(path, await server().post(path, packed, {"Content-Encoding": encoding}))
    assert "compressed" in told["message"]


@PATHS
@pytest.mark.parametrize("headers", [{}, {"Content-Length": str(10**9)}, {"Content-Length": "9" * 5000}])
async def test_a_body_that_is_too_large_is_refused(path: str, headers: dict[str, str]) -> None:
    body = json.dumps({**SOUND[path], "user": "x" * LARGE}).encode()
    refused(path, await server().post(path, body, headers), 413)


@ANSWERING
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/json; charset=x"])
async def test_the_content_type_is_not_looked_at(path: str, kind: str) -> None:
    body = json.dumps(SOUND[path]).encode()
    assert (await server().post(path, body, {"Content-Type": kind})).status == 200


@ANSWERING
async def test_of_a_field_that_is_there_twice_the_last_counts(path: str) -> None:
    twice = b'{"model": "nobody", ' + json.dumps(SOUND[path]).encode()[1:]
    assert (await server().post(path, twice)).status == 200


@PATHS
@pytest.mark.parametrize("model", [None, "", 7, [], {}, ["one"], True], ids=repr)
async def test_a_name_that_is_none_is_named(path: str, model: Any) -> None:
    told = refused(path, await server().post(path, {**SOUND[path], "model": model}))
    assert told["param"] == "model"


@PATHS
@pytest.mark.parametrize(
    "model", ["nobody", "\x00", "one\n", "../one", "x" * 100_000, "\u2028", "💥", "%s{0}"], ids=ascii
)
async def test_an_unknown_name_is_not_found_and_not_repeated_at_length(path: str, model: str) -> None:
    told = refused(path, await server().post(path, {**SOUND[path], "model": model}), 404)
    assert len(told["message"]) < 1000


# What ends lines for some readers of streams and not for others, and what some writers of JSON cannot write.
TEXTS = [
    "a\rb",
    "a\r\nb",
    "a\n\nb",
    "data: [DONE]\n\n",
    "a\u2028b\u2029c",
    "a\x00b",
    "a\x85b\x1ec",
    "💥\ufeff",
    "\x7f\x1b[0m",
]


@SPEAKING
@pytest.mark.parametrize("text", TEXTS, ids=ascii)
async def test_no_text_breaks_a_stream(path: str, text: str) -> None:
    answer = await server(text).post(path, {**SOUND[path], "stream": True})
    assert answer.status == 200
    events = [json.loads(data) for data in data_of(answer.text) if data != "[DONE]"]
    assert "".join(map(DELTAS[path], events)) == text


def data_of(stream: str) -> list[str]:
    """What a strict reader finds in a stream: lines end with CR, LF or both, and nothing else ends one."""
    lines = stream.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert lines[-2:] == ["", ""]
    assert all(line == "" or line.startswith((":", "data: ", "event: ")) for line in lines)
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def _of_chat(event: dict[str, Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


def _of_responses(event: dict[str, Any]) -> str:
    return str(event["delta"]) if event["type"] == "response.output_text.delta" else ""


def _of_messages(event: dict[str, Any]) -> str:
    return str(event["delta"].get("text", "")) if event["type"] == "content_block_delta" else ""


DELTAS: dict[str, Callable[[dict[str, Any]], str]] = {
    "/v1/chat/completions": _of_chat,
    "/v1/responses": _of_responses,
    "/v1/messages": _of_messages,
}


@SPEAKING
@pytest.mark.parametrize("text", TEXTS, ids=ascii)
async def test_every_text_is_taken(path: str, text: str) -> None:
    body = json.loads(json.dumps(SOUND[path]))
    if path == "/v1/responses":
        body["input"] = text
    else:
        body["messages"][0]["content"] = text
    asking = server()
    assert (await asking.post(path, body)).status == 200


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KNOWN = ["type", "role", "content", "text", "id", "name", "function", "tools", "input", "image_url", "source", "effort"]
ODD = (
    VALUES
    | st.dictionaries(st.sampled_from(KNOWN), VALUES, max_size=4)
    | st.lists(st.dictionaries(st.sampled_from(KNOWN), VALUES, max_size=4), max_size=3)
)
FIELDS = [
    *(
        "messages",
        "input",
        "system",
        "tools",
        "tool_choice",
        "response_format",
        "output_config",
        "thinking",
        "reasoning",
    ),
    *("text", "fusion", "stop", "stop_sequences", "metadata", "stream_options", "plugins", "include", "user"),
    *(
        "n",
        "seed",
        "max_tokens",
        "temperature",
        "previous_response_id",
        "service_tier",
        "prompt",
        "context_management",
        "store",
    ),
]


@PATHS
@settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(changes=st.dictionaries(st.sampled_from(FIELDS), ODD, min_size=1, max_size=2))
async def test_odd_values_are_refused_or_taken(path: str, changes: dict[str, Any]) -> None:
    body = json.dumps({**SOUND[path], **changes}).encode("utf-8", "surrogatepass")
    right_or_refused(path, await server().post(path, body))


@pytest.mark.parametrize("kind", NOT_JSON)
async def test_what_is_no_message_is_refused_by_mcp(kind: str) -> None:
    asking = server()
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    async with asking.app.router.lifespan_context(asking.app):
        answer = await asking.post("/mcp", NOT_JSON[kind], headers)
    assert 400 <= answer.status < 500, answer.text
