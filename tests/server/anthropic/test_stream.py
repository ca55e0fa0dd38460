"""The wire of a streamed message, byte for byte, and what breaks it off."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from local_fusion.core.chat import ToolCall
from local_fusion.core.model import Choice
from local_fusion.errors import ContextTooLong, EngineDied
from local_fusion.server.sse import event
from tests.engines.waiting import eventually
from tests.server.anthropic.talking import WEATHER, Talk, asked, events
from tests.server.controlled import Exchange, app_over

NOTHING_YET = '{"input_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}'
START = (
    '{"type":"message_start","message":{"id":"msg_ID","type":"message","role":"assistant","model":"a","content":[],'
    f'"stop_reason":null,"stop_sequence":null,"usage":{NOTHING_YET}}}}}'
)
REPORT = '{"trace_id":"ID","strategy":null,"failed":[],"partial":false,"savings":[]}'


def ending(reason: str, read: int, written: int) -> str:
    call = (
        f'{{"stage":"panel","model":"a","samples":1,"prompt_tokens":{read},"completion_tokens":{written},'
        '"seconds":0.0,"error":null}'
    )
    usage = (
        f'{{"input_tokens":{read},"cache_creation_input_tokens":0,"cache_read_input_tokens":0,'
        f'"output_tokens":{written},"fusion":{{"calls":[{call}]}}}}'
    )
    return (
        f'{{"type":"message_delta","delta":{{"stop_reason":"{reason}","stop_sequence":null}},"usage":{usage},'
        f'"fusion":{REPORT}}}'
    )


def wire(*payloads: str) -> list[str]:
    """The lines of a stream with these events."""
    return [line for payload in payloads for line in (f"event: {json.loads(payload)['type']}", f"data: {payload}", "")]


async def test_text_comes_in_one_block() -> None:
    assert await Talk().lines() == wire(
        START,
        '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"","citations":null}}',
        '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"It is 42."}}',
        '{"type":"content_block_stop","index":0}',
        ending("end_turn", 5, 3),
        '{"type":"message_stop"}',
    )


async def test_thoughts_and_tools_have_blocks_of_their_own() -> None:
    calls = (ToolCall("call-1", "weather", '{"city": "Köln"}'), ToolCall("call-2", "weather", '{"city": "Rom"}'))
    talk = Talk([Choice("Let me look.", "tool_calls", calls, "Which towns?")])
    lines = await talk.lines(tools=[WEATHER], thinking={"type": "adaptive"})
    assert lines == wire(
        START,
        '{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}',
        '{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Which towns?"}}',
        '{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta",'
        '"signature":"ff604b950ac5c53b9887e98a4ff85565"}}',
        '{"type":"content_block_stop","index":0}',
        '{"type":"content_block_start","index":1,"content_block":{"type":"text","text":"","citations":null}}',
        '{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Let me look."}}',
        '{"type":"content_block_stop","index":1}',
        '{"type":"content_block_start","index":2,'
        '"content_block":{"type":"tool_use","id":"call-1","name":"weather","input":{}}}',
        '{"type":"content_block_delta","index":2,'
        '"delta":{"type":"input_json_delta","partial_json":"{\\"city\\": \\"Köln\\"}"}}',
        '{"type":"content_block_stop","index":2}',
        '{"type":"content_block_start","index":3,'
        '"content_block":{"type":"tool_use","id":"call-2","name":"weather","input":{}}}',
        '{"type":"content_block_delta","index":3,'
        '"delta":{"type":"input_json_delta","partial_json":"{\\"city\\": \\"Rom\\"}"}}',
        '{"type":"content_block_stop","index":3}',
        ending("tool_use", 5, 5),
        '{"type":"message_stop"}',
    )


async def test_an_error_in_the_middle_is_the_last_event() -> None:
    talk = Talk(error=EngineDied("a went away", hint="try again"), fails_after=2)
    lines = await talk.lines()
    assert lines[:9] == wire(
        START,
        '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"","citations":null}}',
        '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"It is"}}',
    )
    assert lines[9:] == wire(
        '{"type":"error","error":{"message":"a went away → try again","type":"api_error","param":null,'
        '"code":"engine_died","fault":"engine","details":{"error_code":"engine_died"}},"request_id":"ID"}'
    )


async def test_what_the_ending_server_gives_up_ends_with_an_error() -> None:
    talk = Talk()
    talk.model.hangs = True
    exchange = Exchange(talk.client.app, "POST", "/v1/messages", json.dumps(asked(stream=True)).encode())
    await eventually(lambda: bool(talk.model.requests))
    exchange.task.cancel()
    await asyncio.wait({exchange.task})
    name, told = events(exchange.text.splitlines())[-1]
    assert (name, told["error"]["type"]) == ("error", "overloaded_error")
    assert told["request_id"] == exchange.headers["request-id"]
    assert exchange.sent[-1]["more_body"] is False


@pytest.mark.parametrize("name", ["a", "one"])
async def test_a_conversation_that_is_too_long_is_told_so_that_claude_code_compacts_it(name: str) -> None:
    talk = Talk(error=ContextTooLong("a: 5000 tokens, and the context has 4096", param="messages"))
    *_, (last, told) = events(await talk.lines(model=name))
    assert last == "error"
    assert told["error"]["message"].startswith("prompt is too long: a: 5000 tokens")
    whole = await talk.post(model=name)
    assert whole.status == 400
    assert whole.json()["error"]["message"].startswith("prompt is too long: ")


async def test_pings_come_while_the_panel_works_and_the_first_event_at_once() -> None:
    talk = Talk()
    talk.model.hangs = True
    settings = talk.runtime.config.server.model_copy(update={"keep_alive_seconds": 0.01})
    talk.runtime.config = talk.runtime.config.model_copy(update={"server": settings})
    body = json.dumps(asked(stream=True, model="one")).encode()
    waiting = Exchange(app_over(talk.runtime), "POST", "/v1/messages?beta=true", body)
    await eventually(lambda: len(waiting.sent) > 4)
    assert waiting.sent[1]["body"].startswith(b"event: message_start\n")
    assert {message["body"] for message in waiting.sent[2:]} == {b'event: ping\ndata: {"type":"ping"}\n\n'}
    waiting.leave()
    await asyncio.wait_for(waiting.task, 5)
    assert talk.model.cancelled == 1


async def test_panel_events_ride_in_pings_where_they_are_asked_for() -> None:
    told = events(await Talk().lines(model="one", fusion={"events": True}))
    pings = [payload["fusion"]["event"]["type"] for name, payload in told if name == "ping"]
    assert pings[0] == "stage_started"
    assert "call_ended" not in pings
    assert [name for name, _ in events(await Talk().lines(model="one")) if name == "ping"] == []


async def test_thoughts_that_are_to_be_omitted_leave_a_block_without_words() -> None:
    talk = Talk([Choice("It is 42.", reasoning="Six times seven.")])
    lines = await talk.lines(thinking={"type": "enabled", "budget_tokens": 2048, "display": "omitted"})
    deltas = [payload["delta"]["type"] for name, payload in events(lines) if name == "content_block_delta"]
    assert deltas == ["signature_delta", "text_delta"]


async def test_thoughts_that_nobody_asked_for_are_not_told() -> None:
    talk = Talk([Choice("It is 42.", reasoning="Six times seven.")])
    starts = [payload for name, payload in events(await talk.lines()) if name == "content_block_start"]
    assert [start["content_block"]["type"] for start in starts] == ["text"]
    assert [block["type"] for block in (await talk.post()).json()["content"]] == ["text"]


@pytest.mark.parametrize(
    "choice",
    [
        Choice("It is 42."),
        Choice("It is", "length"),
        Choice("It is ", stopped_by="42"),
        Choice("", "tool_calls", (ToolCall("c", "weather", '{"city": "Bonn"}'),)),
        Choice("", "length", (ToolCall("c", "weather", '{"city": "Bo'),), "Hm."),
        Choice("", "tool_calls", (ToolCall("c", "weather", ""),)),
        Choice("Text", "tool_calls", (ToolCall("c", "weather", "[1]"),), "Thought"),
        Choice("", "tool_calls", (ToolCall("c", "weather", '{"degrees": NaN}'),)),
        Choice("", "tool_calls", (ToolCall("c", "weather", '{"city": "\\ud800"}'),)),
        Choice("", "tool_calls", (ToolCall("c", "weather", '{"degrees": 1e999}'),)),
        Choice("", "tool_calls", (ToolCall("c", "weather", "[" * 100_000),)),
        Choice("   "),
    ],
    ids=range(12),
)
async def test_a_stream_put_together_is_the_whole_message(choice: Choice) -> None:
    more: dict[str, Any] = {"tools": [WEATHER], "thinking": {"type": "adaptive"}}
    whole = (await Talk([choice]).post(**more)).json()
    assert put_together(events(await Talk([choice]).lines(**more))) == {
        **whole,
        "id": "msg_ID",
        "fusion": told_of(whole),
    }


def told_of(message: dict[str, Any]) -> dict[str, Any]:
    return {**message["fusion"], "trace_id": "ID"}


def put_together(told: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """What a client makes of the events, as Anthropic's documentation has it."""
    message: dict[str, Any] = {}
    pieces: list[str] = []
    for name, payload in told:
        match name, payload:
            case "message_start", _:
                message = payload["message"]
            case "content_block_start", _:
                assert payload["index"] == len(message["content"])
                message["content"].append(payload["content_block"])
                pieces.clear()
            case "content_block_delta", {"delta": {"type": "input_json_delta", "partial_json": piece}}:
                pieces.append(piece)
            case "content_block_delta", {"delta": {"type": "signature_delta", "signature": signature}}:
                message["content"][-1]["signature"] = signature
            case "content_block_delta", {"delta": {"type": "text_delta", "text": piece}}:
                message["content"][-1]["text"] += piece
            case "content_block_delta", {"delta": {"type": "thinking_delta", "thinking": piece}}:
                message["content"][-1]["thinking"] += piece
            case "content_block_stop", _:
                if pieces:
                    message["content"][-1]["input"] = json.loads("".join(pieces))
            case "message_delta", _:
                message |= payload["delta"]
                message |= {"usage": payload["usage"], "fusion": payload["fusion"]}
            case "message_stop", _:
                assert payload is told[-1][1]
    return message


def test_line_breaks_in_texts_do_not_end_an_event() -> None:
    payload = {"text": "a\r\nb\n\nevent: error\u2028c\x85d"}
    assert event("x", payload).count(b"\n") == 3
    assert b"\r" not in event("x", payload)
