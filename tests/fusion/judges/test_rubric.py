"""The rubric judge: grades as constrained JSON, a reason first, each candidate by itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from local_fusion.core.chat import ChatRequest
from local_fusion.core.model import Choice
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineDied, EngineRejected
from local_fusion.fusion.judges.rubric import MOST_TOKENS, response_format
from local_fusion.fusion.judges.weighing import AT_THE_SAME_TIME
from tests.fusion.judges.courts import Grader, answer_in, common_start, court, judged, written
from tests.scripted import Scripted, asking


def rubric(*criteria: str, **options: Any) -> dict[str, Any]:
    return {"kind": "rubric", "model": "judge", "criteria": list(criteria or ["correctness"]), **options}


def report(*grades: int, reason: str = "why") -> str:
    return json.dumps({"reason": reason, "grades": grades})


def saying(**by_answer: str) -> Callable[[ChatRequest], str]:
    return lambda request: by_answer[answer_in(request.messages[-1].content)]


async def test_a_score_is_the_mean_of_the_grades_and_the_best_reasons_are_kept() -> None:
    judge = Scripted("judge", answers=saying(x=report(1, 5, reason="wrong"), y=report(9, 5, reason="half of it")))
    verdict = await judged(court([judge], rubric("right", "short")), written("x", "y"))
    assert verdict.scores == pytest.approx({"c1": 0.25, "c2": 0.75})
    assert verdict.absolute
    assert verdict.winner == "c2"
    assert verdict.reason == "c2: half of it; c1: wrong"
    assert verdict.reasons == {"c1": "wrong", "c2": "half of it"}


async def test_each_candidate_is_graded_in_a_call_of_its_own_that_shares_all_but_the_answer() -> None:
    judge = Grader("judge", criteria=2)
    await judged(court([judge], rubric("no jargon", "short")), written("x", "y", "x"))
    prompts = [request.messages[-1].content for request in judge.requests]
    assert [answer_in(prompt) for prompt in prompts] == ["x", "y"]
    shared = common_start(prompts)
    assert "1. no jargon\n2. short" in shared
    assert shared.endswith("<answer>\n")


async def test_the_judge_is_held_to_the_schema_greedily_and_within_bounds() -> None:
    judge = Grader("judge", criteria=3)
    await judged(court([judge], rubric("a", "b", "c"), request=asking(sampling=Sampling(seed=7))), written("x"))
    (asked,) = judge.requests
    assert asked.response_format == response_format(3)
    assert asked.sampling == Sampling(temperature=0, max_tokens=MOST_TOKENS, seed=7)
    assert asked.samples == 1


async def test_its_own_sampling_options_come_first() -> None:
    judge = Grader("judge")
    await judged(court([judge], rubric(temperature=0.6, max_tokens=2000)), written("x"))
    assert judge.requests[0].sampling == Sampling(temperature=0.6, max_tokens=2000)


def test_the_schema_takes_a_grade_for_each_criterion_and_the_reason_comes_first() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = response_format(2)["json_schema"]["schema"]
    jsonschema.validate({"reason": "r", "grades": [1, 9]}, schema)
    for wrong in ({"reason": "r", "grades": [1]}, {"reason": "r", "grades": [0, 9]}, {"grades": [1, 9]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
    assert list(schema["properties"]) == ["reason", "grades"]


@pytest.mark.parametrize("bad", ["I like it", report(5, 5), report(10), '{"reason": "and so', "", "{}"])
async def test_what_cannot_be_read_fails_that_candidate_which_then_does_not_win(bad: str) -> None:
    judge = Scripted("judge", answers=saying(x=bad, y=report(1), z=report(1)))
    session = court([judge], rubric())
    verdict = await judged(session, written("x", "y", "z"))
    assert verdict.scores == {"c1": 0.0, "c2": 0.0, "c3": 0.0}
    assert (verdict.winner, verdict.abstained) == ("c2", ("c1",))
    assert [(failure.stage, failure.member) for failure in session.failures] == [("judge", "judge on c1")]


@pytest.mark.parametrize("around", ["```json\n{}\n```", "Here it is: {}", "<think>[5] {{maybe}}</think>\n{}"])
async def test_fences_words_and_thoughts_around_the_report_do_not_matter(around: str) -> None:
    judge = Scripted("judge", answers=lambda request: around.replace("{{maybe}}", "{maybe}").replace("{}", report(9)))
    session = court([judge], rubric())
    assert (await judged(session, written("x"))).scores == {"c1": 1.0}
    assert session.failures == []


async def test_a_judge_that_was_still_thinking_is_asked_again_with_more_room() -> None:
    class Thinks(Scripted):
        def _choice(self, request: ChatRequest, index: int) -> Choice:
            short = request.sampling.max_tokens == MOST_TOKENS
            return Choice("<think>hm", "length") if short else Choice(report(9))

    session = court([Thinks("judge")], rubric())
    assert (await judged(session, written("x"))).scores == {"c1": 1.0}
    assert session.notes == [f"judge on c1 was still thinking after {MOST_TOKENS} tokens: asked again with more room"]
    assert session.failures == []


async def test_where_no_report_can_be_read_the_judge_has_failed_and_every_cause_is_kept() -> None:
    judge = Scripted("judge", ["no"])
    session = court([judge], rubric())
    with pytest.raises(EngineRejected, match="no candidate a grade"):
        await judged(session, written("x", "y"))
    assert [failure.member for failure in session.failures] == ["judge on c1", "judge on c2", "judge"]


async def test_a_dead_engine_is_a_failed_judge() -> None:
    session = court([Scripted("judge", error=EngineDied("gone"))], rubric())
    with pytest.raises(EngineRejected):
        await judged(session, written("x", "y"))
    assert [failure.message for failure in session.failures][:2] == ["gone", "gone"]


async def test_cancelling_leaves_nothing_running() -> None:
    judge = Scripted("judge", hangs=True)
    task = asyncio.ensure_future(judged(court([judge], rubric()), written("x", "y")))
    while len(judge.requests) < 2:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert judge.cancelled == 2
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_large_panel_leaves_others_their_turn() -> None:
    judge = Scripted("judge", hangs=True)
    task = asyncio.ensure_future(judged(court([judge], rubric()), written(*map(str, range(100)))))
    for _ in range(300):
        await asyncio.sleep(0)
    assert len(judge.requests) == AT_THE_SAME_TIME
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
