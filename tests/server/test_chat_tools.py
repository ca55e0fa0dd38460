"""Tools, thoughts, several answers and savings over HTTP: the official client, and the wire where it hides things."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import openai
import pytest

from local_fusion.core.chat import ChatRequest, Message, ToolCall
from local_fusion.core.events import ChoiceEnded, Event, MemberProgress, Nested, Saved
from local_fusion.core.model import Choice, Emit, FusionReport, Reply, unheard
from local_fusion.core.records import Candidate, Certainty, Saving
from tests.scripted import Scripted
from tests.server.controlled import asking_of, controlled, overview
from tests.serving import listening

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "How the weather is.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ASKED: Any = [{"role": "user", "content": "Is it warmer in Bonn or in Rome?"}]
BONN, ROME = ToolCall("call_1", "weather", '{"city": "Bonn"}'), ToolCall("call_2", "weather", '{"city": "Rome"}')
CALLS = Choice("", "tool_calls", (BONN, ROME))


@dataclass
class Panel(Scripted):
    """A fusion that answers by script, tells what `happened`, and gives a `report`; samples in `lost` fail."""

    report: FusionReport | None = None
    happened: list[Event] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        for event in self.happened:
            emit(event)

        def without_lost(event: Event) -> None:
            if not isinstance(event, ChoiceEnded) or event.index not in self.lost:
                emit(event)

        reply = await super().answer(request, without_lost)
        kept = tuple(choice for index, choice in enumerate(reply.choices) if index not in self.lost)
        return replace(reply, choices=kept, report=self.report)


def served(panel: Scripted) -> Any:
    runtime = controlled(overview("a"), panel={"strategy": "single", "panel": ["a"]})
    return replace(runtime, models={**runtime.models, "panel": panel})


@asynccontextmanager
async def asking(panel: Scripted) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client of a server whose fusion is `panel`."""
    async with (
        listening(asking_of(served(panel)).app) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


async def post(panel: Scripted, **body: Any) -> tuple[int, Any]:
    answer = await asking_of(served(panel)).post("/v1/chat/completions", {"model": "panel", "messages": ASKED, **body})
    return answer.status, answer.json()


async def chunks(panel: Scripted, **body: Any) -> list[Any]:
    """What a streaming client gets, comments left out."""
    asked = {"model": "panel", "messages": ASKED, "stream": True, **body}
    answer = await asking_of(served(panel)).post("/v1/chat/completions", asked)
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def test_tool_calls_come_as_the_model_wrote_them() -> None:
    async with asking(Panel("panel", choices=[CALLS])) as client:
        answer = await client.chat.completions.create(model="panel", messages=ASKED, tools=[WEATHER])
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls is not None
    assert [call.to_dict() for call in choice.message.tool_calls] == [BONN.to_openai(), ROME.to_openai()]


async def test_what_is_said_beside_a_tool_call_is_kept() -> None:
    _, answer = await post(Panel("panel", choices=[replace(CALLS, text="I look.")]), tools=[WEATHER])
    assert answer["choices"][0]["message"]["content"] == "I look."


async def test_an_answer_without_tool_calls_and_thoughts_does_not_speak_of_them() -> None:
    _, answer = await post(Panel("panel", choices=[Choice("Rome.")]), tools=[WEATHER])
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Rome.", "refusal": None}


async def test_the_official_client_puts_streamed_tool_calls_together() -> None:
    async with (
        asking(Panel("panel", choices=[replace(CALLS, text="I look.")])) as client,
        client.chat.completions.stream(model="panel", messages=ASKED, tools=[WEATHER]) as stream,
    ):
        final = (await stream.get_final_completion()).choices[0]
    assert (final.finish_reason, final.message.content) == ("tool_calls", "I look.")
    assert final.message.tool_calls is not None
    told = [(call.id, call.function.name, call.function.arguments) for call in final.message.tool_calls]
    assert told == [(call.id, call.name, call.arguments) for call in (BONN, ROME)]


async def test_every_streamed_tool_call_has_a_chunk_of_its_own_before_the_end() -> None:
    deltas = [chunk["choices"][0] for chunk in await chunks(Panel("panel", choices=[CALLS]), tools=[WEATHER])]
    assert [delta["delta"] for delta in deltas] == [
        {"role": "assistant", "content": ""},
        {"tool_calls": [{"index": 0, **BONN.to_openai()}]},
        {"tool_calls": [{"index": 1, **ROME.to_openai()}]},
        {},
    ]
    assert [delta["finish_reason"] for delta in deltas] == [None, None, None, "tool_calls"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_tools_and_their_results_reach_the_models_as_they_came(streamed: bool) -> None:
    panel = Panel("panel", choices=[replace(CALLS, reasoning="Two calls.")])
    async with asking(panel) as client:
        if streamed:
            async with client.chat.completions.stream(model="panel", messages=ASKED, tools=[WEATHER]) as stream:
                said: Any = (await stream.get_final_completion()).choices[0].message
        else:
            said = (await client.chat.completions.create(model="panel", messages=ASKED)).choices[0].message
        results: Any = [
            {"role": "tool", "tool_call_id": "call_2", "content": "31 °C"},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "12 °C"}]},
        ]
        await client.chat.completions.create(
            model="panel",
            messages=[*ASKED, said, *results],
            tools=[WEATHER],
            tool_choice={"type": "function", "function": {"name": "weather"}},
            parallel_tool_calls=False,
        )
    asked = panel.requests[-1]
    assert asked.messages == (
        Message("user", "Is it warmer in Bonn or in Rome?"),
        Message("assistant", "", tool_calls=(BONN, ROME)),
        Message("tool", "31 °C", tool_call_id="call_2"),
        Message("tool", "12 °C", tool_call_id="call_1"),
    )
    assert asked.tools == (WEATHER,)
    assert asked.tool_choice == {"type": "function", "function": {"name": "weather"}}
    assert asked.parallel_tool_calls is False


async def test_thoughts_come_beside_the_answer_whole_and_streamed() -> None:
    panel = Panel("panel", choices=[Choice("It is Rome.", reasoning="Rome lies south.")])
    _, answer = await post(panel)
    message = answer["choices"][0]["message"]
    assert (message["content"], message["reasoning"]) == ("It is Rome.", "Rome lies south.")
    async with asking(panel) as client:
        stream = await client.chat.completions.create(model="panel", messages=ASKED, stream=True)
        deltas = [chunk.choices[0].delta async for chunk in stream]
    thoughts = [delta.to_dict().get("reasoning") for delta in deltas]
    assert "".join(str(thought) for thought in thoughts if thought) == "Rome lies south."
    assert "".join(delta.content or "" for delta in deltas) == "It is Rome."
    assert all(delta.content is None for delta, thought in zip(deltas, thoughts, strict=True) if thought)


async def test_several_answers_come_under_their_own_indexes() -> None:
    panel = Panel("panel", choices=[Choice("Rome."), CALLS, Choice("Bonn.")])
    _, answer = await post(panel, n=3, tools=[WEATHER])
    assert [(choice["index"], choice["finish_reason"]) for choice in answer["choices"]] == [
        (0, "stop"),
        (1, "tool_calls"),
        (2, "stop"),
    ]
    async with (
        asking(panel) as client,
        client.chat.completions.stream(model="panel", messages=ASKED, n=3) as stream,
    ):
        choices = (await stream.get_final_completion()).choices
    assert [(choice.index, choice.message.content, choice.finish_reason) for choice in choices] == [
        (0, "Rome.", "stop"),
        (1, "", "tool_calls"),
        (2, "Bonn.", "stop"),
    ]
    assert choices[1].message.tool_calls is not None
    assert [call.id for call in choices[1].message.tool_calls] == ["call_1", "call_2"]


async def test_of_several_streamed_answers_the_one_that_failed_is_told() -> None:
    panel = Panel("panel", choices=[Choice("Rome."), Choice("Rome, I"), Choice("Bonn, I", "length")], lost={1})
    last = (await chunks(panel, n=3))[-1]["choices"]
    assert [(choice["index"], choice["finish_reason"]) for choice in last] == [(0, "stop"), (1, "error"), (2, "length")]


REPORT = FusionReport("r1", "panel", "vote")
SAVED = Saving("decided", 12, "nobody could catch up with 42 any more")


async def test_what_was_saved_is_always_told_also_where_it_was_nothing() -> None:
    _, answer = await post(Panel("panel", report=REPORT))
    assert answer["fusion"]["savings"] == []
    saving = Panel("panel", report=replace(REPORT, savings=(SAVED,)))
    told = [{"kind": "decided", "samples": 12, "reason": "nobody could catch up with 42 any more"}]
    _, answer = await post(saving)
    assert answer["fusion"]["savings"] == told
    assert (await chunks(saving))[-1]["fusion"]["savings"] == told


async def test_candidates_tell_their_round_calls_thoughts_and_certainty() -> None:
    sure = Certainty(-0.1, 14.0, 9.0, tokens=3)
    candidate = Candidate("c1", "a", "a", "", "tool_calls", 1.0, None, 2, (BONN,), "Bonn first.", sure)
    _, answer = await post(
        Panel("panel", report=replace(REPORT, candidates=(candidate,))), fusion={"include": ["candidates"]}
    )
    (told,) = answer["fusion"]["candidates"]
    assert (told["round"], told["reasoning"]) == (2, "Bonn first.")
    assert told["tool_calls"] == [{"id": "call_1", "name": "weather", "arguments": '{"city": "Bonn"}'}]
    assert told["certainty"] == {"mean_logprob": -0.1, "self_certainty": 14.0, "lowest": 9.0, "tokens": 3}


async def test_events_tell_of_savings_and_not_of_answers_that_stand_elsewhere() -> None:
    inside: list[Event] = [
        Nested("council", ChoiceEnded(0, CALLS)),
        Nested("council", MemberProgress("a", 3)),
        Saved(SAVED),
    ]
    panel = Panel("panel", report=REPORT, happened=inside)
    received = await chunks(panel, fusion={"events": True, "include": ["trace"]})
    told = [chunk["fusion"]["event"] for chunk in received if "event" in chunk.get("fusion", {})]
    assert [event["type"] for event in told] == ["nested", "saved"]
    assert told[0]["event"]["type"] == "member_progress"
    traced = [entry["type"] for entry in received[-1]["fusion"]["trace"]]
    assert traced == ["request", "saved", "call_ended"]


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"strategy": "refine", "panel": ["a"], "reviewer": {"command": ["true"]}}, "fusion.reviewer"),
        ({"strategy": "best_of", "panel": ["a", "a"], "judge": {"command": ["true"]}}, "fusion.judge"),
        (
            {"strategy": "best_of", "panel": ["a", "a"], "judge": ["a", {"judges": ["a", {"command": ["true"]}]}]},
            "fusion.judge",
        ),
        (
            {"strategy": "vote", "panel": ["a", "a"], "extract": "code", "verifier": {"command": ["true"]}},
            "fusion.verifier",
        ),
    ],
)
async def test_no_client_can_name_a_program_to_run(asked: dict[str, Any], where: str) -> None:
    status, answer = await post(Scripted("panel"), fusion=asked)
    assert status == 400, answer
    assert answer["error"]["param"].startswith(where)
    assert "configuration" in answer["error"]["message"]
