"""What a client may send to a fusion, and how it is told what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.core.chat import Message
from local_fusion.core.sampling import Sampling
from local_fusion.errors import RequestError
from local_fusion.server.chat_schema import parse_chat

ASKED: dict[str, Any] = {"model": "panel", "messages": [{"role": "user", "content": "Hello"}]}


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
    }
    request = parse_chat({**ASKED, **habits}).to_request("r1")
    assert request == parse_chat(ASKED).to_request("r1")


def test_a_response_format_is_handed_on_as_it_was_given() -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True}}
    assert parse_chat({**ASKED, "response_format": shape}).to_request("r1").response_format == shape


def test_what_is_to_be_included_and_what_is_overridden_are_told_apart() -> None:
    told = {"include": ["verdict"], "events": True, "strategy": "vote", "quorum": 2}
    asked = parse_chat({**ASKED, "stream": True, "fusion": told})
    assert asked.include() == {"verdict"}
    assert asked.events() is True
    assert asked.overrides() == {"strategy": "vote", "quorum": 2}


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "string"),
        ({"messages": [{"role": "user", "content": "x", "colour": 1}]}, "messages[0].colour", "unknown field"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "'user'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text"}]}]},
            "messages[0].content[1].text",
            "missing",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": 1}]}]}, "messages[0].tool_calls", "engines"),
        ({"messages": "Hello"}, "messages", "list"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
        ({"stream": True, "stream_options": {"include": 1}}, "stream_options.include", "unknown field"),
        ({"top_logprobs": 5}, "top_logprobs", "engines"),
        ({"logit_bias": {"5": 1.0}}, "logit_bias", "engines"),
        ({"functions": []}, "functions", "unknown field"),
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
