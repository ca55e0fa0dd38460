"""A running server's stream read back: what its fusion reported is what comes out here."""

from __future__ import annotations

import json
from typing import Any

from local_fusion.cli.remote import stream_remote
from local_fusion.core.chat import ToolCall
from local_fusion.core.events import Answered, Event, Saved, StageStarted, TextDelta
from local_fusion.core.model import Choice, FusionReport, Reply
from local_fusion.core.records import Candidate, Certainty, Saving, Verdict
from tests.cli.test_ask_remote import answering
from tests.scripted import asking
from tests.server.controlled import asking_of
from tests.server.test_chat_tools import Panel, served
from tests.serving import listening

BONN, ROME = ToolCall("call_1", "weather", '{"city": "Bonn"}'), ToolCall("call_2", "weather", '{"city": "Rome"}')
SAVED = Saving("decided", 12, "nobody could catch up with 42 any more")
REPORT = FusionReport(
    "r1",
    "panel",
    "converge",
    candidates=(
        Candidate("c1", "a", "a", "", "tool_calls", 1.0, None, 2, (BONN,), "Bonn.", Certainty(-0.1, 14.0, 9.0, 3)),
    ),
    verdict=Verdict("a + b", winner="c1", independent=1.5),
    savings=(SAVED,),
)


async def heard(url: str, model: str) -> tuple[list[Event], Reply]:
    *told, last = [event async for event in stream_remote(url, model, asking())]
    assert isinstance(last, Answered)
    return told, last.reply


async def test_what_a_fusion_reports_arrives_whole() -> None:
    choice = Choice("I look.", "tool_calls", (BONN, ROME), "Two calls.")
    happened: list[Event] = [StageStarted("panel", ("a",), 2), Saved(SAVED)]
    panel = Panel("panel", choices=[choice], report=REPORT, happened=happened)
    async with listening(asking_of(served(panel)).app) as url:
        told, reply = await heard(url, "panel")
    assert (reply.choices, reply.report) == ((choice,), REPORT)
    assert told[:2] == happened
    spoken = [event for event in told if isinstance(event, TextDelta)]
    assert "".join(event.reasoning for event in spoken) == "Two calls."
    assert "".join(event.text for event in spoken) == "I look."


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def part(index: int, arguments: str, **begun: Any) -> dict[str, Any]:
    name = begun.pop("name", None)
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return {"tool_calls": [{"index": index, **begun, "function": function}]}


async def test_tool_calls_that_an_engine_writes_in_pieces_are_put_together() -> None:
    pieces = [
        chunk({"role": "assistant", "content": None}),
        chunk(part(0, "", id="call_1", type="function", name="weather")),
        chunk(part(0, '{"city":')),
        chunk(part(1, '{"city": "Rome"}', id="call_2", type="function", name="weather")),
        chunk(part(0, ' "Bonn"}')),
        chunk({}, "tool_calls"),
    ]
    listed = json.dumps({"data": [{"id": "x", "kind": "engine"}]}).encode()
    with answering(listed, b"".join(pieces) + b"data: [DONE]\n\n") as url:
        _, reply = await heard(url, "x")
    assert reply.choices == (Choice("", "tool_calls", (BONN, ROME)),)
