"""The scoring judge: each candidate by itself, one forward pass, the mean of the score's distribution."""

from __future__ import annotations

import pytest

from local_fusion.errors import EngineDied
from local_fusion.fusion.judges.pointwise import expected
from tests.fusion.judges.courts import Grader, answer_in, common_start, court, judged, written

POINTWISE = {"kind": "pointwise", "model": "judge"}


def grades(**by_answer: float) -> Grader:
    return Grader("judge", grade=lambda answer: by_answer[answer])


async def test_a_score_is_the_mean_grade_from_nought_to_one() -> None:
    verdict = await judged(court([grades(worst=1, best=9, fair=6.5)], POINTWISE), written("worst", "best", "fair"))
    assert verdict.scores == pytest.approx({"c1": 0.0, "c2": 1.0, "c3": 5.5 / 8})
    assert verdict.absolute
    assert verdict.winner == "c2"


def test_the_whole_distribution_counts_and_not_only_the_likeliest_grade() -> None:
    unsure = dict.fromkeys("123456789", 0.0) | {"9": 0.4, "1": 0.3, "2": 0.3}
    assert expected(unsure) == pytest.approx(0.4 * 1 + 0.3 * 0 + 0.3 / 8)


async def test_nothing_is_generated_and_each_distinct_candidate_is_read_once() -> None:
    judge = grades(x=5, y=5)
    verdict = await judged(court([judge], POINTWISE), written("x", "y", "x"))
    assert [answer_in(prompt) for prompt in judge.weighed] == ["x", "y"]
    assert judge.requests == []
    assert (verdict.winner, verdict.tied) == ("c1", True)


async def test_its_criteria_are_told_before_the_answer_so_that_all_candidates_share_them() -> None:
    judge = grades(x=5, y=5)
    session = court([judge], POINTWISE | {"criteria": ["no jargon", "cites its sources"]})
    await judged(session, written("x", "y"))
    shared = common_start(judge.weighed)
    assert "1. no jargon\n2. cites its sources" in shared
    assert shared.endswith("<answer>\n")


async def test_without_criteria_it_asks_for_correct_and_complete() -> None:
    judge = grades(x=5)
    await judged(court([judge], POINTWISE), written("x"))
    assert "correct, complete, and to the point" in judge.weighed[0]


async def test_an_answer_too_long_for_the_judge_is_cut_and_it_is_said() -> None:
    judge = Grader("judge", limit=120, grade=lambda answer: 9 if "tokens left out" in answer else 1)
    session = court([judge], POINTWISE)
    verdict = await judged(session, written("long " * 200, "short"))
    assert [trim.candidate for trim in session.trims] == ["c1"]
    assert verdict.winner == "c1"


async def test_a_failing_judge_is_kept_once_with_its_cause() -> None:
    session = court([Grader("judge", error=EngineDied("gone"))], POINTWISE)
    with pytest.raises(EngineDied):
        await judged(session, written("x", "y"))
    assert [(failure.stage, failure.message) for failure in session.failures] == [("judge", "gone")]
