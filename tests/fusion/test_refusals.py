"""Refusals: told by how a text begins, and left out only where somebody answers."""

from __future__ import annotations

import pytest

from local_fusion.core.records import Candidate
from local_fusion.fusion.refusals import is_refusal, without_refusals

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I can’t assist with that request.",
    "**I'm sorry**, but I can't comply.",
    "I'm sorry. I cannot help you with this.",
    "I'm sorry to hear that you feel this way, but I can't provide help with this.",
    "I'm afraid I can't do that.",
    "Sorry, I can't do that.",
    "Sorry, but that's not something I can help with.",
    "I apologize, but I cannot create that content.",
    "My apologies, but I am unable to answer that.",
    "Unfortunately, I cannot assist with this.",
    "No, I won't help with that.",
    "I cannot fulfill this request.",
    "I cannot fulfil your request.",
    "I can not assist with that.",
    "I can’t help with that.",
    "I simply can't help here.",
    "I cannot in good conscience provide this.",
    "I will not write that.",
    "I won't be able to help with that.",
    "I'm unable to help with that.",
    "I am unable to provide medical advice.",
    "I'm not able to discuss that topic.",
    "I’m not comfortable writing that.",
    "I must respectfully decline.",
    "I must decline to answer this.",
    "I respectfully decline to answer.",
    "I refuse to answer.",
    "I'd rather not answer that.",
    "As an AI language model, I cannot provide legal advice.",
    "As an AI, I'm not able to do that.",
    "As a responsible AI assistant, I can't generate that.",
]

ANSWERS = [
    "",
    "42",
    "I can't believe how good this is! Here is the recipe.",
    "I can't wait to help you with this! First,",
    "I can't recommend this book enough.",
    "I cannot overstate the importance of tests.",
    "I can help with that.",
    "I won't lie: this is hard. The answer is 3.",
    "I'm not sure, but the answer is 4.",
    "I'm afraid the answer is 3, not 4.",
    "I'm sorry to hear that. Here is what you can do:",
    "Sorry for the delay, here is the answer: 42.",
    "Sorry! The right answer is 12.",
    "Unfortunately, the answer is no: 7 is prime.",
    "No, 91 is not prime.",
    "We cannot conclude that x > 0, since",
    "We can't write 7 as a sum of two squares.",
    "You can't help everyone.",
    "I can't help but notice that 7 is prime.",
    "Decline in sales was 3%.",
    "As an AI researcher, you can publish here.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_told_by_how_they_begin(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_that_begin_like_refusals_are_answers(text: str) -> None:
    assert not is_refusal(text)


def test_what_goes_on_for_long_after_refusing_has_answered_something() -> None:
    assert not is_refusal("I'm sorry, but I can't help with that. " + "Here is what is known. " * 40)


def candidate(number: int, text: str) -> Candidate:
    return Candidate(f"c{number}", "a", "a", text, "stop", 0.0)


def test_refusals_stay_where_nobody_answers() -> None:
    refused, answered = candidate(1, REFUSALS[0]), candidate(2, "42")
    assert without_refusals([refused, answered]) == [answered]
    assert without_refusals([refused]) == [refused]
    assert without_refusals([]) == []
