"""`muse`: one model answers, and another's short note reaches its ear when a trigger says so."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from local_fusion.core.chat import ChatRequest, Message, ToolCall
from local_fusion.core.events import CallEnded, TextDelta
from local_fusion.core.model import Choice, Emit, Reply, unheard
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EmptyAnswer, EngineDied
from tests.scripted import Heard, Scripted, asking, fusion

START = "The harbour was built when the town still lived on herring, and its granite came by barge."
LOOP = " It is a very old harbour for such a town."
STUCK = START + LOOP * 30
REST = " Later the trains came."


def muse(**trigger: Any) -> dict[str, Any]:
    return {"strategy": "muse", "panel": ["main"], "muse": "other", "trigger": trigger or {}}


def turns(number: int) -> tuple[Message, ...]:
    """A conversation whose user speaks for the `number`th time."""
    before = [Message("user", "hello"), Message("assistant", "hi")] * (number - 1)
    return (*before, Message("user", "and now?"))


def in_the_ear(request: ChatRequest) -> bool:
    return "Remarks by somebody who listens" in request.messages[-1].content


class Writer(Scripted):
    """Gets stuck until it hears a note. Can be broken off after every word."""

    def __init__(self, name: str = "main", **more: Any) -> None:
        super().__init__(name, answers=lambda request: REST if in_the_ear(request) else STUCK, **more)

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        self.requests.append(request)
        words = re.findall(r"\S*\s*", self._choice(request, 0).text)
        for written, word in enumerate(words):
            emit(TextDelta(word, 0, 1))
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self.cancelled += 1
                emit(CallEnded(self._call(request, written + 1, "cancelled")))
                raise
        call = self._call(request, len(words), None)
        emit(CallEnded(call))
        return Reply((Choice("".join(words)),), (call,))


async def test_without_a_trigger_the_answer_is_streamed_and_the_muse_is_not_asked() -> None:
    main, other = Scripted("main", [START]), Scripted("other")
    heard = Heard()
    reply = await fusion([main, other], f=muse())["f"].answer(asking(), heard)
    assert reply.choices[0].text == heard.text == START
    assert len(heard.of(TextDelta)) > 5
    assert other.requests == []
    assert main.requests[0].messages == asking().messages


@pytest.mark.parametrize(("turn", "whispers"), [(1, False), (2, False), (3, True), (4, False), (6, True)])
async def test_every_third_turn_of_the_user_begins_with_a_note(turn: int, whispers: bool) -> None:
    main, other = Scripted("main", [START]), Scripted("other", ["  Think of the trains. "])
    built = fusion([main, other], f=muse(every=3))["f"]
    reply = await built.answer(asking().but(messages=turns(turn)))
    assert len(other.requests) == whispers
    assert in_the_ear(main.requests[0]) == whispers
    assert reply.report is not None
    assert reply.report.notes == (("other noted: Think of the trains.",) if whispers else ())


async def test_answers_of_tools_are_no_turn_of_the_users() -> None:
    main, other = Scripted("main", [START]), Scripted("other")
    call = Message("assistant", "", tool_calls=(ToolCall("1", "look", "{}"),))
    conversation = (*turns(3), call, Message("tool", "found", tool_call_id="1"))
    await fusion([main, other], f=muse(every=3))["f"].answer(asking().but(messages=conversation))
    assert other.requests == []


async def test_chance_decides_by_the_requests_seed() -> None:
    main, other = Scripted("main", [START]), Scripted("other")
    built = fusion([main, other], f=muse(random=0.5))["f"]
    whispered = []
    for seed in [*range(20), *range(20)]:
        before = len(other.requests)
        await built.answer(asking(sampling=Sampling(seed=seed)))
        whispered.append(len(other.requests) - before)
    assert whispered[:20] == whispered[20:]
    assert 0 < sum(whispered[:20]) < 20


async def test_the_note_is_short_and_asked_for_before_the_conversation_is_answered() -> None:
    order: list[str] = []
    main = Scripted("main", answers=lambda _: order.append("main") or START)  # type: ignore[func-returns-value]
    other = Scripted("other", answers=lambda _: order.append("other") or "Mind the tide.")  # type: ignore[func-returns-value]
    await fusion([main, other], f=muse(every=1))["f"].answer(asking("When does the ferry leave?"))
    assert order == ["other", "main"]
    assert other.requests[0].sampling.max_tokens == 60
    shown = main.requests[0].messages[-1].content
    assert shown.startswith("When does the ferry leave?\n\n")
    assert "Mind the tide." in shown
    assert other.requests[0].messages[-1].content.startswith("When does the ferry leave?\n\n")


async def test_an_answer_that_repeats_itself_is_broken_off_and_goes_on_with_a_note() -> None:
    main, other = Writer(), Scripted("other", ["Say when the trains came."])
    heard = Heard()
    reply = await fusion([main, other], f=muse())["f"].answer(asking(), heard)
    text = reply.choices[0].text
    assert text == START + LOOP + REST
    assert heard.text == text
    first, second = main.requests
    assert (first.prefix, second.prefix) == ("", START + LOOP)
    assert "Say when the trains came." in second.messages[-1].content
    assert START + LOOP in other.requests[0].messages[-1].content
    assert main.cancelled == 1
    assert reply.report is not None
    assert [note.split(",")[0] for note in reply.report.notes] == [
        "main repeated itself",
        "other noted: Say when the trains came.",
    ]


async def test_what_was_sent_of_a_long_repetition_stays() -> None:
    """Only so much is held back; the answer is never cut back to before what the client has read."""
    verse = " ".join(f"word{number}" for number in range(250))

    class Singer(Writer):
        def _choice(self, request: ChatRequest, index: int) -> Choice:
            return Choice(REST if in_the_ear(request) else f"{START} {f'{verse} ' * 9}")

    main, other, heard = Singer(), Scripted("other", ["Trains."]), Heard()
    reply = await fusion([main, other], f=muse())["f"].answer(asking(), heard)
    assert main.cancelled == 1
    assert reply.choices[0].text == heard.text
    assert heard.text.startswith(f"{START} {verse}")
    assert heard.text.endswith(REST)


async def test_every_call_counts_also_the_one_that_was_broken_off() -> None:
    main, other = Writer(), Scripted("other", ["Say when the trains came."])
    reply = await fusion([main, other], f=muse())["f"].answer(asking())
    assert [(call.model, call.error) for call in reply.calls] == [
        ("main", "cancelled"),
        ("other", None),
        ("main", None),
    ]
    assert all(call.usage.completion_tokens for call in reply.calls)


async def test_an_answer_that_never_comes_free_gets_no_more_notes_than_allowed() -> None:
    main, other = Scripted("main", [LOOP * 30]), Scripted("other", ["Something else."])
    heard = Heard()
    reply = await fusion([main, other], f={**muse(), "max_notes": 2})["f"].answer(asking(), heard)
    assert len(other.requests) == 2
    assert len(main.requests) == 3
    assert heard.text == reply.choices[0].text
    assert reply.choices[0].text.endswith(LOOP * 30)  # the last piece is as it is


async def test_the_first_note_counts_too() -> None:
    main, other = Scripted("main", [STUCK]), Scripted("other", ["Something else."])
    await fusion([main, other], f={**muse(every=1), "max_notes": 1})["f"].answer(asking())
    assert len(other.requests) == 1
    assert len(main.requests) == 1


async def test_repetition_can_be_left_unwatched() -> None:
    main, other = Scripted("main", [STUCK]), Scripted("other")
    heard = Heard()
    reply = await fusion([main, other], f=muse(repetition=False, every=9))["f"].answer(asking(), heard)
    assert reply.choices[0].text == heard.text == STUCK
    assert len(heard.of(TextDelta)) == len(STUCK.split(" "))


async def test_an_answer_held_to_a_format_is_not_broken_off_because_nobody_could_go_on_with_it() -> None:
    main, other = Scripted("main", [STUCK]), Scripted("other")
    reply = await fusion([main, other], f=muse())["f"].answer(asking(response_format={"type": "json_object"}))
    assert reply.choices[0].text == STUCK
    assert main.requests[0].response_format == {"type": "json_object"}
    assert reply.report is not None
    assert reply.report.notes == ("an answer that is held to a format is not watched for repetition",)


async def test_a_format_that_is_plain_text_is_none() -> None:
    main, other = Writer(), Scripted("other", ["Say when the trains came."])
    reply = await fusion([main, other], f=muse())["f"].answer(asking(response_format={"type": "text"}))
    assert reply.choices[0].text == START + LOOP + REST
    assert [request.response_format for request in main.requests] == [None, None]


async def test_the_clients_limit_binds_all_pieces_together() -> None:
    main, other = Writer(), Scripted("other", ["Say when the trains came."])
    reply = await fusion([main, other], f=muse())["f"].answer(asking(sampling=Sampling(max_tokens=500)))
    written = reply.calls[0].usage.completion_tokens
    assert [request.sampling.max_tokens for request in main.requests] == [500, 500 - written]


async def test_a_limit_that_the_first_piece_used_up_ends_the_answer() -> None:
    main, other = Writer(), Scripted("other")
    heard = Heard()
    reply = await fusion([main, other], f=muse())["f"].answer(asking(sampling=Sampling(max_tokens=20)), heard)
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].text == heard.text == START + LOOP
    assert other.requests == []


@pytest.mark.parametrize("trigger", [{"every": 1}, {"repetition": True}], ids=["before", "amid"])
async def test_a_muse_that_fails_is_told_and_the_answer_goes_on_without(trigger: dict[str, Any]) -> None:
    texts = iter([STUCK, REST])
    main = Scripted("main", answers=lambda _: next(texts))
    other = Scripted("other", error=EngineDied("gone"))
    reply = await fusion([main, other], f=muse(**trigger))["f"].answer(asking())
    assert reply.choices[0].text == START + LOOP + REST
    assert not any(in_the_ear(request) for request in main.requests)
    assert reply.report is not None
    assert {failure.member for failure in reply.report.failed} == {"other (muse)"}
    assert "the muse failed: the answer goes on without its note" in reply.report.notes


async def test_a_main_model_that_fails_is_the_failure_of_the_request() -> None:
    main, other = Scripted("main", error=EngineDied("gone")), Scripted("other")
    with pytest.raises(EngineDied):
        await fusion([main, other], f=muse(every=1))["f"].answer(asking())


async def test_an_empty_answer_is_a_failure() -> None:
    with pytest.raises(EmptyAnswer):
        await fusion([Scripted("main", [""]), Scripted("other")], f=muse())["f"].answer(asking())


async def test_a_piece_that_adds_nothing_is_none() -> None:
    main = Scripted("main", answers=lambda request: "" if in_the_ear(request) else STUCK)
    reply = await fusion([main, Scripted("other", ["Stop there."])], f=muse())["f"].answer(asking())
    assert reply.choices[0] == Choice(START + LOOP)


async def test_a_fusion_cannot_go_on_with_its_answer_so_the_answer_ends_where_it_was_broken_off() -> None:
    main, other = Scripted("inner", [STUCK]), Scripted("other", ["Something else."])
    built = fusion([main, other], main={"strategy": "single", "panel": ["inner"]}, f=muse())
    reply = await built["f"].answer(asking())
    assert reply.choices[0].text == START + LOOP
    assert reply.choices[0].finish_reason == "length"
    assert reply.report is not None
    assert "main cannot go on with an answer that was broken off: it ends there" in reply.report.notes


async def test_calls_of_tools_pass_through() -> None:
    calls = (ToolCall("x1", "look", '{"at": "harbour"}'),)
    main = Scripted("main", choices=[Choice("", "tool_calls", calls)])
    tools = ({"type": "function", "function": {"name": "look"}},)
    reply = await fusion([main, Scripted("other")], f=muse())["f"].answer(asking(tools=tools))
    assert reply.choices[0].tool_calls == calls
    assert main.requests[0].tools == tools


async def test_thoughts_of_the_main_model_are_passed_on_as_thoughts() -> None:
    main = Scripted("main", choices=[Choice("The ferry leaves at noon.", reasoning="It is Monday.")])
    heard = Heard()
    reply = await fusion([main, Scripted("other")], f=muse())["f"].answer(asking(), heard)
    assert reply.choices[0].reasoning == "It is Monday."
    assert "".join(delta.reasoning for delta in heard.of(TextDelta)) == "It is Monday."
    assert heard.text == "The ferry leaves at noon."


@pytest.mark.parametrize("hanging", ["main", "other"])
async def test_cancelling_leaves_nothing_running(hanging: str) -> None:
    main, other = Scripted("main", [STUCK]), Scripted("other", ["Something else."])
    models = {"main": main, "other": other}
    models[hanging].hangs = True
    task = asyncio.create_task(fusion([main, other], f=muse(every=1))["f"].answer(asking()))
    while not models[hanging].requests:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert models[hanging].cancelled == 1
