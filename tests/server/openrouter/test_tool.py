"""A model that may consult a panel: what it is asked, what it is told, and what becomes of its answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from local_fusion.core.chat import ChatRequest, Message, ToolCall
from local_fusion.core.events import CallEnded, ChoiceEnded, Event, MemberFinished, TextDelta, origin
from local_fusion.core.model import Choice, Emit, Reply, unheard
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineUnavailable
from local_fusion.server.openrouter.tool import NAME, TOOL, Consulting
from tests.scripted import Scripted, fusion

ANALYSIS = {
    "consensus": ["it is even"],
    "contradictions": [],
    "partial_coverage": [],
    "unique_insights": [],
    "blind_spots": [],
}
QUESTION = Message("user", "Is 42 even?")
WEATHER = {"type": "function", "function": {"name": "weather"}}
CONSULT = ToolCall("call_1", NAME, '{"prompt": "What do others say?"}')
CALLED = {"a": "openai/gpt-5.5", "b": "google/gemini"}


def calling(*calls: ToolCall, text: str = "") -> Choice:
    return Choice(text, "tool_calls", calls)


class Outer(Scripted):
    """Takes its `turns` one after the other."""

    def __init__(self, *turns: Choice, **more: Any) -> None:
        super().__init__("outer", **more)
        self.turns = list(turns)

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        self.choices = [self.turns.pop(0)]
        return await super().answer(request, emit)


@dataclass
class Court:
    outer: Outer
    a: Scripted
    b: Scripted
    judge: Scripted
    model: Consulting
    events: list[Event]

    async def asked(self, **more: Any) -> Reply:
        request = ChatRequest(**{"messages": (QUESTION,), "request_id": "r1", **more})
        return await self.model.answer(request, self.events.append)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))


def court(*turns: Choice, answers: Sequence[str] = ("Yes.", "Certainly."), **more: Any) -> Court:
    outer = Outer(*turns, **more)
    a, b = Scripted("a", [answers[0]]), Scripted("b", [answers[1]])
    judge = Scripted("judge", [json.dumps(ANALYSIS)])
    config = {"strategy": "synthesize", "panel": ["a", "b"], "judge": "judge", "synthesizer": "outer"}
    panel = fusion([outer, a, b, judge], panel=config)["panel"]
    return Court(outer, a, b, judge, Consulting(outer, panel, CALLED), [])


async def test_a_model_that_needs_no_panel_answers_by_itself() -> None:
    asked = court(Choice("Yes."))
    reply = await asked.asked()
    assert (reply.choices, asked.model.result, asked.a.requests) == ((Choice("Yes."),), None, [])
    assert asked.outer.requests[0].tools == (TOOL,)


async def test_a_panel_is_asked_and_its_result_is_the_tools() -> None:
    asked = court(calling(CONSULT), Choice("All say so."))
    reply = await asked.asked(sampling=Sampling(max_tokens=50, stop="x"))
    assert reply.choices == (Choice("All say so."),)
    called, told = asked.outer.requests[1].messages[1:]
    assert called == Message("assistant", "", tool_calls=(CONSULT,))
    assert (told.role, told.tool_call_id) == ("tool", "call_1")
    assert (
        json.loads(told.content)
        == asked.model.result
        == {
            "status": "ok",
            "analysis": ANALYSIS,
            "responses": [
                {"model": "openai/gpt-5.5", "content": "Yes."},
                {"model": "google/gemini", "content": "Certainly."},
            ],
            "failed_models": [],
        }
    )


async def test_members_write_no_more_than_one_answer_may_have() -> None:
    asked = court(calling(CONSULT), Choice("So."))
    asked.model.most_tokens = 7
    await asked.asked()
    assert [request.sampling.max_tokens for request in (*asked.a.requests, *asked.b.requests)] == [7, 7]


async def test_the_panel_stands_as_deep_as_the_request() -> None:
    asked = court(calling(CONSULT), Choice("So."))
    await asked.asked(depth=2)
    assert {request.depth for request in (*asked.a.requests, *asked.judge.requests)} == {2}


async def test_the_panel_reads_the_conversation_and_what_the_model_wants_to_know() -> None:
    asked = court(calling(CONSULT), Choice("So."))
    await asked.asked(sampling=Sampling(max_tokens=50, stop="x"), tools=(WEATHER,))
    (request,) = asked.a.requests
    assert request.messages == (Message("user", "Is 42 even?\n\nWhat do others say?"),)
    assert (request.tools, request.sampling) == ((), Sampling())


async def test_what_the_user_said_is_not_said_again() -> None:
    for arguments in ('{"prompt": "Is 42 even?"}', "{}", "", "no JSON", "[]", '{"prompt": 3}', '{"prompt": " "}'):
        asked = court(calling(ToolCall("1", NAME, arguments)), Choice("So."))
        await asked.asked()
        assert asked.a.requests[0].messages == (QUESTION,)


async def test_nobody_of_the_panel_writes_the_answer() -> None:
    asked = court(calling(CONSULT), Choice("So."))
    reply = await asked.asked()
    assert [(call.stage, call.model) for call in reply.calls] == [
        ("synthesis", "outer"),
        ("panel", "a"),
        ("panel", "b"),
        ("judge", "judge"),
        ("synthesis", "outer"),
    ]
    assert [event.call for event in asked.events if isinstance(event, CallEnded)] == list(reply.calls)


async def test_what_is_said_before_and_after_is_one_answer() -> None:
    asked = court(calling(CONSULT, text="Let me ask."), Choice("They agree.", reasoning="Hm."))
    reply = await asked.asked()
    assert reply.choices == (Choice("Let me ask.\n\nThey agree.", reasoning="Hm."),)
    assert asked.text == "Let me ask.\n\nThey agree."
    assert [event.choice for event in asked.events if isinstance(event, ChoiceEnded)] == list(reply.choices)


async def test_what_the_panel_does_is_told_as_the_panels() -> None:
    asked = court(calling(CONSULT), Choice("So."))
    await asked.asked()
    sources = {origin(event)[0] for event in asked.events if isinstance(origin(event)[1], MemberFinished)}
    assert sources == {("panel",)}


async def test_a_panel_is_asked_once() -> None:
    again = ToolCall("call_2", NAME, "{}")
    asked = court(calling(CONSULT), calling(again), Choice("So."))
    reply = await asked.asked()
    assert (reply.choices, len(asked.a.requests)) == ((Choice("So."),), 1)
    refused = json.loads(asked.outer.requests[2].messages[-1].content)
    assert (refused["status"], refused["failure_reason"]) == ("error", "fusion_invocation_capped")
    assert [request.tool_choice for request in asked.outer.requests] == [None, None, "none"]


async def test_of_two_calls_in_one_turn_the_first_counts() -> None:
    again = ToolCall("call_2", NAME, "{}")
    asked = court(calling(CONSULT, again), Choice("So."))
    await asked.asked()
    told = [json.loads(message.content)["status"] for message in asked.outer.requests[1].messages[2:]]
    assert (told, len(asked.a.requests)) == (["ok", "error"], 1)


async def test_a_model_that_never_stops_asking_is_answered_for_in_the_end() -> None:
    asked = court(*[calling(CONSULT, text="Once more.")] * 3)
    reply = await asked.asked()
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].tool_calls == ()


async def test_calls_of_the_clients_tools_go_to_the_client() -> None:
    weather = ToolCall("call_2", "weather", "{}")
    asked = court(calling(weather))
    assert (await asked.asked(tools=(WEATHER,))).choices == (calling(weather),)
    assert asked.outer.requests[0].tools == (WEATHER, TOOL)


async def test_of_mixed_calls_the_clients_come_first() -> None:
    weather = ToolCall("call_2", "weather", "{}")
    asked = court(calling(CONSULT, weather))
    reply = await asked.asked(tools=(WEATHER,))
    assert (reply.choices, asked.a.requests, asked.model.result) == ((calling(weather),), [], None)


async def test_a_panel_that_fails_is_told_to_the_model_which_goes_on() -> None:
    asked = court(calling(CONSULT), Choice("By myself: yes."))
    asked.a.error = asked.b.error = EngineUnavailable("is stopped")
    reply = await asked.asked()
    assert reply.choices == (Choice("By myself: yes."),)
    told = json.loads(asked.outer.requests[1].messages[-1].content)
    assert (told["status"], told["failure_reason"]) == ("error", "all_panels_failed")
    assert told["failed_models"] == [
        {"model": "openai/gpt-5.5", "error": "is stopped", "status_code": 503},
        {"model": "google/gemini", "error": "is stopped", "status_code": 503},
    ]
    assert reply.report is not None
    assert (reply.report.partial, len(reply.report.failed)) == (True, 2)


async def test_a_judge_that_fails_leaves_the_analysis_out() -> None:
    asked = court(calling(CONSULT), Choice("So."))
    asked.judge.texts = ["They agree."]
    await asked.asked()
    result = asked.model.result or {}
    assert "analysis" not in result
    assert (result["status"], result["failure_reason"]) == ("ok", "judge_not_valid_json")
    assert len(result["responses"]) == 2


async def test_answers_that_do_not_fit_the_models_context_are_cut_and_it_is_said() -> None:
    long = "word " * 400
    asked = court(calling(CONSULT), Choice("So."), answers=(long, long), limit=600)
    reply = await asked.asked(sampling=Sampling(max_tokens=100))
    told = json.loads(asked.outer.requests[1].messages[-1].content)
    assert all("characters left out" in each["content"] for each in told["responses"])
    assert [len(each["content"]) for each in (asked.model.result or {})["responses"]] == [len(long)] * 2
    assert reply.report is not None
    assert any("to fit outer's context" in note for note in reply.report.notes)
    assert len(asked.outer.requests[1].messages[-1].content.split()) <= 500


async def test_an_outer_model_that_is_a_fusion_keeps_its_report_where_it_asks_nobody() -> None:
    asked = court(Choice("Yes."))
    outer = fusion([asked.outer], one={"strategy": "single", "panel": ["outer"]})["one"]
    reply = await Consulting(outer, asked.model.panel, {}, writes=False).answer(ChatRequest(messages=(QUESTION,)))
    assert reply.report is not None
    assert (reply.report.fusion, reply.choices[0].text) == ("one", "Yes.")
