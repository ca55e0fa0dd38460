"""Cadence: which turns of an agent convene the panel, and who answers the others."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.core.chat import Message, ToolCall
from local_fusion.core.events import TextDelta
from local_fusion.core.model import Choice
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineDied, PanelFailed
from tests.scripted import Heard, Scripted, asking, fusion

CALL = ToolCall("call-1", "look", "{}")
TOOLS: tuple[dict[str, Any], ...] = ({"type": "function", "function": {"name": "look"}},)
USER = (Message("user", "Where is it?"),)
AFTER_A_TOOL = (*USER, Message("assistant", "", tool_calls=(CALL,)), Message("tool", "here", tool_call_id="call-1"))


def convened(cadence: str, **more: Any) -> dict[str, Any]:
    return {"strategy": "vote", "extract": "number", "panel": ["a", "b"], "cadence": cadence, **more}


def trio(solo: Scripted | None = None) -> list[Scripted]:
    return [Scripted("a", ["the panel says 1"]), Scripted("b", ["1"]), solo or Scripted("s", ["alone I say 2"])]


@pytest.mark.parametrize(
    ("cadence", "messages", "tools", "by_panel"),
    [
        ("every", USER, TOOLS, True),
        ("every", AFTER_A_TOOL, TOOLS, True),
        ("first", USER, TOOLS, True),
        ("first", AFTER_A_TOOL, TOOLS, False),
        ("first", (Message("system", "be brief"),), (), True),
        ("final", USER, (), True),
        ("final", AFTER_A_TOOL, (), True),
    ],
)
async def test_who_answers_a_turn(
    cadence: str, messages: tuple[Message, ...], tools: tuple[dict[str, Any], ...], by_panel: bool
) -> None:
    a, b, solo = trio()
    more = {} if cadence == "every" else {"solo": "s"}
    built = fusion([a, b, solo], f=convened(cadence, **more))["f"]
    reply = await built.answer(asking(tools=tools).but(messages=messages))
    assert reply.choices[0].text == ("the panel says 1" if by_panel else "alone I say 2")
    assert (len(a.requests), len(b.requests), len(solo.requests)) == ((1, 1, 0) if by_panel else (0, 0, 1))


async def test_alone_means_the_whole_request_streamed_and_told() -> None:
    a, b, solo = trio()
    heard = Heard()
    config = convened("first", solo={"model": "s", "temperature": 0.9, "top_p": 0.5})
    request = asking(tools=TOOLS, tool_choice="auto", sampling=Sampling(temperature=0.1)).but(messages=AFTER_A_TOOL)
    reply = await fusion([a, b, solo], f=config)["f"].answer(request, heard)
    (asked,) = solo.requests
    assert (asked.messages, asked.tools, asked.tool_choice) == (AFTER_A_TOOL, TOOLS, "auto")
    assert (asked.sampling.temperature, asked.sampling.top_p) == (0.1, 0.5)
    assert len(heard.of(TextDelta)) == 4
    assert reply.report is not None
    assert reply.report.notes == ("s answered this turn alone (cadence: first)",)


async def test_the_first_member_is_alone_where_nobody_else_was_named_with_its_own_sampling() -> None:
    a, b, _ = trio()
    config = {**convened("first"), "panel": [{"model": "a", "temperature": 0.7}, "b"]}
    await fusion([a, b], f=config)["f"].answer(asking(tools=TOOLS).but(messages=AFTER_A_TOOL))
    assert [request.sampling.temperature for request in a.requests] == [0.7]
    assert b.requests == []


async def test_final_lets_one_model_call_tools_alone() -> None:
    a, b, solo = trio(Scripted("s", choices=[Choice("I look.", "tool_calls", (CALL,), reasoning="hm")]))
    heard = Heard()
    reply = await fusion([a, b, solo], f=convened("final", solo="s"))["f"].answer(asking(tools=TOOLS), heard)
    assert reply.choices == (Choice("I look.", "tool_calls", (CALL,), reasoning="hm"),)
    assert heard.text == "I look."
    assert a.requests == []
    assert reply.report is not None
    assert reply.report.notes == ("s answered this turn alone (cadence: final)",)


async def test_final_convenes_the_panel_without_tools_where_that_model_calls_none() -> None:
    a, b, solo = trio()
    heard = Heard()
    reply = await fusion([a, b, solo], f=convened("final", solo="s"))["f"].answer(
        asking(tools=TOOLS, tool_choice="auto"), heard
    )
    assert reply.choices[0].text == heard.text == "the panel says 1"
    assert [(request.tools, request.tool_choice) for request in (*a.requests, *b.requests)] == [((), None)] * 2
    assert [call.model for call in reply.calls] == ["s", "a", "b"]
    assert reply.report is not None
    assert reply.report.notes == ()


async def test_final_with_tools_that_may_not_be_called_is_the_panels_at_once() -> None:
    a, b, solo = trio()
    built = fusion([a, b, solo], f=convened("final", solo="s"))["f"]
    reply = await built.answer(asking(tools=TOOLS, tool_choice="none"))
    assert reply.choices[0].text == "the panel says 1"
    assert solo.requests == []


@pytest.mark.parametrize(("cadence", "messages"), [("first", AFTER_A_TOOL), ("final", USER)])
async def test_the_panel_is_convened_where_that_model_fails_before_its_first_word(
    cadence: str, messages: tuple[Message, ...]
) -> None:
    a, b, solo = trio(Scripted("s", error=EngineDied("gone")))
    built = fusion([a, b, solo], f=convened(cadence, solo="s"))["f"]
    reply = await built.answer(asking(tools=TOOLS).but(messages=messages))
    assert reply.choices[0].text == "the panel says 1"
    assert a.requests[0].tools == TOOLS
    assert reply.report is not None
    assert [(failure.member, failure.code) for failure in reply.report.failed] == [("s", "engine_died")]
    assert reply.report.notes == ("s could not answer this turn alone: the panel was convened",)


async def test_nobody_takes_over_in_the_middle_of_a_sentence() -> None:
    a, b, solo = trio(Scripted("s", ["one two"], error=EngineDied("gone"), fails_after=1))
    with pytest.raises(EngineDied):
        await fusion([a, b, solo], f=convened("first", solo="s"))["f"].answer(asking().but(messages=AFTER_A_TOOL))
    assert a.requests == []


async def test_everybody_failing_names_every_cause() -> None:
    models = [Scripted(name, error=EngineDied(f"{name} is gone")) for name in "abs"]
    with pytest.raises(PanelFailed, match=r"s: s is gone; a: a is gone; b: b is gone"):
        await fusion(models, f=convened("final", solo="s"))["f"].answer(asking(tools=TOOLS))


async def test_an_empty_answer_alone_is_tried_again_with_more_room() -> None:
    class Thinks(Scripted):
        def _choice(self, request, index):  # type: ignore[no-untyped-def]
            return Choice("", "length", reasoning="hm") if request.sampling.max_tokens == 10 else Choice("At sea.")

    a, b, solo = trio(Thinks("s"))
    built = fusion([a, b, solo], f=convened("first", solo={"model": "s", "max_tokens": 10}))["f"]
    reply = await built.answer(asking().but(messages=AFTER_A_TOOL))
    assert reply.choices[0].text == "At sea."
    assert [request.sampling.max_tokens for request in solo.requests] == [10, 40]
