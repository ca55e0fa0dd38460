"""Messages over HTTP: what reaches a model of a request, and what comes back of its answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from local_fusion.core.chat import Image, Message, ToolCall
from local_fusion.core.model import Choice
from local_fusion.core.sampling import Sampling
from tests.server.anthropic.talking import PICTURE, PNG, QUESTION, WEATHER, Talk
from tests.server.controlled import asking_of

SEEN = Image(f"data:image/png;base64,{PNG}")


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def assistant(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def called(id_: str = "t1", **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id_, "name": "weather", "input": given or {"city": "Bonn"}}


def result(content: Any = "12 °C", id_: str = "t1", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id_, "content": content, **more}


async def test_an_answer_is_a_message() -> None:
    answer = await Talk().post()
    body = answer.json()
    assert body == {
        "id": f"msg_{answer.headers['request-id']}",
        "type": "message",
        "role": "assistant",
        "model": "a",
        "content": [{"type": "text", "text": "It is 42.", "citations": None}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 5,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 3,
            "fusion": body["usage"]["fusion"],
        },
        "fusion": body["fusion"],
    }


async def test_a_fusion_tells_how_it_came_to_its_answer_and_what_each_call_cost() -> None:
    body = (await Talk().post(model="one", fusion={"include": ["trace"]})).json()
    assert (body["fusion"]["strategy"], body["fusion"]["partial"]) == ("single", False)
    calls = body["usage"]["fusion"]["calls"]
    assert body["usage"]["output_tokens"] == sum(call["completion_tokens"] for call in calls) == 3
    assert body["fusion"]["trace"][0]["type"] == "request"


async def test_the_system_prompt_goes_first_and_without_its_line_for_accounts() -> None:
    billing = text("x-anthropic-billing-header: cc_version=2.1.197.41f; cc_entrypoint=sdk-cli;")
    cached = text("Be brief.", cache_control={"type": "ephemeral", "ttl": "1h"})
    request = await Talk().understood(system=[billing, cached, text("And kind.")])
    assert request.messages == (Message("system", "Be brief.\n\nAnd kind."), Message("user", QUESTION[0]["content"]))
    assert (await Talk().understood(system="Be brief.")).messages[0] == Message("system", "Be brief.")


async def test_turns_of_the_same_role_are_one() -> None:
    messages = [user(text("One.")), user(text("Two."), text("Three.")), assistant(text("A.")), assistant(text("B."))]
    request = await Talk().understood(messages=[*messages, {"role": "user", "content": "Four."}])
    assert request.messages == (
        Message("user", "One.\nTwo.\nThree."),
        Message("assistant", "A.\nB."),
        Message("user", "Four."),
    )


async def test_what_the_system_says_later_stands_in_the_turn_before_it() -> None:
    """Most chat templates take a system's turn at the beginning only, and moving it there would spoil the cache."""
    reminder = {"role": "system", "content": "Skills: none."}
    after_question = await Talk().understood(messages=[*QUESTION, reminder])
    assert after_question.messages == (
        Message("user", "What is 6 times 7?\n<system-reminder>\nSkills: none.\n</system-reminder>"),
    )
    after_result = await Talk().understood(
        tools=[WEATHER], messages=[*QUESTION, assistant(called()), user(result()), reminder]
    )
    assert after_result.messages[-1].role == "tool"  # the turn is still the tool's: no panel need be convened for it
    assert after_result.messages[-1].content == "12 °C\n<system-reminder>\nSkills: none.\n</system-reminder>"
    before_all = await Talk().understood(system="Be brief.", messages=[reminder, *QUESTION])
    assert before_all.messages[0] == Message("system", "Be brief.\n\nSkills: none.")


async def test_thoughts_that_are_sent_back_are_left_out() -> None:
    """They were one member's, and would reach the others as if they were theirs."""
    thought = {"type": "thinking", "thinking": "Six times seven…", "signature": "abc"}
    hidden = {"type": "redacted_thinking", "data": "…"}
    request = await Talk().understood(
        messages=[*QUESTION, assistant(thought, hidden, text("42.")), user(text("Sure?"))]
    )
    assert request.messages[1] == Message("assistant", "42.")


async def test_tool_calls_and_their_results_become_turns_of_their_own() -> None:
    request = await Talk().understood(
        tools=[WEATHER],
        messages=[
            *QUESTION,
            assistant(text("Let me look."), called("t1"), called("t2", city="Köln")),
            user(text("Hurry."), result(id_="t1"), result([text("No such"), text("town.")], "t2", is_error=True)),
        ],
    )
    assert request.messages[1:] == (
        Message(
            "assistant",
            "Let me look.",
            tool_calls=(
                ToolCall("t1", "weather", '{"city": "Bonn"}'),
                ToolCall("t2", "weather", '{"city": "Köln"}'),
            ),
        ),
        Message("tool", "12 °C", tool_call_id="t1"),
        Message("tool", "Error: No such\ntown.", tool_call_id="t2"),
        Message("user", "Hurry."),
    )


async def test_images_are_shown_where_they_stand_and_those_of_results_in_the_users_turn() -> None:
    request = await Talk().understood(messages=[user(text("What is"), PICTURE, text("this?"))])
    assert request.messages == (Message("user", "What is\nthis?", parts=("What is", SEEN, "this?")),)
    request = await Talk().understood(
        tools=[WEATHER], messages=[*QUESTION, assistant(called()), user(result([text("A map."), PICTURE]))]
    )
    assert request.messages[2:] == (
        Message("tool", "A map.\n[what it shows follows]", tool_call_id="t1"),
        Message("user", "What t1 shows:", parts=("What t1 shows:", SEEN)),
    )


async def test_documents_and_findings_are_told_as_text() -> None:
    plain = {"type": "text", "media_type": "text/plain", "data": "Six sevens."}
    document = {"type": "document", "source": plain, "title": "Sums", "context": "From school", "citations": None}
    found = {"type": "search_result", "source": "x.org", "title": 'A "sum"', "content": [text("It is 42.")]}
    request = await Talk().understood(messages=[user(document, found, text("Well?"))])
    assert request.messages[0].content == (
        '<document title="Sums" context="From school">\nSix sevens.\n</document>\n'
        '<search_result source="x.org" title="A \\"sum\\"">\nIt is 42.\n</search_result>\nWell?'
    )
    blocks = {"type": "document", "source": {"type": "content", "content": [text("A map:"), PICTURE]}}
    request = await Talk().understood(messages=[user(blocks)])
    assert request.messages[0].parts == ("<document>", "A map:", SEEN, "</document>")


async def test_tools_become_functions() -> None:
    tool = {
        **WEATHER,
        "type": "custom",
        "strict": True,
        "input_examples": [{"city": "Köln"}],
        "cache_control": {"type": "ephemeral"},
        "eager_input_streaming": True,
        "allowed_callers": ["direct"],
        "defer_loading": False,
    }
    request = await Talk().understood(tools=[tool])
    assert request.tools == (
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": 'How the weather is.\nExample of its input: {"city": "Köln"}',
                "parameters": WEATHER["input_schema"],
                "strict": True,
            },
        },
    )


@pytest.mark.parametrize(
    ("choice", "understood", "parallel"),
    [
        (None, None, None),
        ({"type": "auto"}, "auto", None),
        ({"type": "auto", "disable_parallel_tool_use": True}, "auto", False),
        ({"type": "any"}, "required", None),
        ({"type": "none"}, "none", None),
        ({"type": "tool", "name": "weather"}, {"type": "function", "function": {"name": "weather"}}, None),
    ],
)
async def test_how_to_choose_among_tools(choice: Any, understood: Any, parallel: Any) -> None:
    request = await Talk().understood(tools=[WEATHER], tool_choice=choice)
    assert (request.tool_choice, request.parallel_tool_calls) == (understood, parallel)


async def test_without_tools_there_is_nothing_to_choose() -> None:
    request = await Talk().understood(tool_choice={"type": "auto", "disable_parallel_tool_use": True}, tools=[])
    assert (request.tools, request.tool_choice, request.parallel_tool_calls) == ((), None, None)


@pytest.mark.parametrize(
    ("thinking", "effort", "understood"),
    [
        (None, None, None),
        ({"type": "adaptive"}, None, None),
        ({"type": "adaptive", "display": "summarized"}, "low", "low"),
        (None, "medium", "medium"),
        (None, "xhigh", "high"),
        ({"type": "enabled", "budget_tokens": 1024}, None, "low"),
        ({"type": "enabled", "budget_tokens": 4096}, None, "medium"),
        ({"type": "enabled", "budget_tokens": 16384}, None, "high"),
        ({"type": "enabled", "budget_tokens": 1024}, "max", "high"),
        ({"type": "disabled"}, "high", "none"),
    ],
)
async def test_how_long_to_think(thinking: Any, effort: Any, understood: str | None) -> None:
    config = {"effort": effort} if effort else None
    assert (await Talk().understood(thinking=thinking, output_config=config)).reasoning_effort == understood


async def test_a_format_is_asked_for_under_its_new_name_and_its_old_one() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    shape = {"type": "json_schema", "schema": schema}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    for more in ({"output_config": {"format": shape}}, {"output_format": shape}):
        assert (await Talk().understood(**more)).response_format == wanted


async def test_sampling() -> None:
    given = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "stop_sequences": ["END", "\n\n"], "max_tokens": 7}
    request = await Talk().understood(**given)
    assert request.sampling == Sampling(temperature=0.5, top_p=0.9, top_k=40, stop=["END", "\n\n"], max_tokens=7)
    assert (await Talk().understood(stop_sequences=[])).sampling == Sampling(max_tokens=1000)


async def test_a_limit_above_the_servers_is_lowered_to_it() -> None:
    """It is a bound to Anthropic's clients, and Claude Code sends 32000 whatever it asks."""
    talk = Talk()
    settings = talk.runtime.config.server.model_copy(update={"max_tokens": 50})
    talk.runtime.config = talk.runtime.config.model_copy(update={"server": settings})
    assert (await talk.understood(max_tokens=32_000)).sampling.max_tokens == 50
    assert (await talk.understood(max_tokens=20)).sampling.max_tokens == 20


async def test_hints_to_anthropics_cloud_change_nothing() -> None:
    hints = {
        "cache_control": {"type": "ephemeral"},
        "diagnostics": {"previous_message_id": None},
        "inference_geo": "eu",
        "speed": "fast",
        "service_tier": "standard_only",
        "user_profile_id": "u",
        "metadata": {"user_id": "somebody"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "container": None,
        "mcp_servers": [],
    }
    plain, hinted = await Talk().understood(), await Talk().understood(**hints)
    assert hinted.but(request_id="") == plain.but(request_id="")


async def test_an_engine_goes_on_with_an_answer_that_was_begun() -> None:
    request = await Talk().understood(messages=[*QUESTION, assistant(text("It is"))])
    assert (request.prefix, [message.role for message in request.messages]) == ("It is", ["user"])
    assert (
        "cannot go on" in (await Talk().refused(model="one", messages=[*QUESTION, assistant(text("It is"))]))["message"]
    )


@pytest.mark.parametrize(
    ("choice", "reason", "sequence"),
    [
        (Choice("It is 42."), "end_turn", None),
        (Choice("It is", "length"), "max_tokens", None),
        (Choice("It is ", stopped_by="42"), "stop_sequence", "42"),
        (Choice("", "tool_calls", (ToolCall("c", "weather", "{}"),)), "tool_use", None),
        (Choice("", "stop", (ToolCall("c", "weather", "{}"),)), "tool_use", None),  # of a tool that was named
        (Choice("", "length", (ToolCall("c", "weather", '{"ci'),)), "max_tokens", None),
        (Choice("No.", "content_filter"), "refusal", None),
    ],
)
@pytest.mark.parametrize("name", ["a", "one"])
async def test_why_an_answer_ended(choice: Choice, reason: str, sequence: str | None, name: str) -> None:
    body = (await Talk([choice]).post(model=name, tools=[WEATHER])).json()
    assert (body["stop_reason"], body["stop_sequence"]) == (reason, sequence)


@pytest.mark.parametrize("written", ['{"city": "Bo', "[1]", '{"degrees": NaN}', '{"city": "\\ud800"}'])
async def test_arguments_that_are_no_object_are_told_as_anthropic_has_it(written: str) -> None:
    talk = Talk([Choice("", "tool_calls", (ToolCall("c", "weather", written),))])
    block = (await talk.post(tools=[WEATHER])).json()["content"][0]
    assert block == {"type": "tool_use", "id": "c", "name": "weather", "input": {"INVALID_JSON": written}}


@pytest.mark.parametrize("name", ["a", "one"])
async def test_counting_asks_how_long_a_conversation_is_and_generates_nothing(name: str) -> None:
    talk = Talk()
    body = {
        "model": name,
        "messages": QUESTION,
        "system": "Be very brief.",
        "tools": [WEATHER],
        "tool_choice": {"type": "auto"},
        "thinking": {"type": "adaptive"},
    }
    answer = await talk.client.post("/v1/messages/count_tokens?beta=true", body)
    assert (answer.status, answer.json()) == (200, {"input_tokens": 8})
    assert talk.model.requests == []


async def test_counting_takes_no_fields_of_the_answer() -> None:
    error = await Talk().refused("/v1/messages/count_tokens")  # max_tokens
    assert error["param"] == "max_tokens"


async def test_ids_of_requests_come_under_anthropics_name() -> None:
    answer = await Talk().post()
    assert "x-request-id" not in answer.headers
    assert answer.json()["id"] == "msg_" + answer.headers["request-id"]


async def test_paths_that_are_not_there_are_told_in_anthropics_shape() -> None:
    client = asking_of(Talk().runtime)
    for path, status, kind in (
        ("/v1/messages/batches", 404, "not_found_error"),
        ("/v1/messages/count_tokens/x", 404, "not_found_error"),
    ):
        answer = await client.post(path, {})
        assert (answer.status, answer.json()["error"]["type"]) == (status, kind)
    answer = await client.get("/v1/messages")
    assert (answer.status, answer.json()["type"]) == (405, "error")
    unknown = await Talk().post(model="won")
    assert (unknown.status, unknown.json()["error"]["type"]) == (404, "not_found_error")
    assert "'one'" in json.dumps(unknown.json())
