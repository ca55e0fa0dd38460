"""The wire: whole streams, event by event, as the files in `golden` have them.

`WRITE_GOLDEN=1` writes the files anew; what has changed in them is then to be read, not believed.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from local_fusion.core.chat import ChatRequest, ToolCall
from local_fusion.core.events import Noted, TextDelta
from local_fusion.core.model import Choice, Emit, Reply, unheard
from local_fusion.errors import ContextTooLong, EngineDied
from tests.engines.waiting import eventually
from tests.scripted import Scripted
from tests.server.controlled import Exchange, app_over
from tests.server.responses.panels import PATH, events_of, masked, server

GOLDEN = Path(__file__).parent / "golden"
CALL = ToolCall("call_1", "weather", '{"city": "Bonn"}')
OTHER = ToolCall("call_2", "weather", '{"city": "Rome"}')
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}


@dataclass(frozen=True)
class Case:
    """What the model does, what is asked beside the question, and of whom."""

    choice: Choice
    asked: dict[str, Any]
    models: tuple[str, ...] = ("one", "a")


CASES = {
    "text": Case(Choice("It is 42."), {}),
    "thoughts": Case(Choice("It is 42.", reasoning="Let me see."), {}),
    "summary": Case(Choice("It is 42.", reasoning="Let me see."), {"reasoning": {"effort": "low", "summary": "auto"}}),
    "calls": Case(Choice("", "tool_calls", (CALL, OTHER)), {"tools": [WEATHER]}),
    "text_and_call": Case(Choice("I look.", "tool_calls", (CALL,), "Hm."), {"tools": [WEATHER]}),
    "cut": Case(Choice("It is", "length"), {"max_output_tokens": 2, "store": False}),
    "empty": Case(Choice(""), {}, ("a",)),  # to a fusion that is no answer
}


def compare(name: str, stream: str) -> None:
    file, found = GOLDEN / f"{name}.sse", masked(stream)
    if os.environ.get("WRITE_GOLDEN"):
        file.write_text(found)
    assert found == file.read_text()


@pytest.mark.parametrize("name", CASES)
async def test_the_whole_stream(name: str) -> None:
    case = CASES[name]
    exchange = await server(case.choice).ask("What is 6 times 7?", case.models[0], stream=True, **case.asked)
    assert exchange.headers["content-type"] == "text/event-stream; charset=utf-8"
    compare(name, exchange.text)


@pytest.mark.parametrize(("name", "model"), [(name, model) for name, case in CASES.items() for model in case.models])
async def test_the_stream_ends_with_what_the_whole_answer_is(name: str, model: str) -> None:
    case = CASES[name]
    asked = server(case.choice)
    streamed = events_of((await asked.ask("6 times 7?", model, stream=True, **case.asked)).text)
    whole = await asked.said("6 times 7?", model, **case.asked)
    assert [event["sequence_number"] for event in streamed] == list(range(len(streamed)))
    last = streamed[-1]
    assert last["type"] == f"response.{whole['status']}"
    for key in whole.keys() - {"id", "created_at", "completed_at", "output", "fusion"}:
        assert last["response"][key] == whole[key], key
    plain = [{key: value for key, value in item.items() if key != "id"} for item in whole["output"]]
    assert [{key: value for key, value in item.items() if key != "id"} for item in last["response"]["output"]] == plain
    assert [event["item"] for event in streamed if event["type"] == "response.output_item.done"] == (
        last["response"]["output"]
    )


async def test_an_engine_has_no_panel_to_tell_of() -> None:
    stream = await server(Choice("It is 42.")).ask("6 times 7?", "a", stream=True)
    assert "fusion_call" not in stream.text
    compare("engine", stream.text)


async def test_what_breaks_off_is_an_error_and_a_response_that_failed() -> None:
    dying = Scripted("a", texts=["It is probably 42."], error=EngineDied("a died", hint="ask again"), fails_after=3)
    stream = await server(a=dying).ask("6 times 7?", "a", stream=True)
    compare("broken_off", stream.text)
    assert stream.status == 200


async def test_what_the_ending_server_gives_up_is_told_so_that_the_official_client_raises() -> None:
    asked = server(a=Scripted("a", hangs=True))
    body = b'{"model": "one", "input": "6 times 7?", "stream": true}'
    exchange = Exchange(asked.asking.app, "POST", PATH, body)
    await eventually(lambda: bool(asked.models["a"].requests))
    exchange.task.cancel()
    await asyncio.wait({exchange.task})
    told = events_of(exchange.text)
    assert [event["type"] for event in told[-2:]] == ["error", "response.failed"]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert exchange.sent[-1]["more_body"] is False
    assert asked.models["a"].cancelled == 1
    wire = httpx2.Response(200, headers=exchange.headers, text=exchange.text)
    transport = httpx2.MockTransport(lambda _: wire)
    with (
        openai.OpenAI(api_key="none", http_client=httpx2.Client(transport=transport)) as client,
        pytest.raises(openai.APIError, match="the server is stopping"),
        client.responses.stream(model="one", input="6 times 7?") as stream,
    ):
        stream.until_done()


async def test_a_conversation_too_long_is_the_callers_fault_in_a_stream_too() -> None:
    full = Scripted("a", error=ContextTooLong("5000 tokens", param="messages[0].content"))
    events = events_of((await server(a=full).ask("6 times 7?", "a", stream=True)).text)
    assert events[-2]["error"]["code"] == "context_length_exceeded"
    assert events[-2]["param"] == "input[0].content"
    assert events[-1]["response"]["error"]["code"] == "invalid_prompt"


@dataclass
class Interleaving(Scripted):
    """Thinks, speaks, thinks again and goes on; its text is more than it has streamed."""

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        for reasoning, text in (("Hm.", ""), ("", "It "), ("Oh?", ""), ("", "is ")):
            emit(TextDelta(text, reasoning=reasoning, tokens=1))
            emit(Noted("so far"))  # without something in between they would be merged
        return Reply((Choice("It is 42.", reasoning="Hm."),))


async def test_thoughts_in_between_are_items_of_their_own_and_the_text_stays_one() -> None:
    stream = await server(a=Interleaving("a")).ask("6 times 7?", "a", stream=True)
    output = events_of(stream.text)[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "reasoning"]
    assert output[1]["content"][0]["text"] == "It is 42."
    deltas = [event["delta"] for event in events_of(stream.text) if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == "It is 42."


async def test_line_breaks_of_all_kinds_stay_inside_their_event() -> None:
    odd = "a\nb\r\nc\rd\u2028e\u0085f\x00g"
    stream = await server(Choice(odd)).ask("6 times 7?", "a", stream=True)
    assert events_of(stream.text)[-1]["response"]["output"][0]["content"][0]["text"] == odd


async def test_all_events_of_the_panel_come_where_they_are_asked_for() -> None:
    asked = server(Choice("It is 42."))
    events = events_of((await asked.ask("6 times 7?", stream=True, fusion={"events": True})).text)
    told = [event["event"]["type"] for event in events if event["type"] == "response.fusion_call.event"]
    assert {"member_started", "member_finished"} <= set(told) or "stage_started" in told
    assert "text_delta" not in told


async def test_the_first_events_come_at_once_and_comments_while_the_panel_works() -> None:
    asked = server(a=Scripted("a", hangs=True))
    config = asked.runtime.config
    impatient = config.model_copy(update={"server": config.server.model_copy(update={"keep_alive_seconds": 0.02})})
    app = app_over(replace(asked.runtime, config=impatient))
    exchange = Exchange(app, "POST", PATH, b'{"model": "quality", "input": "Hi", "stream": true}')
    await eventually(lambda: "\n: the panel is at work\n" in exchange.text)
    told = [event["type"] for event in events_of(exchange.text)]
    assert told[:3] == ["response.created", "response.in_progress", "response.fusion_call.in_progress"]
    exchange.leave()
    await exchange.task
    assert asked.models["a"].cancelled == 1
