"""Calls beside the panel: to consult a model, and to have the answer written by the first that can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from local_fusion.config.base import Reference
from local_fusion.core.chat import Message
from local_fusion.core.events import StageStarted
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate
from local_fusion.core.sampling import Sampling
from local_fusion.errors import DeadlineExceeded, EmptyAnswer, EngineDied
from local_fusion.fusion.calls import consult, write
from local_fusion.fusion.session import Session
from local_fusion.simulation import clock
from tests.scripted import Heard, Scripted, asking, fusion

SHOWN = [
    Candidate("c1", "a", "a", "one two three", "stop", 1.0),
    Candidate("c2", "b", "b", "four five six", "stop", 1.0),
]
A, B, C = (Reference(model=name) for name in "abc")


def session(*models: Scripted, heard: Heard | None = None, **request: Any) -> Session:
    config = {"strategy": "single", "panel": [model.name for model in models]}
    built = fusion(models, f=config)["f"]
    return Session("f", built.config, asking(**request), built.resolve, {}, heard or Heard())


def build(texts: Sequence[str]) -> tuple[Message, ...]:
    return (Message("user", f"Write it from: {' / '.join(texts)}"),)


async def test_who_is_consulted_is_asked_for_ourselves_and_nothing_of_it_goes_out() -> None:
    model, heard = Scripted("a", ["<think>hm</think>Mind the tide."]), Heard()
    made = session(model, heard=heard, tools=({"type": "function"},), sampling=Sampling(temperature=1.5))
    choice = await consult(made, "judge", A, made.asks((Message("user", "What is missing?"),)))
    assert (choice.text, choice.reasoning) == ("Mind the tide.", "hm")
    assert heard.text == ""
    (asked,) = model.requests
    assert (asked.tools, asked.sampling, asked.request_id) == ((), Sampling(), "r1")
    assert [(call.stage, call.model) for call in made.calls] == [("judge", "a")]


@pytest.mark.parametrize(
    ("choice", "told", "hint"),
    [
        (Choice(" ", "stop"), "the muse came back empty", ""),
        (Choice("<think>hm", "length"), "the muse reached its token limit", "raise max_tokens of a"),
    ],
)
async def test_an_empty_opinion_is_a_failure_with_its_cause(choice: Choice, told: str, hint: str) -> None:
    made = session(Scripted("a", choices=[choice]))
    with pytest.raises(EmptyAnswer, match=told):
        await consult(made, "panel", A, made.asks((Message("user", "?"),)), label="the muse")
    (failure,) = made.failures
    assert failure.member == "the muse"
    assert hint in failure.hint


async def test_who_was_still_thinking_at_its_limit_is_consulted_again_with_more_room() -> None:
    class Thinks(Scripted):
        def _choice(self, request, index):  # type: ignore[no-untyped-def]
            short = request.sampling.max_tokens == 10
            return Choice("<think>hm", "length") if short else Choice("<think>hm</think>Yes.")

    model = Thinks("a")
    made = session(model)
    asked = made.asks((Message("user", "?"),), Sampling(max_tokens=10))
    choice = await consult(made, "judge", A, asked, label="the critic")
    assert (choice.text, choice.reasoning) == ("Yes.", "hm")
    assert [request.sampling.max_tokens for request in model.requests] == [10, 40]
    assert made.notes == ["the critic was still thinking after 10 tokens: asked again with more room"]
    assert made.failures == []


def test_the_deadline_of_the_stage_binds_who_is_consulted() -> None:
    async def run() -> Session:
        made = session(Scripted("a", hangs=True))
        with pytest.raises(DeadlineExceeded, match="300 s"):
            await consult(made, "judge", A, made.asks((Message("user", "?"),)))
        return made

    assert [failure.code for failure in clock.run(run()).failures] == ["deadline_exceeded"]


async def test_the_answer_is_streamed_in_the_clients_format_from_what_is_shown() -> None:
    writer, heard = Scripted("a", ["It is all of that."]), Heard()
    schema = {"type": "json_object"}
    made = session(writer, heard=heard, response_format=schema, sampling=Sampling(temperature=0.2))
    choice = await write(made, [Reference(model="a", temperature=0.9, top_p=0.5)], build, SHOWN)
    assert choice.text == heard.text == "It is all of that."
    (asked,) = writer.requests
    assert asked.messages == build(["one two three", "four five six"])
    assert asked.response_format == schema
    assert (asked.sampling.temperature, asked.sampling.top_p) == (0.2, 0.5)


async def test_the_next_writer_writes_where_one_fails_before_its_first_word() -> None:
    models = [Scripted("a", error=EngineDied("gone")), Scripted("b", [""]), Scripted("c", ["Here it is."])]
    heard = Heard()
    made = session(*models, heard=heard)
    choice = await write(made, [A, B, C], build, SHOWN)
    assert choice.text == heard.text == "Here it is."
    assert [failure.code for failure in made.failures] == ["engine_died", "empty_answer"]
    assert made.notes == [
        "a could not write the answer: b is asked in its place",
        "b could not write the answer: c is asked in its place",
    ]
    assert [event.models for event in heard.of(StageStarted)] == [("a",), ("b",), ("c",)]


async def test_nobody_takes_over_once_part_of_the_answer_was_sent() -> None:
    models = [Scripted("a", ["one two"], error=EngineDied("gone"), fails_after=1), Scripted("b")]
    with pytest.raises(EngineDied):
        await write(session(*models), [A, B], build, SHOWN)
    assert models[1].requests == []


async def test_the_last_writers_error_is_raised_where_all_fail() -> None:
    models = [Scripted(name, error=EngineDied(f"{name} is gone")) for name in "ab"]
    with pytest.raises(EngineDied, match="b is gone"):
        await write(session(*models), [A, B], build, SHOWN)


async def test_a_writer_whose_limit_came_while_it_thought_is_asked_again_with_more_room() -> None:
    class Thinks(Scripted):
        def _choice(self, request, index):  # type: ignore[no-untyped-def]
            return Choice("", "length", reasoning="hm") if request.sampling.max_tokens == 10 else Choice("Here it is.")

    writer, other = Thinks("a"), Scripted("b")
    made = session(writer, other)
    choice = await write(made, [Reference(model="a", max_tokens=10), B], build, SHOWN)
    assert choice.text == "Here it is."
    assert made.notes == ["a was still thinking after 10 tokens: asked again with more room"]
    assert other.requests == []


async def test_what_is_shown_is_cut_to_the_writers_own_context() -> None:
    small, large = Scripted("a", error=EngineDied("gone"), limit=40), Scripted("b", limit=4096)
    long = [Candidate("c1", "a", "a", "word " * 100, "stop", 1.0)]
    made = session(small, large)
    await write(made, [A, B], build, long)
    assert len(small.requests[0].messages[0].content) < len(large.requests[0].messages[0].content)
    assert [trim.reader for trim in made.trims] == ["a"]
