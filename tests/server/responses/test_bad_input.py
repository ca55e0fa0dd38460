"""Every field is honoured, or rejected with 400 and its name."""

from __future__ import annotations

import json
from typing import Any, get_type_hints

import pytest
from openai.types.responses import response_create_params

from local_fusion.core.model import Choice
from local_fusion.server.openai.responses.schema import _NOT_HERE, ResponsesRequest
from tests.server.responses.panels import PATH, server

PIXEL = "data:image/png;base64,AAAA"
WEATHER = {"type": "function", "name": "weather", "parameters": {}}


def said(*parts: Any, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"input": [{"role": role, "content": list(parts), **more}]}


def item(kind: str, **more: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": "Hi"}, {"type": kind, **more}]}


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"model": None}, "model", "missing"),
    ({"input": None}, "input", "valid"),
    ({"input": []}, "input", "no items"),
    ({"input": 5}, "input", "valid"),
    ({"input": ["Hi"]}, "input[0]", "object"),
    ({"input": [{"role": "wizard", "content": "Hi"}]}, "input[0].role", "'user'"),
    ({"input": [{"role": "user"}]}, "input[0].content", "missing"),
    ({"input": [{"type": "message", "role": "user", "content": "Hi", "name": "x"}]}, "input[0].name", "unknown"),
    ({"input": [{"content": "Hi"}]}, "input[0].role", "missing"),
    ({"input": [{"role": "system", "content": "Hi"}]}, "input", "nothing to answer"),
    (said("Hi"), "input[0].content[0]", "object"),
    (said({"text": "Hi"}), "input[0].content[0].type", "missing"),
    (said({"type": "text", "text": "Hi"}), "input[0].content[0].type", "input_text"),
    (said({"type": "output_text", "text": "Hi"}), "input[0].content[0].type", "input_text"),
    (said({"type": "input_image", "image_url": PIXEL}, role="assistant"), "input[0].content[0].type", "output_text"),
    (said({"type": "input_text", "text": 5}), "input[0].content[0].text", "string"),
    (said({"type": "input_file", "file_id": "f"}), "input[0].content[0].type", "no store of files"),
    (said({"type": "input_audio"}), "input[0].content[0].type", "hear nothing"),
    (said({"type": "input_image"}), "input[0].content[0].image_url", "missing"),
    (said({"type": "input_image", "file_id": "f"}), "input[0].content[0].file_id", "None"),
    (said({"type": "input_image", "image_url": "http://10.0.0.1/x.png"}), "input[0].content[0].image_url", "data"),
    (
        said({"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": "file:///etc/passwd"}),
        "input[0].content[1].image_url",
        "data",
    ),
    (said({"type": "input_image", "image_url": PIXEL, "detail": "huge"}), "input[0].content[0].detail", "'low'"),
    (item("function_call", name="f", arguments="{}"), "input[1].call_id", "missing"),
    (item("function_call", name="f", arguments={}, call_id="1"), "input[1].arguments", "string"),
    (item("function_call_output", output="x"), "input[1].call_id", "missing"),
    (item("function_call_output", call_id="1", output=[{"type": "x"}]), "input[1].output[0].type", "input_text"),
    (item("web_search_call"), "input[1].type", "function_call"),
    (item("custom_tool_call"), "input[1].type", "only functions"),
    (item("compaction"), "input[1].type", "not compacted"),
    (item("item_reference"), "input[1].id", "missing"),
    (item("item_reference", id="msg_of_nobody"), "input[1].id", "no item"),
    ({"previous_response_id": "resp_of_nobody"}, "previous_response_id", "no response"),
    ({"instructions": 5}, "instructions", "string"),
    ({"tools": {}}, "tools", "list"),
    ({"tools": [WEATHER, {"type": "web_search"}]}, "tools[1].type", "OpenAI runs"),
    ({"tools": [{"type": "mcp", "server_url": "http://x"}]}, "tools[0].type", "OpenAI runs"),
    ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type", "JSON arguments"),
    ({"tools": [{"type": "wand"}]}, "tools[0].type", "function"),
    ({"tools": [{"type": "function"}]}, "tools[0].name", "missing"),
    ({"tools": [{**WEATHER, "function": {}}]}, "tools[0].function", "unknown"),
    ({"tools": [{**WEATHER, "defer_loading": True}]}, "tools[0].defer_loading", "False"),
    ({"tool_choice": "required"}, "tool_choice", "no 'tools'"),
    ({"tool_choice": "perhaps"}, "tool_choice", "required"),
    ({"tool_choice": {"type": "function", "name": "x"}, "tools": [WEATHER]}, "tool_choice.name", "weather"),
    ({"tool_choice": {"type": "web_search"}, "tools": [WEATHER]}, "tool_choice.type", "OpenAI runs"),
    (
        {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "x"}]}},
        "tool_choice.tools[0].name",
        "none",
    ),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type", "json_schema"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", "missing"),
    ({"text": {"verbosity": "low"}}, "text.verbosity", "'medium'"),
    ({"text": {"fromat": {}}}, "text.fromat", "unknown field"),
    ({"reasoning": {"effort": "heroic"}}, "reasoning.effort", "'high'"),
    ({"reasoning": {"summary": "concise"}}, "reasoning.summary", "'detailed'"),
    ({"reasoning": {"context": "all_turns"}}, "reasoning.context", "current_turn"),
    ({"temperature": 9}, "temperature", "less than or equal to 2"),
    ({"top_p": 0}, "top_p", "greater than 0"),
    ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
    ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
    ({"max_tokens": 5}, "max_tokens", "max_output_tokens"),
    ({"max_tool_calls": 0}, "max_tool_calls", "greater than or equal to 1"),
    ({"top_logprobs": 3}, "top_logprobs", "0"),
    ({"include": ["message.output_text.logprobs"]}, "include[0]", "engines"),
    ({"include": ["reasoning.encrypted_content", "file_search_call.results"]}, "include[1]", "no such thing"),
    ({"metadata": {"a": 1}}, "metadata.a", "string"),
    ({"metadata": {str(number): "x" for number in range(17)}}, "metadata", "16"),
    ({"metadata": {"x": "y" * 513}}, "metadata.x", "512"),
    ({"service_tier": "gold"}, "service_tier", "flex"),
    ({"truncation": "auto"}, "truncation", "fewer items"),
    ({"stream_options": {}}, "stream_options", "stream"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation", "False"),
    ({"stop": ["a"] * 5}, "stop", "4 stops"),
    ({"fusion": {"include": ["secrets"]}}, "fusion.include", "candidates"),
    ({"fusion": {"events": True}}, "fusion.events", "stream"),
    ({"fusion": {"panel": [{"model": "nobody"}]}}, "fusion.panel[0].model", "nobody"),
    ({"model": "a", "fusion": {"include": ["trace"]}}, "fusion", "engine"),
    *(({name: {"type": "x"}}, name, reason) for name, reason in _NOT_HERE.items()),
    ({"background": True}, "background", "stream: true"),
]


@pytest.mark.parametrize(("change", "param", "says"), BAD, ids=lambda value: str(value)[:60])
async def test_a_bad_field_is_named(change: dict[str, Any], param: str, says: str) -> None:
    body = {"model": "one", "input": "Hi", **change}
    answer = await server(Choice("Hello")).asking.post(PATH, body)
    assert answer.status == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["type"], error["fault"]) == (param, "invalid_request_error", "caller")
    assert says in error["message"]


async def test_no_field_of_the_official_client_is_left_undecided() -> None:
    known = get_type_hints(response_create_params.ResponseCreateParamsStreaming).keys()
    assert known - ResponsesRequest.model_fields.keys() - _NOT_HERE.keys() == set()


async def test_values_that_change_nothing_are_taken() -> None:
    harmless: dict[str, Any] = {
        **dict.fromkeys(_NOT_HERE),
        "background": False,
        "include": ["reasoning.encrypted_content", "message.input_image.image_url"],
        "max_tool_calls": 3,
        "prompt_cache_key": "k",
        "prompt_cache_options": {"mode": "implicit"},
        "prompt_cache_retention": "24h",
        "safety_identifier": "s",
        "service_tier": "auto",
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "truncation": "disabled",
        "user": "u",
        "metadata": {"a": "b"},
        "stream_options": None,
    }
    response = await server(Choice("Hello")).said("Hi", **harmless)
    told = {"max_tool_calls", "prompt_cache_key", "safety_identifier", "user", "metadata", "truncation"}
    assert {name: response[name] for name in told} == {name: harmless[name] for name in told}


async def test_what_is_asked_reaches_the_model() -> None:
    asked = server(Choice("{}"))
    schema = {"type": "object"}
    await asked.said(
        "Hi",
        model="a",
        temperature=0.5,
        top_p=0.9,
        seed=7,
        stop=["x"],
        max_output_tokens=9,
        reasoning={"effort": "high"},
        parallel_tool_calls=False,
        service_tier="flex",
        tools=[{**WEATHER, "strict": True}, {"type": "function", "name": "other"}],
        tool_choice={"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
        text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}},
    )
    request = asked.models["a"].requests[0]
    assert request.sampling.set_fields() == {
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["x"],
        "max_tokens": 9,
    }
    assert request.reasoning_effort == "high"
    assert request.parallel_tool_calls is False
    assert request.priority == "batch"
    assert request.tools == ({"type": "function", "function": {"name": "weather", "parameters": {}, "strict": True}},)
    assert request.tool_choice == "required"
    assert request.response_format == {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": schema, "strict": True},
    }
    await asked.said("Hi", model="a", tools=[WEATHER], tool_choice={"type": "function", "name": "weather"})
    assert asked.models["a"].requests[1].tool_choice == {"type": "function", "function": {"name": "weather"}}
    await asked.said("Hi", model="a", text={"format": {"type": "json_object"}}, tool_choice="none")
    assert asked.models["a"].requests[2].response_format == {"type": "json_object"}
    assert asked.models["a"].requests[2].tool_choice is None


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"x" * 100_000: 1}, "x" * 200),
        ({"metadata": {"x" * 100_000: "y"}}, f"metadata.{'x' * 191}"),
        ({"input": [{"role": "user", "content": "Hi", "x" * 100_000: 1}]}, f"input[0].{'x' * 191}"),
        ({"tools": [WEATHER] * 1025}, "tools"),
    ],
    ids=["field", "metadata", "inner", "tools"],
)
async def test_errors_are_short_whatever_is_sent(change: dict[str, Any], param: str) -> None:
    answer = await server().asking.post(PATH, {"model": "one", "input": "Hi", **change})
    assert (answer.status, answer.json()["error"]["param"]) == (400, param)
    assert len(answer.text) < 1000


@pytest.mark.parametrize("path", [PATH, f"{PATH}/input_tokens"])
async def test_a_conversation_of_too_many_messages_is_not_looked_at(path: str) -> None:
    asked = server()
    answer = await asked.asking.post(path, {"model": "one", "input": [{"role": "wizard"}] * 4097})
    assert answer.status == 413
    assert "server.max_messages" in answer.json()["error"]["message"]
    assert not asked.models["a"].requests


async def test_a_body_that_is_no_object_of_json_is_told() -> None:
    asking = server().asking
    tool = b'{"model": "one", "input": "Hi", "tools": [{"type": "function", "name": "f", "parameters": {"x": %s}}]}'
    nonsense = (tool % b"NaN", tool % b"-Infinity", tool % b"1e999", tool % (b"[" * 100_000))
    for body in (b"", b"[]", b"{", b'{"model": "one", "input": "\\ud800"}', *nonsense):
        answer = await asking.post(PATH, body)
        assert answer.status == 400
        assert json.loads(answer.text)["error"]["type"] == "invalid_request_error"


async def test_a_model_that_is_not_there_is_told_with_the_nearest_name() -> None:
    answer = await server().ask("Hi", model="qualty")
    assert answer.status == 404
    assert "'quality'" in answer.json()["error"]["message"]
