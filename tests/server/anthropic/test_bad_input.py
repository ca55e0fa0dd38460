"""Every field that is malformed has a 400 that names it, in Anthropic's shape; nobody is asked anything."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.anthropic.talking import PICTURE, QUESTION, WEATHER, Talk


def user(*blocks: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(blocks)}]


def pictured(**source: Any) -> list[dict[str, Any]]:
    return user({"type": "image", "source": source})


def written(**source: Any) -> list[dict[str, Any]]:
    return user({"type": "document", "source": source})


CALL = {"type": "tool_use", "id": "t", "name": "weather", "input": {}}
HERE = "messages[0].content[0]"
TABLE: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"model": None}, "model"),
    ({"model": 7}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "Hi"}, "messages"),
    ({"messages": ["Hi"]}, "messages[0]"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "x", "name": "me"}]}, "messages[0].name"),
    ({"messages": [{"role": "system", "content": "Be brief."}]}, "messages"),
    ({"messages": [{"role": "user", "content": []}]}, "messages"),
    ({"messages": user("Hi")}, HERE),
    ({"messages": user({"text": "Hi"})}, f"{HERE}.type"),
    ({"messages": user({"type": "txt", "text": "Hi"})}, f"{HERE}.type"),
    ({"messages": user({"type": ["text"], "text": "Hi"})}, f"{HERE}.type"),
    ({"messages": user({"type": "text"})}, f"{HERE}.text"),
    ({"messages": user({"type": "text", "text": 7})}, f"{HERE}.text"),
    ({"messages": user({"type": "text", "text": "Hi", "colour": "red"})}, f"{HERE}.colour"),
    ({"messages": user(CALL)}, f"{HERE}.type"),
    ({"messages": user({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}})}, f"{HERE}.type"),
    ({"messages": user({"type": "container_upload", "file_id": "f"})}, f"{HERE}.type"),
    ({"messages": [*QUESTION, {"role": "assistant", "content": [PICTURE]}]}, "messages[1].content[0].type"),
    ({"messages": [*QUESTION, {"role": "assistant", "content": [CALL]}]}, "messages[1]"),
    (
        {"messages": [*QUESTION, {"role": "assistant", "content": [{**CALL, "input": "{}"}]}]},
        "messages[1].content[0].input",
    ),
    (
        {"messages": [*QUESTION, {"role": "assistant", "content": [{**CALL, "caller": {"type": "code"}}]}]},
        "messages[1].content[0].caller.type",
    ),
    ({"messages": [*QUESTION, {"role": "system", "content": [PICTURE]}]}, "messages[1].content[0].type"),
    ({"messages": pictured(type="base64", media_type="image/png", data="no base64!")}, f"{HERE}.source.data"),
    ({"messages": pictured(type="base64", media_type="image/bmp", data="aGk=")}, f"{HERE}.source.media_type"),
    ({"messages": pictured(type="url", url="http://169.254.169.254/")}, f"{HERE}.source.url"),
    ({"messages": pictured(type="url", url="file:///etc/passwd")}, f"{HERE}.source.url"),
    ({"messages": pictured(type="url", url="data:image/png;base64,aGk=")}, f"{HERE}.source.url"),
    ({"messages": pictured(type="file", file_id="f")}, f"{HERE}.source.type"),
    (
        {"messages": user({**PICTURE, "transformations": {"oversized_image": "error"}})},
        f"{HERE}.transformations.oversized_image",
    ),
    ({"messages": written(type="base64", media_type="application/pdf", data="aGk=")}, f"{HERE}.source.type"),
    ({"messages": written(type="url", url="https://example.org/a.pdf")}, f"{HERE}.source.type"),
    ({"messages": written(type="text", media_type="text/html", data="x")}, f"{HERE}.source.media_type"),
    ({"messages": written(type="content", content=[CALL])}, f"{HERE}.source.content[0].type"),
    (
        {
            "messages": user(
                {
                    "type": "document",
                    "source": {"type": "text", "media_type": "text/plain", "data": "x"},
                    "citations": {"enabled": True},
                }
            )
        },
        f"{HERE}.citations.enabled",
    ),
    ({"messages": user({"type": "tool_result", "content": "x"})}, f"{HERE}.tool_use_id"),
    ({"messages": user({"type": "tool_result", "tool_use_id": "t", "content": 7})}, f"{HERE}.content"),
    (
        {"messages": user({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "tool_reference"}]})},
        f"{HERE}.content[0].type",
    ),
    ({"system": 7}, "system"),
    ({"system": [PICTURE]}, "system[0].type"),
    ({"tools": {}}, "tools"),
    ({"tools": ["weather"]}, "tools[0]"),
    ({"tools": [{"name": "weather"}]}, "tools[0].input_schema"),
    ({"tools": [{**WEATHER, "name": ""}]}, "tools[0].name"),
    ({"tools": [{**WEATHER, "parameters": {}}]}, "tools[0].parameters"),
    ({"tools": [{**WEATHER, "defer_loading": True}]}, "tools[0].defer_loading"),
    ({"tools": [{**WEATHER, "allowed_callers": ["code_execution_20260120"]}]}, "tools[0].allowed_callers"),
    ({"tools": [WEATHER, {"type": "web_search_20250305", "name": "web_search"}]}, "tools[1].type"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
    ({"tools": [{"type": "frobnicate", "name": "x"}]}, "tools[0].type"),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"tool_choice": {"type": "required"}}, "tool_choice.type"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"tools": [WEATHER], "tool_choice": {"type": "auto", "name": "weather"}}, "tool_choice.name"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "wether"}}, "tool_choice.name"),
    ({"thinking": True}, "thinking"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "between_tools"}}, "thinking.type"),
    ({"thinking": {"type": "adaptive", "display": "updates"}}, "thinking.display"),
    ({"output_config": {"effort": "maximal"}}, "output_config.effort"),
    ({"output_config": {"task_budget": {"type": "tokens", "total": 9}}}, "output_config.task_budget"),
    ({"output_config": {"format": {"type": "json_object"}}}, "output_config.format.type"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    (
        {
            "output_config": {"format": {"type": "json_schema", "schema": {}}},
            "output_format": {"type": "json_schema", "schema": {}},
        },
        "output_format",
    ),
    ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management.edits[0]"),
    ({"context_management": {"edits": ["all"]}}, "context_management.edits[0]"),
    ({"temperature": 3}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"stop_sequences": "END"}, "stop_sequences"),
    ({"stop_sequences": [""]}, "stop_sequences[0]"),
    ({"metadata": {"user": "me"}}, "metadata.user"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"speed": "faster"}, "speed"),
    ({"container": "c"}, "container"),
    ({"mcp_servers": [{"type": "url", "url": "https://example.org", "name": "x"}]}, "mcp_servers"),
    ({"thread": {"type": "create"}}, "thread"),
    ({"n": 2}, "n"),
    ({"stream": "yes please"}, "stream"),
    ({"fusion": 7}, "fusion"),
    ({"fusion": {"panel": ["a"]}}, "fusion"),  # of an engine
    ({"model": "one", "fusion": {"events": True}}, "fusion.events"),
    ({"model": "one", "fusion": {"include": ["everything"]}}, "fusion.include"),
    ({"model": "one", "fusion": {"strategy": "guess"}}, "fusion.strategy"),
]


@pytest.fixture(scope="module")
def talk() -> Talk:
    return Talk()


@pytest.mark.parametrize(("wrong", "param"), TABLE, ids=[str(number) for number in range(len(TABLE))])
async def test_a_bad_field_is_named(talk: Talk, wrong: dict[str, Any], param: str) -> None:
    error = await talk.refused(**wrong)
    assert error["param"] == param, error
    assert len(error["message"]) < 600


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    "messages",
    [[{"role": "wizard"}] * 4097, user(*({"type": "tool_result", "tool_use_id": "t"} for _ in range(4097)))],
    ids=["messages", "results"],
)
async def test_a_conversation_of_too_many_messages_is_not_asked(talk: Talk, path: str, messages: Any) -> None:
    more = {"max_tokens": None} if path.endswith("count_tokens") else {}
    answer = await talk.post(path, messages=messages, **more)
    assert (answer.status, answer.json()["error"]["type"]) == (413, "request_too_large")
    assert not talk.model.requests


@pytest.mark.parametrize(
    "wrong",
    [
        {"x" * 100_000: 1},
        {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x" * 100_000}},
        {"tools": [{**WEATHER, "name": "x" * 128}] * 1000, "tool_choice": {"type": "tool", "name": "x"}},
        {"tools": [WEATHER] * 1025},
    ],
    ids=["field", "choice", "offered", "tools"],
)
async def test_errors_are_short_whatever_is_sent(talk: Talk, wrong: dict[str, Any]) -> None:
    assert len(json.dumps(await talk.refused(**wrong))) < 1000


async def test_what_is_unknown_is_told_with_the_nearest_name(talk: Talk) -> None:
    assert "did you mean 'stop_sequences'?" in (await talk.refused(stop_sequence=["x"]))["message"]


async def test_images_are_refused_by_the_field_that_holds_them_where_nobody_sees() -> None:
    talk = Talk()
    talk.model.takes_images = False
    result = {"type": "tool_result", "tool_use_id": "t", "content": [PICTURE]}
    for messages, param in (
        ([*QUESTION, *user(PICTURE)], "messages[1].content[0]"),
        ([*QUESTION, {"role": "assistant", "content": [CALL]}, *user(result)], "messages[2].content[0]"),
    ):
        for name in ("a", "one"):
            answer = await talk.post(model=name, messages=messages, tools=[WEATHER])
            assert (answer.status, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'"x"', b"\xff\xfe", b'{"model": "a", "model": }'])
async def test_a_body_that_is_no_object(talk: Talk, raw: bytes) -> None:
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        answer = await talk.client.post(path, raw)
        assert (answer.status, answer.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("turn", [[], "It is", [{"type": "text", "text": ""}]], ids=repr)
async def test_an_answer_that_was_begun_to_no_question_is_refused(talk: Talk, turn: Any) -> None:
    begun = [{"role": "system", "content": ""}, {"role": "assistant", "content": turn}]
    error = await talk.refused(messages=begun)
    assert (error["param"], "nothing to answer" in error["message"]) == ("messages", True)
