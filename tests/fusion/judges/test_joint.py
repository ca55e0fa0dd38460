"""Several judges as one: on one scale, without their own answers, and with what they are worth together."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineDied
from tests.fusion.judges.courts import Grader, court, judged, likes, shown, written
from tests.scripted import Scripted, asking

RUBRIC = {"kind": "rubric", "model": "q", "criteria": ["right"]}
FAILING = {"command": ["sh", "-c", "exit 3"]}


def joint(*judges: Any) -> dict[str, Any]:
    return {"judges": list(judges)}


def pointwise(*models: str) -> dict[str, Any]:
    return joint(*({"kind": "pointwise", "model": model} for model in models))


def grades(name: str, **by_answer: float) -> Grader:
    return Grader(name, grade=lambda answer: by_answer[answer])


async def test_absolute_scores_are_averaged_and_stay_absolute() -> None:
    session = court([grades("p", x=1, y=9), grades("q", x=5, y=7)], pointwise("p", "q"))
    verdict = await judged(session, written("x", "y"))
    assert verdict.scores == pytest.approx({"c1": 0.25, "c2": 0.875})
    assert verdict.absolute
    assert verdict.judge == "p + q"


async def test_judges_of_different_kinds_are_brought_to_one_scale() -> None:
    judges = [Scripted("p", preference=likes("y", "z", sureness=0.99)), grades("q", x=5.0, y=5.2, z=5.1)]
    verdict = await judged(court(judges, joint("p", {"kind": "pointwise", "model": "q"})), written("x", "y", "z"))
    assert verdict.winner == "c2"
    assert verdict.scores["c3"] > verdict.scores["c1"]
    assert sum(verdict.scores.values()) == pytest.approx(1)
    assert not verdict.absolute


async def test_no_judge_weighs_more_because_its_scores_are_further_apart() -> None:
    judges = [Scripted("p", preference=likes("x", "y", sureness=0.98)), grades("q", x=5.0, y=5.2, z=5.1)]
    verdict = await judged(court(judges, joint("p", {"kind": "pointwise", "model": "q"})), written("x", "y", "z"))
    assert verdict.winner == "c2"


async def test_second_and_last_place_of_a_judge_that_only_compares_are_told_apart() -> None:
    judges = [Scripted("p", preference=likes("x", "y", sureness=0.98)), grades("q", x=1.8, y=5.4, z=5.8)]
    verdict = await judged(court(judges, joint("p", {"kind": "pointwise", "model": "q"})), written("x", "y", "z"))
    assert verdict.winner == "c2"  # its strengths are 0.97, 0.03 and 0.001


async def test_judges_that_contradict_each_other_decide_nothing() -> None:
    judges = [Scripted("p", preference=likes("x")), Scripted("q", preference=likes("y"))]
    verdict = await judged(court(judges, joint("p", "q")), written("x", "y"))
    assert (verdict.winner, verdict.tied) == ("c1", True)


async def test_a_program_and_a_judge_find_the_best_of_those_that_work() -> None:
    program = {"command": ["sh", "-c", 'read -r text; case "$text" in ok*) exit 0;; esac; exit 1'], "seconds": 20}
    session = court(
        [grades("q", pretty=9, ok_1=2, ok_2=8, bad=1)],
        joint(program, {"kind": "rubric", "model": "q", "criteria": ["x"]}),
    )
    verdict = await judged(session, written("pretty", "ok_1", "ok_2", "bad"))
    assert verdict.winner == "c3"
    assert verdict.absolute


async def test_what_each_judge_says_about_a_candidate_is_told_together() -> None:
    program = {"command": ["sh", "-c", 'read x; [ "$x" = y ] || { echo "$x fails"; exit 1; }']}
    verdict = await judged(court([grades("q", x=3, y=7)], joint(program, RUBRIC)), written("x", "y"))
    assert verdict.reasons == {"c1": "x fails\n\nas x is", "c2": "as y is"}


async def test_a_judge_that_prefers_its_own_answers_gains_nothing() -> None:
    def honest(name: str) -> Scripted:
        return Scripted(name, preference=likes("good", "fair", "mine"))

    fair_court = [honest("a"), honest("b"), honest("c")]
    vain_court = [Scripted("a", preference=likes("mine", "good", "fair", sureness=0.99)), honest("b"), honest("c")]
    candidates = written("mine", "good", "fair", by="abc")
    fair, vain = [
        await judged(court(each, joint("a", "b", "c"), panel="abc"), candidates) for each in (fair_court, vain_court)
    ]
    assert vain.winner == fair.winner == "c2"
    assert vain.scores["c1"] <= fair.scores["c1"] + 1e-9


async def test_an_absolute_judge_has_no_say_about_its_own_answers() -> None:
    session = court([grades("a", mine=9, other=2), grades("b", mine=3, other=2)], pointwise("a", "b"), panel="ab")
    verdict = await judged(session, written("mine", "other", by=["a", "somebody"]))
    assert verdict.scores == pytest.approx({"c1": 0.25, "c2": 0.125})


async def test_a_harsh_judge_does_not_harm_the_answers_of_the_lenient_one() -> None:
    lenient, harsh = grades("a", x=9, y=8, z=7), grades("b", x=5, y=4, z=3)
    verdict = await judged(
        court([lenient, harsh], pointwise("a", "b"), panel="ab"), written("x", "y", "z", by=["a", "b", "c"])
    )
    assert verdict.scores["c1"] > verdict.scores["c2"] > verdict.scores["c3"]


async def test_where_no_other_judge_is_left_the_own_one_counts_and_it_is_said() -> None:
    models = [grades("a", x=3, y=9), Grader("b", error=EngineDied("gone"))]
    session = court(models, pointwise("a", "b"), panel="a")
    verdict = await judged(session, written("x", "y", by="aa"))
    assert verdict.winner == "c2"
    assert "own answers count" in verdict.reason


async def test_a_judge_that_fails_is_left_out_and_it_is_said() -> None:
    session = court([Scripted("p", error=EngineDied("gone")), Scripted("q", preference=likes("y"))], joint("p", "q"))
    assert (await judged(session, written("x", "y"))).winner == "c2"
    assert [(failure.stage, failure.model) for failure in session.failures] == [("judge", "p")]
    assert session.notes == ["1 of 2 joint judges failed: the others judged without them"]


async def test_where_all_fail_so_has_the_joint_judge() -> None:
    session = court([Scripted("p", error=EngineDied("gone"))], joint("p", FAILING))
    with pytest.raises(EngineDied):
        await judged(session, written("x", "y"))
    assert {failure.code for failure in session.failures} == {"engine_died", "verifier_failed"}


async def test_what_one_judge_could_not_judge_is_left_to_the_others() -> None:
    program = {"command": ["sh", "-c", 'read -r text; [ "$text" = y ] && exit 0; exit 3'], "seconds": 20}
    session = court([grades("q", x=9, y=5)], joint(program, {"kind": "pointwise", "model": "q"}))
    verdict = await judged(session, written("x", "y"))
    assert verdict.abstained == ()
    assert verdict.scores["c1"] > 0.9


async def test_judges_that_always_agree_are_worth_one_and_it_is_said() -> None:
    models = [grades("p", x=1, y=5, z=9), grades("q", x=2, y=4, z=6), grades("r", x=5, y=6, z=7)]
    verdict = await judged(court(models, pointwise("p", "q", "r")), written("x", "y", "z"))
    assert verdict.independent == pytest.approx(1)
    assert "3 judges, worth 1.0 independent ones: p preferred c3, q preferred c3, r preferred c3" in verdict.reason


async def test_judges_with_views_of_their_own_are_worth_more() -> None:
    models = [grades("p", w=2, x=4, y=6, z=8), grades("q", w=4, x=8, y=2, z=6)]
    verdict = await judged(court(models, pointwise("p", "q")), written("w", "x", "y", "z"))
    assert verdict.independent == pytest.approx(2)


async def test_two_candidates_do_not_tell_what_judges_are_worth() -> None:
    models = [grades("p", x=1, y=5), grades("q", x=2, y=4)]
    assert (await judged(court(models, pointwise("p", "q")), written("x", "y"))).independent is None


async def test_a_joint_judge_may_be_part_of_another() -> None:
    models = [grades("p", x=1, y=9), grades("q", x=1, y=9), grades("r", x=9, y=1)]
    judge = joint(pointwise("p", "q"), {"kind": "pointwise", "model": "r"})
    verdict = await judged(court(models, judge), written("x", "y"))
    assert verdict.scores == pytest.approx({"c1": 0.5, "c2": 0.5})
    assert verdict.tied


async def test_every_judge_has_an_order_of_its_own_and_one_seed_draws_the_same_ones() -> None:
    async def orders(seed: int) -> list[list[tuple[str, str]]]:
        models = [Scripted("p"), Scripted("q")]
        request = asking(sampling=Sampling(seed=seed))
        await judged(court(models, joint("p", "q"), request=request), written(*"abcdef"))
        return [[shown(prompt) for prompt in model.weighed] for model in models]

    first, second = await orders(3)
    assert first != second
    assert await orders(3) == [first, second]
