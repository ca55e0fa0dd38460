"""Answers that are there already are compared without anybody's name, in both orders, and nothing is generated."""

from __future__ import annotations

import pytest

from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.model import Reply
from local_fusion.core.records import Verdict
from local_fusion.errors import RequestError
from local_fusion.fusion.comparing import Given, comparison
from tests.scripted import Scripted

QUESTION = ChatRequest(messages=(Message("user", "What is 6 times 7?"),))


async def compared(judge: Scripted, *answers: str) -> tuple[Reply, Verdict]:
    reply = await comparison(answers, judge.name, {judge.name: judge}.__getitem__).answer(QUESTION)
    assert reply.report is not None
    assert reply.report.verdict is not None
    return reply, reply.report.verdict


def likes(text: str) -> Scripted:
    """A judge that prefers the pair's first answer where it has `text` in it, and the second where that has."""

    def preference(prompt: str) -> float:
        first = prompt.partition("<answer_a>")[2].partition("</answer_a>")[0]
        return 0.9 if text in first else 0.1

    return Scripted("judge", preference=preference)


@pytest.mark.parametrize("answers", [("41", "42"), ("42", "41"), ("40", "41", "42", "43")])
async def test_the_best_wins_wherever_it_stands(answers: tuple[str, ...]) -> None:
    judge = likes("42")
    reply, verdict = await compared(judge, *answers)
    assert verdict.winner == f"c{answers.index('42') + 1}"
    assert reply.choices[0].text == "42"
    assert not verdict.tied


async def test_a_judge_that_always_takes_the_first_decides_nothing() -> None:
    _, verdict = await compared(Scripted("judge", preference=lambda _: 0.9), "41", "42")
    assert verdict.tied


async def test_the_judge_reads_the_question_and_the_answers_and_no_names() -> None:
    judge = likes("42")
    await compared(judge, "It is 41.", "It is 42.")
    assert judge.requests == []
    for prompt in judge.weighed:
        assert "What is 6 times 7?" in prompt
        assert "It is 41." in prompt
        assert "It is 42." in prompt
        assert "answer-1" not in prompt


async def test_only_the_judge_costs_anything() -> None:
    reply, _ = await compared(likes("42"), "41", "42")
    assert {(call.stage, call.model) for call in reply.calls} == {("judge", "judge")}


async def test_a_given_answer_judges_nothing() -> None:
    given = Given("answer-1", "x")
    for asked in (given.weigh(QUESTION, ("A", "B")), given.score(QUESTION, ("y",)), given.measure(QUESTION)):
        with pytest.raises(RequestError, match="not a model"):
            await asked
