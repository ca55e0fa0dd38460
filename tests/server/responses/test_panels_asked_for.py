"""OpenRouter's Fusion in Responses: its slug, its plugin and its tool, with the result among the output."""

from __future__ import annotations

import json
from typing import Any

from local_fusion.core.chat import ToolCall
from local_fusion.core.model import Choice
from tests.scripted import Scripted
from tests.server.responses.panels import ANALYSIS, Server, events_of, server

RESULT = "openrouter:fusion"


def panel() -> Server:
    return server(
        a=Scripted("a", texts=["It is 41."]),
        b=Scripted("b", texts=["It is 42."]),
        judge=Scripted("judge", texts=[json.dumps(ANALYSIS)]),
        writer=Scripted("writer", texts=["The answer is 42."]),
    )


def plugin(**more: Any) -> dict[str, Any]:
    return {"plugins": [{"id": "fusion", "analysis_models": ["a", "b"], "model": "judge", **more}]}


async def test_the_plugin_has_the_model_write_and_shows_the_panels_result() -> None:
    response = await panel().said("6 times 7?", "writer", **plugin())
    result, message = response["output"]
    assert (result["type"], result["status"]) == (RESULT, "completed")
    assert result["analysis"]["consensus"] == ["it is 42"]
    assert [(each["model"], each["content"]) for each in result["responses"]] == [
        ("a", "It is 41."),
        ("b", "It is 42."),
    ]
    assert result["failed_models"] == []
    assert message["content"][0]["text"] == "The answer is 42."
    assert response["model"] == "writer"


async def test_the_result_keeps_its_place_in_a_stream_from_its_beginning() -> None:
    asked = panel()
    same = {**plugin(), "seed": 7}  # in which order the judge sees the answers
    whole = await asked.said("6 times 7?", "writer", **same)
    events = events_of((await asked.ask("6 times 7?", "writer", stream=True, **same)).text)
    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert [(event["output_index"], event["item"]["type"]) for event in added] == [(0, RESULT), (1, "message")]
    name = added[0]["item"]["id"]
    assert added[0]["item"] == {"id": name, "type": RESULT, "status": "in_progress"}
    told = [event for event in events if event["type"].startswith("response.fusion_call.")]
    assert {(event["item_id"], event["output_index"]) for event in told} == {(name, 0)}
    output = events[-1]["response"]["output"]
    assert [{**item, "id": ""} for item in output] == [{**item, "id": ""} for item in whole["output"]]


async def test_the_slug_is_the_configured_fusion() -> None:
    response = await panel().said("6 times 7?", "openrouter/fusion", **plugin())
    assert [item["type"] for item in response["output"]] == [RESULT, "message"]
    assert response["model"] == "openrouter/fusion"


async def test_a_plugin_that_is_off_is_as_if_it_were_not_there() -> None:
    response = await panel().said("6 times 7?", "writer", **plugin(enabled=False))
    assert [item["type"] for item in response["output"]] == ["message"]


def consulting() -> Server:
    """The writer asks the panel, then answers."""
    asked = panel()
    call = Choice("", "tool_calls", (ToolCall("call_1", "openrouter_fusion", "{}"),))
    turns = iter([call, Choice("The answer is 42."), call, Choice("The answer is 42.")])
    writer = asked.models["writer"]
    writer._choice = lambda request, index: next(turns)  # type: ignore[method-assign]
    return asked


TOOL = {"type": RESULT, "parameters": {"analysis_models": ["a", "b"], "model": "judge"}}


async def test_a_model_consults_the_panel_by_the_tool() -> None:
    asked = consulting()
    whole = await asked.said("6 times 7?", "writer", tools=[TOOL])
    assert [item["type"] for item in whole["output"]] == [RESULT, "message"]
    assert whole["tools"] == [TOOL]
    events = events_of((await asked.ask("6 times 7?", "writer", stream=True, tools=[TOOL])).text)
    kinds = [event["type"].removeprefix("response.") for event in events]
    told = [kind for kind in kinds if kind.startswith("fusion_call")]
    assert told[0] == "fusion_call.in_progress"
    assert told.count("fusion_call.panel.completed") == 2
    assert told[-1] == "fusion_call.completed"
    assert kinds.index("fusion_call.completed") < kinds.index("output_text.delta")
    assert [item["type"] for item in events[-1]["response"]["output"]] == [RESULT, "message"]


async def test_a_model_that_does_not_need_the_panel_shows_none() -> None:
    stream = await panel().ask("6 times 7?", "writer", stream=True, tools=[TOOL])
    assert "fusion_call" not in stream.text
    assert [item["type"] for item in events_of(stream.text)[-1]["response"]["output"]] == ["message"]


async def test_the_tool_must_be_there_to_be_chosen() -> None:
    answer = await panel().ask("6 times 7?", "writer", tool_choice={"type": RESULT})
    assert (answer.status, answer.json()["error"]["param"]) == (400, "tool_choice.type")


async def test_results_sent_back_are_taken_and_not_read() -> None:
    asked = panel()
    first = await asked.said("6 times 7?", "writer", **plugin())
    await asked.said([*first["output"], {"role": "user", "content": "Why?"}], "a")
    assert [message.role for message in asked.models["a"].requests[-1].messages] == ["assistant", "user"]
