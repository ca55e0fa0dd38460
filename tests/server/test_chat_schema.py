"""What a client may send to a fusion, and how it is told what it may not."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase, CompletionCreateParamsStreaming

from local_fusion.config.server import ServerConfig
from local_fusion.core.chat import Image, Message, ToolCall
from local_fusion.core.sampling import Sampling
from local_fusion.errors import RequestError
from local_fusion.server.openai.chat_schema import FusionChatRequest, parse_chat

ASKED: dict[str, Any] = {"model": "panel", "messages": [{"role": "user", "content": "Hello"}]}
CALL: dict[str, Any] = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
WEATHER: dict[str, Any] = {"type": "function", "function": {"name": "weather"}}
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAAC"


def image(url: str) -> dict[str, Any]:
    return {
        "role": "user",
        "content": [{"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": url}}],
    }


def allowing(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def messages(*given: dict[str, Any]) -> tuple[Message, ...]:
    return parse_chat({**ASKED, "messages": list(given)}).to_request("r1").messages


def test_a_plain_request_is_what_it_says() -> None:
    request = parse_chat({**ASKED, "temperature": 0.5, "seed": 3, "max_tokens": 9}).to_request("r1")
    assert request.messages == (Message("user", "Hello"),)
    assert request.sampling == Sampling(temperature=0.5, seed=3, max_tokens=9)
    assert (request.samples, request.response_format, request.request_id) == (1, None, "r1")


def test_both_names_of_max_tokens_mean_the_same() -> None:
    for names in (["max_tokens"], ["max_completion_tokens"], ["max_tokens", "max_completion_tokens"]):
        asked = parse_chat({**ASKED, **dict.fromkeys(names, 5)})
        assert asked.to_request("r1").sampling.max_tokens == 5


def test_text_parts_become_one_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert messages({"role": "developer", "content": parts}) == (Message("developer", "one\ntwo"),)


def test_an_answer_of_ours_may_be_sent_back_as_it_came() -> None:
    ours: dict[str, Any] = {
        "role": "assistant",
        "content": "Hi",
        "refusal": None,
        "annotations": [],
        "tool_calls": [],
        "audio": None,
    }
    assert messages(ours) == (Message("assistant", "Hi"),)


def test_a_conversation_with_tool_calls_and_their_results_is_handed_on_as_it_came() -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "12 °C", "name": "weather"}
    assert messages(called, result) == (
        Message("assistant", "", tool_calls=(ToolCall("call_1", "weather", "{}"),)),
        Message("tool", "12 °C", "weather", tool_call_id="call_1"),
    )


def test_a_call_that_a_client_put_together_from_a_stream_may_keep_its_index() -> None:
    called = {"role": "assistant", "tool_calls": [{"index": 0, **CALL}]}
    assert messages(called) == (Message("assistant", "", tool_calls=(ToolCall("call_1", "weather", "{}"),)),)


def test_a_result_whose_call_was_cut_from_the_conversation_is_taken() -> None:
    assert messages({"role": "tool", "tool_call_id": "call_9", "content": "x"})[0].tool_call_id == "call_9"


@pytest.mark.parametrize(
    ("field", "thought"),
    [
        ("reasoning", "A greeting."),
        ("reasoning_content", "A greeting."),
        ("reasoning_details", [{"type": "reasoning.text", "text": "A greeting."}]),
    ],
)
def test_thoughts_sent_back_are_taken_and_reach_nobody(field: str, thought: Any) -> None:
    assert messages({"role": "assistant", "content": "Hi", field: thought}) == (Message("assistant", "Hi"),)


def test_tools_and_how_to_choose_are_handed_on_as_they_were_given() -> None:
    tool = {**WEATHER, "function": {"name": "weather", "parameters": {"type": "object"}, "strict": None}}
    named = {"type": "function", "function": {"name": "weather"}}
    for choice in ("none", "auto", "required", named, None):
        asked = {**ASKED, "tools": [tool], "tool_choice": choice, "parallel_tool_calls": False}
        request = parse_chat(asked).to_request("r1")
        assert (request.tools, request.tool_choice, request.parallel_tool_calls) == ((tool,), choice, False)


def test_as_many_answers_as_are_asked_for_are_wanted() -> None:
    assert parse_chat({**ASKED, "n": 16}).to_request("r1").samples == 16


def test_what_clients_send_out_of_habit_and_what_changes_nothing_is_taken() -> None:
    habits = {
        "n": 1,
        "logprobs": False,
        "logit_bias": {},
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "store": False,
        "user": "me",
        "metadata": {"run": "7"},
        "service_tier": "auto",
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "verbosity": "medium",
        "prediction": {"type": "content", "content": "Hello"},
        "prompt_cache_key": "k",
        "prompt_cache_options": {"mode": "explicit"},
        "prompt_cache_retention": "24h",
        "safety_identifier": "s",
        "audio": None,
        "function_call": None,
        "provider": {"order": ["somebody"], "allow_fallbacks": False},
        "route": "fallback",
        "models": [],
        "transforms": [],
        "session_id": "s",
        "trace": {"trace_id": "t"},
        "cache_control": {"type": "ephemeral"},
        "usage": {"include": True},
        "plugins": [{"id": "response-healing"}],
    }
    request = parse_chat({**ASKED, **habits}).to_request("r1")
    assert request == parse_chat(ASKED).to_request("r1")


def test_every_field_that_openai_has_is_decided_on() -> None:
    theirs = CompletionCreateParamsStreaming.__annotations__.keys() | CompletionCreateParamsBase.__annotations__.keys()
    assert theirs - FusionChatRequest.model_fields.keys() == set()


def test_images_stand_where_they_stood() -> None:
    asked = image(PIXEL)
    asked["content"] += [
        {"type": "text", "text": "it"},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
    ]
    assert messages(asked) == (Message("user", "See\nit", parts=("See", Image(PIXEL), "it", Image(PIXEL, "low"))),)
    asked["content"][1]["image_url"]["detail"] = "auto"  # which is what nothing said means
    assert messages(asked)[0].parts[1] == Image(PIXEL)


def test_images_are_fetched_from_where_the_server_allows() -> None:
    asked = {**ASKED, "messages": [image("https://pictures.example.org/x.png")]}
    with pytest.raises(RequestError, match="media_domains"):
        parse_chat(asked)
    parse_chat(asked, ServerConfig(media_domains=["pictures.example.org"]))


def test_what_was_refused_counts_as_said() -> None:
    said = Message("assistant", "I cannot.")
    assert messages({"role": "assistant", "content": None, "refusal": "I cannot."}) == (said,)
    assert messages({"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot."}]}) == (said,)


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({"reasoning_effort": "low"}, "low"),
        ({"reasoning": {"effort": "high"}}, "high"),
        ({"reasoning": {"effort": "high"}, "reasoning_effort": "high"}, "high"),
        ({"reasoning": {"enabled": False}}, "none"),
        ({"reasoning": {"enabled": True, "summary": "auto"}}, None),
        ({}, None),
    ],
)
def test_how_long_to_think_may_be_said_in_openais_way_or_in_openrouters(
    fields: dict[str, Any], effort: str | None
) -> None:
    assert parse_chat({**ASKED, **fields}).to_request("r1").reasoning_effort == effort


@pytest.mark.parametrize("fields", [{"reasoning": {"exclude": True}}, {"include_reasoning": False}])
def test_thoughts_may_be_left_out(fields: dict[str, Any]) -> None:
    assert not parse_chat({**ASKED, **fields}).tells_thoughts
    assert parse_chat(ASKED).tells_thoughts


def test_of_many_tools_a_few_may_be_allowed() -> None:
    tools = [WEATHER, {"type": "function", "function": {"name": "time"}}]
    request = parse_chat({**ASKED, "tools": tools, "tool_choice": allowing("required", "time")}).to_request("r1")
    assert (request.tools, request.tool_choice) == ((tools[1],), "required")


def test_a_tool_that_the_server_has_is_none_of_the_clients() -> None:
    asked = {**ASKED, "tools": [{"type": "openrouter:fusion"}, WEATHER], "tool_choice": {"type": "openrouter:fusion"}}
    request = parse_chat(asked).to_request("r1")
    assert (request.tools, request.tool_choice) == ((WEATHER,), None)


def test_a_response_format_is_handed_on_as_it_was_given() -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True}}
    assert parse_chat({**ASKED, "response_format": shape}).to_request("r1").response_format == shape


def test_what_is_to_be_included_and_what_is_overridden_are_told_apart() -> None:
    told = {"include": ["verdict"], "events": True, "strategy": "vote", "quorum": 2}
    asked = parse_chat({**ASKED, "stream": True, "fusion": told})
    assert asked.options().include == {"verdict"}
    assert asked.options().events is True
    assert asked.options().overrides == {"strategy": "vote", "quorum": 2}


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
        ({"messages": [{"role": "tool", "tool_call_id": "1", "content": None}]}, "messages[0].content", "missing"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "string"),
        ({"messages": [{"role": "user", "content": "x", "colour": 1}]}, "messages[0].colour", "unknown field"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", "'user'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "missing"),
        (
            {"messages": [{"role": "user", "content": "x", "tool_call_id": "1"}]},
            "messages[0].tool_call_id",
            "role 'tool'",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]},
            "messages[0].tool_calls",
            "role 'assistant'",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "reasoning": "y"}]},
            "messages[0].reasoning",
            "role 'assistant'",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text"}]}]},
            "messages[0].content[1].text",
            "missing",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}]},
            "messages[0].tool_calls[0].type",
            "functions with JSON arguments only",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "x"}}]}]},
            "messages[0].tool_calls[0].function.arguments",
            "missing",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'function'"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name", "at least 1"),
        ({"tools": [WEATHER], "tool_choice": "often"}, "tool_choice", "'required'"),
        ({"tools": [WEATHER], "tool_choice": {"type": "custom"}}, "tool_choice.type", "JSON arguments only"),
        ({"tools": [WEATHER], "tool_choice": {"type": "mcp"}}, "tool_choice.type", "'allowed_tools'"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "openrouter:fusion"}},
            "tool_choice.type",
            "no tool of type 'openrouter:fusion'",
        ),
        (
            {"tools": [WEATHER], "tool_choice": allowing("auto", "wether")},
            "tool_choice.allowed_tools.tools[0].function.name",
            "there are: weather",
        ),
        ({"tools": [WEATHER], "tool_choice": allowing("often", "weather")}, "tool_choice.allowed_tools.mode", "'auto'"),
        ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools", "missing"),
        ({"tools": [{**WEATHER, "parameters": {}}]}, "tools[0].parameters", "not for tools of type 'function'"),
        ({"tools": [{"type": "openrouter:web_search"}]}, "tools[0].type", "searches the web"),
        ({"messages": [image("ftp://example.org/x.png")]}, "messages[0].content[1].image_url.url", "data URLs only"),
        ({"messages": [{**image(PIXEL), "role": "system"}]}, "messages[0].content[1]", "'user' and 'tool'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "image_url": {"url": PIXEL}}]}]},
            "messages[0].content[0].image_url",
            "parts of type 'image_url'",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            "messages[0].content[0].type",
            "hear nothing",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing"),
        (
            {"response_format": {"type": "text", "json_schema": {"name": "x"}}},
            "response_format.json_schema",
            "type 'json_schema'",
        ),
        ({"reasoning_effort": "enormous"}, "reasoning_effort", "'xhigh'"),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "reasoning_effort", "differ"),
        ({"reasoning": {"enabled": False, "effort": "high"}}, "reasoning.effort", "give one"),
        ({"reasoning": {"max_tokens": 5}}, "reasoning.max_tokens", "reasoning.effort"),
        ({"store": True}, "store", "POST /v1/responses"),
        ({"modalities": ["text", "audio"]}, "modalities[1]", "text only"),
        ({"audio": {"voice": "x", "format": "wav"}}, "audio", "text only"),
        ({"verbosity": "low"}, "verbosity", "in the prompt"),
        ({"web_search_options": {}}, "web_search_options", "searches the web"),
        ({"moderation": {"model": "x"}}, "moderation", "moderated"),
        ({"function_call": "auto"}, "function_call", "'tool_choice'"),
        ({"models": ["x"]}, "models", "strategy single"),
        ({"transforms": ["middle-out"]}, "transforms", "never cut"),
        ({"debug": {"echo_upstream_body": True}}, "debug", "fusion.include"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
            "padded",
        ),
        ({"chat_template": "x"}, "chat_template", "configuration"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function"}}, "tool_choice.function", "missing"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "wether"}}},
            "tool_choice.function.name",
            "there are: weather",
        ),
        ({"tool_choice": "required"}, "tool_choice", "no 'tools'"),
        ({"n": 17}, "n", "less than or equal to 16"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"messages": "Hello"}, "messages", "list"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
        ({"stream": True, "stream_options": {"include": 1}}, "stream_options.include", "unknown field"),
        ({"top_logprobs": 5}, "top_logprobs", "engines"),
        ({"logit_bias": {"5": 1.0}}, "logit_bias", "engines"),
        ({"functions": []}, "functions", "'tools'"),
        ({"strange": 1}, "strange", "unknown field 'strange'"),
        ({"str": 1}, "str", "unknown field 'str'"),
        ({"stop": 3}, "stop", "string"),
        ({"seed": "x" * 200}, "seed", "…"),
    ],
)
def test_a_bad_field_is_refused_by_name(change: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse_chat({**ASKED, **change})
    assert refused.value.param == param
    assert says in str(refused.value)
    assert len(refused.value.message) < 400


def test_an_error_repeats_only_the_beginning_of_a_long_name() -> None:
    with pytest.raises(RequestError) as refused:
        parse_chat({"model": "one", "messages": [{"role": "user", "content": "Hi"}], "x" * 100_000: 1})
    assert refused.value.param == "x" * 200
    assert len(refused.value.message) < 300
