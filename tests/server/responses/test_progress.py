"""The panel at work, in a stream: OpenRouter's events, told of a real fusion over scripted models."""

from __future__ import annotations

import json
from typing import Any

from local_fusion.errors import EngineDied
from tests.scripted import Scripted
from tests.server.responses.panels import ANALYSIS, events_of, server


def panel(**changed: Scripted) -> dict[str, Scripted]:
    return {
        "a": Scripted("a", texts=["It is 41."]),
        "b": Scripted("b", texts=["It is 42."]),
        "judge": Scripted("judge", texts=[json.dumps(ANALYSIS)]),
        "writer": Scripted("writer", texts=["The answer is 42."]),
        **changed,
    }


async def told(**changed: Scripted) -> list[dict[str, Any]]:
    """The events of the panel, without what tells them apart."""
    stream = await server(**panel(**changed)).ask("What is 6 times 7?", "quality", stream=True)
    assert stream.status == 200
    events = [event for event in events_of(stream.text) if event["type"].startswith("response.fusion_call.")]
    assert {event.pop("item_id")[:10] for event in events} == {"st_fusion_"}
    assert {event.pop("output_index") for event in events} == {0}
    for event in events:
        event.pop("sequence_number")
        event.pop("seconds", None)
        event["type"] = event["type"].removeprefix("response.fusion_call.")
    return events


async def test_members_the_analysis_and_the_end_are_told_in_their_order() -> None:
    events = await told()
    assert events[0] == {"type": "in_progress"}
    assert sorted((event["type"], event["model"]) for event in events[1:5]) == [
        ("panel.added", "a"),
        ("panel.added", "b"),
        ("panel.completed", "a"),
        ("panel.completed", "b"),
    ]
    whole = {event["model"]: event for event in events if event["type"] == "panel.completed"}
    assert whole["a"] == {
        "type": "panel.completed",
        "model": "a",
        "content": "It is 41.",
        "member": whole["a"]["member"],
        "candidate": "c1",
    }
    assert events[5] == {"type": "analysis.in_progress", "analyst_model": "judge", "judge_model": "judge"}
    analysis = events[6]["analysis"]
    assert (events[6]["type"], events[6]["judge"]) == ("analysis.completed", "judge")
    assert analysis["consensus"] == ["it is 42"]
    assert analysis["contradictions"][0]["topic"] == "rounding"
    (first,) = (stance["model"] for stance in analysis["contradictions"][0]["stances"])
    assert {first, *analysis["partial_coverage"][0]["models"]} == {"a", "b"}  # in which order, the judge did not know
    assert analysis["unique_insights"] == [{"model": first, "insight": "a prime"}]
    assert analysis["blind_spots"] == ["none"]
    assert events[7:] == [{"type": "completed"}]


async def test_the_end_is_told_before_the_answer_is_written() -> None:
    stream = await server(**panel()).ask("What is 6 times 7?", "quality", stream=True)
    kinds = [event["type"] for event in events_of(stream.text)]
    assert kinds.index("response.fusion_call.completed") < kinds.index("response.output_text.delta")


async def test_a_member_that_fails_is_told_with_its_cause() -> None:
    events = await told(a=Scripted("a", error=EngineDied("a died")))
    failed = [event for event in events if event["type"] == "panel.failed"]
    assert failed == [{**failed[0], "model": "a", "error": "a died", "code": "engine_died", "status_code": 502}]
    assert [event["model"] for event in events if event["type"] == "panel.completed"] == ["b"]


async def test_a_judge_that_fails_is_told_too() -> None:
    events = await told(judge=Scripted("judge", error=EngineDied("the judge died")))
    kinds = [event["type"] for event in events]
    assert "analysis.failed" in kinds
    assert "analysis.completed" not in kinds
    assert kinds[-1] == "completed"


async def test_every_answer_of_a_member_is_told_by_itself() -> None:
    models = panel(a=Scripted("a", texts=["It is 41.", "It is 43."]))
    stream = await server(**models).ask(
        "What is 6 times 7?", "quality", stream=True, fusion={"panel": [{"model": "a", "samples": 2}, "b"]}
    )
    events = [event for event in events_of(stream.text) if event["type"].startswith("response.fusion_call.panel")]
    assert [event["model"] for event in events if event["type"].endswith("added")].count("a") == 2
    texts = [event["content"] for event in events if event["type"].endswith("completed") and event["model"] == "a"]
    assert texts == ["It is 41.", "It is 43."]


async def test_a_panel_of_which_nobody_answers_fails_the_response_and_never_completes() -> None:
    dead = {name: Scripted(name, error=EngineDied(f"{name} died")) for name in ("a", "b")}
    stream = await server(**panel(**dead)).ask("What is 6 times 7?", "quality", stream=True)
    events = events_of(stream.text)
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert "response.fusion_call.completed" not in {event["type"] for event in events}
    assert {failure["message"] for failure in events[-2]["error"]["failed"]} == {"a died", "b died"}
    assert events[-1]["response"]["error"]["code"] == "server_error"
