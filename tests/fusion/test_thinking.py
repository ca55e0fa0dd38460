"""Thinking is no part of an answer, and an answer that its limit left empty is no answer."""

from __future__ import annotations

import pytest

from local_fusion.core.model import Choice
from local_fusion.core.sampling import Sampling
from local_fusion.fusion.thinking import emptied_by_cap, empty_answer, says_something, with_more_room, without_thinking
from tests.scripted import Scripted, asking


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
