"""What comes back from an engine beside text: ends, tool calls, thoughts, certainty, and answers that were begun."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from local_fusion.core.chat import ChatRequest, Message, ToolCall
from local_fusion.core.events import ChoiceEnded, TextDelta
from local_fusion.core.model import Choice, Room
from local_fusion.core.records import Certainty, Usage
from local_fusion.core.sampling import Sampling
from local_fusion.engines.answering import CallInProgress
from local_fusion.engines.chunks import Chunk
from local_fusion.errors import EngineDied, RequestError
from tests.engines.conftest import MakeModel
from tests.engines.waiting import recorded
from tests.fake_engine import Script
from tests.scripted import Heard

ASKED = ChatRequest(messages=(Message("user", "one two three"),))
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALLED = [{"name": "weather", "arguments": '{"city": "Rome"}'}, {"name": "weather", "arguments": "{}"}]


def body_of(record: Path) -> dict[str, Any]:
    """The one request that the engine got."""
    (body,) = (entry["body"] for entry in recorded(record) if entry["event"] == "request")
    return dict(body)


async def test_each_answer_is_told_as_whole_while_others_are_still_written(make_model: MakeModel) -> None:
    model, heard = await make_model(Script(rules=[("three", ["red green", "blue"])])), Heard()
    reply = await model.answer(ASKED.but(samples=2), heard)
    told = [(type(event), event.index) for event in heard.events if isinstance(event, TextDelta | ChoiceEnded)]
    assert told == [(TextDelta, 0), (TextDelta, 1), (ChoiceEnded, 1), (TextDelta, 0), (ChoiceEnded, 0)]
    assert [event.choice for event in heard.of(ChoiceEnded)] == [reply.choices[1], reply.choices[0]]


async def test_an_answer_that_is_broken_off_is_never_told_as_whole(make_model: MakeModel) -> None:
    script = Script(rules=[("three", ["red green", "blue"])], cut_after_tokens=2)
    model, heard = await make_model(script), Heard()
    with pytest.raises(EngineDied):
        await model.answer(ASKED.but(samples=2), heard)
    assert heard.of(ChoiceEnded) == [ChoiceEnded(1, Choice("blue"))]


def test_an_answer_that_its_engine_gave_up_is_none() -> None:
    call = CallInProgress("qwen", 1)
    told = [*call.take(Chunk(0, "half", None, Usage(3, 1))), *call.take(Chunk(0, "", "abort", Usage(3, 1)))]
    assert told == [TextDelta("half", 0, 1)]
    with pytest.raises(EngineDied, match="qwen broke off"):
        call.choices()


async def test_tools_are_offered_and_their_calls_come_back_whole(make_model: MakeModel, tmp_path: Path) -> None:
    script = Script(calls=[("three", CALLED)], record=str(tmp_path / "record"))
    model, heard = await make_model(script, tool_call_parser="hermes"), Heard()
    request = ASKED.but(tools=(WEATHER,), tool_choice="required", parallel_tool_calls=False)
    (choice,) = (await model.answer(request, heard)).choices
    called = (ToolCall("call-0", "weather", '{"city": "Rome"}'), ToolCall("call-1", "weather", "{}"))
    assert choice == Choice("", "tool_calls", called)
    assert sum(delta.tokens for delta in heard.of(TextDelta)) == 5
    body = body_of(tmp_path / "record")
    assert (body["tools"], body["tool_choice"], body["parallel_tool_calls"]) == ([WEATHER], "required", False)


async def test_earlier_calls_and_what_tools_answered_are_part_of_the_conversation(
    make_model: MakeModel, tmp_path: Path
) -> None:
    model = await make_model(Script(record=str(tmp_path / "record")))
    called = Message("assistant", "", tool_calls=(ToolCall("c", "weather", "{}"),))
    await model.answer(ASKED.but(messages=(*ASKED.messages, called, Message("tool", "sunny", tool_call_id="c"))))
    function = {"name": "weather", "arguments": "{}"}
    assert body_of(tmp_path / "record")["messages"][1:] == [
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "type": "function", "function": function}]},
        {"role": "tool", "content": "sunny", "tool_call_id": "c"},
    ]


@pytest.mark.parametrize("choice", [None, "auto", "required", {"type": "function", "function": {"name": "weather"}}])
async def test_tools_that_nothing_says_how_to_call_are_refused_with_the_option_to_set(
    make_model: MakeModel, choice: Any
) -> None:
    model = await make_model(Script())
    with pytest.raises(RequestError, match="qwen cannot call tools") as refused:
        await model.answer(ASKED.but(tools=(WEATHER,), tool_choice=choice))
    assert refused.value.param == "tools"
    assert "Set `tool_call_parser` of the model qwen" in refused.value.hint


async def test_tools_that_must_not_be_called_need_no_option(make_model: MakeModel) -> None:
    model = await make_model(Script(weights=[("three", {"A": 0.6, "B": 0.2})]))
    request = ASKED.but(tools=(WEATHER,))
    assert (await model.answer(request.but(tool_choice="none"))).choices == (Choice("echo: one two three"),)
    assert await model.weigh(request, ("A", "B")) == pytest.approx({"A": 0.75, "B": 0.25})


async def test_thoughts_are_kept_apart_from_the_answer(make_model: MakeModel) -> None:
    script = Script(thoughts=[("three", "let me see")], rules=[("three", "red green")])
    model, heard = await make_model(script, reasoning_parser="qwen3"), Heard()
    (choice,) = (await model.answer(ASKED, heard)).choices
    assert choice == Choice("red green", reasoning="let me see")
    assert "".join(delta.reasoning for delta in heard.of(TextDelta)) == "let me see"
    assert heard.text == "red green"
    assert [delta.tokens for delta in heard.of(TextDelta)] == [1] * 5


async def test_thoughts_that_take_all_tokens_leave_an_empty_answer(make_model: MakeModel) -> None:
    model = await make_model(Script(thoughts=[("three", "let me see")]), reasoning_parser="qwen3")
    (choice,) = (await model.answer(ASKED.but(sampling=Sampling(max_tokens=2)))).choices
    assert choice == Choice("", "length", reasoning="let me")


async def test_certainty_is_of_the_tokens_chosen_and_of_the_likeliest_beside_them(
    make_model: MakeModel, tmp_path: Path
) -> None:
    script = Script(rules=[("three", "red green")], logprobs={"red": -0.5, "green": -0.25})
    script.record = str(tmp_path / "record")
    model, heard = await make_model(script), Heard()
    (choice,) = (await model.answer(ASKED.but(certainty=True), heard)).choices
    red, green = (0.5 + 19 * 9) / 20, (0.25 + 19 * 9) / 20  # the fake's other 19 tokens have -9 each
    assert [delta.certainties for delta in heard.of(TextDelta)] == [(pytest.approx(red),), (pytest.approx(green),)]
    assert choice.certainty is not None
    mean = (red + green) / 2
    assert astuple(choice.certainty) == pytest.approx((-0.375, mean, mean, 2))
    body = body_of(tmp_path / "record")
    assert (body["logprobs"], body["top_logprobs"]) == (True, Certainty.TOP)


async def test_nobody_is_asked_for_certainty_that_was_not_wanted(make_model: MakeModel, tmp_path: Path) -> None:
    model = await make_model(Script(record=str(tmp_path / "record")))
    (choice,) = (await model.answer(ASKED)).choices
    assert choice.certainty is None
    assert "logprobs" not in body_of(tmp_path / "record")


async def test_an_answer_that_was_begun_is_continued_and_not_repeated(make_model: MakeModel, tmp_path: Path) -> None:
    model = await make_model(Script(rules=[("three", "red green blue")], record=str(tmp_path / "record")))
    reply = await model.answer(ASKED.but(prefix="red green"))
    assert reply.choices == (Choice(" blue"),)
    body = body_of(tmp_path / "record")
    assert body["messages"][-1] == {"role": "assistant", "content": "red green"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert "echo" not in body


async def test_an_answer_that_was_begun_cannot_be_held_to_a_format(make_model: MakeModel) -> None:
    model = await make_model(Script())
    with pytest.raises(RequestError, match="cannot be held to a format") as refused:
        await model.answer(ASKED.but(prefix="{", response_format={"type": "json_object"}))
    assert refused.value.param == "response_format"


async def test_tools_and_the_beginning_of_the_answer_take_room(make_model: MakeModel) -> None:
    model = await make_model(Script())
    assert await model.measure(ASKED) == Room(4, 4096)
    assert await model.measure(ASKED.but(tools=(WEATHER,))) == Room(6, 4096)
    assert await model.measure(ASKED.but(prefix="red green")) == Room(7, 4096)
