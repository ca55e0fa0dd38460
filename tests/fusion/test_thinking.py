"""Thinking is no part of an answer, and an answer that its limit left empty is no answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.core.events import TextDelta
from local_fusion.core.model import Choice
from local_fusion.core.sampling import Sampling
from local_fusion.fusion.thinking import (
    Thoughts,
    emptied_by_cap,
    empty_answer,
    says_something,
    thought_first,
    with_more_room,
    without_thinking,
)
from tests.scripted import Heard, Scripted, asking, fusion


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("<think>6 times 7</think>\n\n42", "6 times 7", "42"),
        ("\n<think>\n6 times 7\n</think>42", "6 times 7", "42"),
        ("6 times 7\n</think>\n42", "6 times 7", "42"),  # the chat template wrote the opening tag
        ("<think>6 times 7, that is", "6 times 7, that is", ""),  # cut off by the limit
        ("<think></think>42", "", "42"),
        ("42", "", "42"),
        ("Close it with </think>, once <think> has opened it.", "Close it with", ", once <think> has opened it."),
        ("Between <think> and </think> it thinks.", "", "Between <think> and </think> it thinks."),
    ],
)
def test_what_stands_in_the_tags_is_thought(text: str, thought: str, answer: str) -> None:
    choice = without_thinking(Choice(text))
    assert (choice.reasoning, choice.text) == (thought, answer)


def test_thoughts_that_the_engine_split_off_stay_and_the_rest_of_the_answer_too() -> None:
    choice = without_thinking(Choice("<think>more</think>42", "length", reasoning="some"))
    assert choice == Choice("42", "length", reasoning="some\nmore")


def test_an_answer_emptied_by_its_limit_is_told_from_one_that_is_empty() -> None:
    emptied, empty = Choice(" ", "length", reasoning="hm"), Choice("", "stop")
    assert emptied_by_cap(emptied)
    assert not emptied_by_cap(empty)
    assert not says_something(emptied)
    assert "token limit" in empty_answer("a", "a", emptied).message
    assert "max_tokens of a" in empty_answer("a", "a", emptied).hint
    assert empty_answer("a", "a", empty).hint == ""


@pytest.mark.parametrize(
    ("limit", "context", "room"), [(10, 4096, 40), (10, 31, 26), (10, 15, None), (None, 4096, None)]
)
async def test_more_room_is_four_times_the_tokens_as_far_as_the_context_goes(
    limit: int | None, context: int, room: int | None
) -> None:
    model = Scripted("a", limit=context)
    more = await with_more_room(
        model, asking("one two three four five", samples=3, sampling=Sampling(max_tokens=limit))
    )
    assert (None if more is None else (more.sampling.max_tokens, more.samples)) == (room and (room, 1))


PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "think", ">", "</", " ", "\n", "42", "hm", "<thin"]), max_size=12
)


@given(PIECES, st.data())
def test_a_stream_is_split_as_the_whole_is_however_it_is_cut(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    heard = Heard()
    thoughts = Thoughts(heard)
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        thoughts(TextDelta(text[start:end], tokens=1))
    thoughts.end()
    whole = thought_first(Choice(text))
    assert heard.text == whole.text
    assert "".join(event.reasoning for event in heard.of(TextDelta)).strip() == whole.reasoning
    assert sum(event.tokens for event in heard.of(TextDelta)) == len(cuts) + 1


async def test_what_a_model_thinks_in_tags_is_streamed_as_reasoning() -> None:
    model, heard = Scripted("a", ["<think> 6 times 7 </think> It is 42."]), Heard()
    reply = await fusion([model], f={"strategy": "single", "panel": ["a"]})["f"].answer(asking(), heard)
    assert heard.text == reply.choices[0].text == "It is 42."
    assert (
        "".join(event.reasoning for event in heard.of(TextDelta)).strip() == reply.choices[0].reasoning == "6 times 7"
    )
