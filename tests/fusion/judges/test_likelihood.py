"""The likelihood judge: every model scores every candidate, and nobody's word counts about its own."""

from __future__ import annotations

import pytest

from local_fusion.core.chat import ChatRequest, Message
from local_fusion.errors import EngineDied
from tests.fusion.judges.courts import court, judged, written
from tests.scripted import Scripted, asking

LIKELIHOOD = {"kind": "likelihood"}


def scoring(name: str, **by_answer: float) -> Scripted:
    return Scripted(name, likelihood=lambda prompt, answer: by_answer[answer])


async def test_the_candidate_that_is_likeliest_to_all_wins() -> None:
    models = [scoring("a", x=-1, y=-2, z=-3), scoring("b", x=-1, y=-0.5, z=-3), scoring("c", x=-1, y=-2, z=-2)]
    verdict = await judged(court(models, LIKELIHOOD, panel="abc"), written("x", "y", "z"))
    assert verdict.winner == "c1"
    assert sum(verdict.scores.values()) == pytest.approx(1)
    assert verdict.scores["c1"] > verdict.scores["c2"] > verdict.scores["c3"]
    assert not verdict.absolute


async def test_every_model_of_the_panel_is_asked_once_for_all_distinct_answers() -> None:
    models = [Scripted("a"), Scripted("b")]
    session = court(models, LIKELIHOOD, panel=["a", "b", "a"])
    await judged(session, written("x", "y", "x"))
    assert [model.scored for model in models] == [[("What is 6 times 7?", ("x", "y"))]] * 2
    assert [(call.stage, call.model) for call in session.calls] == [("judge", "a"), ("judge", "b")]
    assert [model.requests for model in models] == [[], []]


async def test_answers_are_scored_in_the_conversation_of_the_client_and_its_tools() -> None:
    seen: list[ChatRequest] = []

    class Watched(Scripted):
        async def score(self, request, answers, emit=lambda event: None):  # type: ignore[no-untyped-def]
            seen.append(request)
            return await super().score(request, answers, emit)

    talk = (Message("system", "Be brief."), Message("user", "Hello"))
    request = asking().but(messages=talk, tools=({"type": "function", "function": {"name": "look"}},), samples=3)
    await judged(court([Watched("a")], LIKELIHOOD, panel="a", request=request), written("x", "y"))
    assert [(each.messages, each.tools, each.samples) for each in seen] == [(talk, request.tools, 1)]


async def test_others_may_be_named_to_score() -> None:
    member, outsider = Scripted("a"), scoring("judge", x=-2, y=-1)
    judge = {"kind": "likelihood", "models": ["judge"]}
    verdict = await judged(court([member, outsider], judge, panel="a"), written("x", "y", by="aa"))
    assert verdict.winner == "c2"
    assert member.scored == []


async def test_a_model_that_finds_everything_likely_weighs_no_more_than_others() -> None:
    models = [scoring("a", x=-0.001, y=-0.002, z=-0.003), scoring("b", x=-50, y=-10, z=-40)]
    verdict = await judged(court(models, LIKELIHOOD, panel="ab"), written("x", "y", "z"))
    assert verdict.winner == "c2"
    assert verdict.scores["c1"] > verdict.scores["c3"]


async def test_a_model_that_prefers_its_own_answers_gains_nothing() -> None:
    def honest(name: str) -> Scripted:
        return scoring(name, mine=-3, good=-1, fair=-2)

    fair_court = [honest("a"), honest("b"), honest("c")]
    vain_court = [scoring("a", mine=-0.01, good=-9, fair=-10), honest("b"), honest("c")]
    candidates = written("mine", "good", "fair", by="abc")
    fair, vain = [await judged(court(c, LIKELIHOOD, panel="abc"), candidates) for c in (fair_court, vain_court)]
    assert vain.scores == pytest.approx(fair.scores)
    assert vain.winner == "c2"


async def test_a_copy_of_ones_own_answer_is_ones_own_answer() -> None:
    models = [scoring("a", copied=-0.01, good=-9, fair=-10), scoring("b", copied=-0.01, good=-9, fair=-10)]
    models += [scoring("c", copied=-3, good=-1, fair=-2)]
    verdict = await judged(
        court(models, LIKELIHOOD, panel="abc"), written("copied", "copied", "good", "fair", by="abcc")
    )
    assert verdict.winner != "c1"


async def test_of_two_members_with_an_answer_each_none_wins_by_its_own_preference_alone() -> None:
    vain = [scoring("a", x=-0.1, y=-9), scoring("b", x=-2, y=-1)]
    verdict = await judged(court(vain, LIKELIHOOD, panel="ab"), written("x", "y", by="ab"))
    assert verdict.tied
    agreed = [scoring("a", x=-2, y=-1), scoring("b", x=-2, y=-1)]
    verdict = await judged(court(agreed, LIKELIHOOD, panel="ab"), written("x", "y", by="ab"))
    assert (verdict.winner, verdict.tied) == ("c2", False)
    assert "own answers count" in verdict.reason


async def test_where_one_model_wrote_everything_its_own_word_counts_and_it_is_said() -> None:
    verdict = await judged(court([scoring("a", x=-2, y=-1)], LIKELIHOOD, panel="a"), written("x", "y", by="aa"))
    assert verdict.winner == "c2"
    assert "own answers count" in verdict.reason


async def test_a_model_that_fails_is_left_out_and_kept_as_a_failure() -> None:
    models = [Scripted("a", error=EngineDied("gone")), scoring("b", x=-2, y=-1)]
    session = court(models, LIKELIHOOD, panel="ab")
    assert (await judged(session, written("x", "y"))).winner == "c2"
    assert [(failure.stage, failure.model, failure.message) for failure in session.failures] == [("judge", "a", "gone")]


async def test_where_all_models_fail_the_judge_has_failed_with_every_cause() -> None:
    models = [Scripted("a", error=EngineDied("gone")), Scripted("b", error=EngineDied("too"))]
    session = court(models, LIKELIHOOD, panel="ab")
    with pytest.raises(EngineDied, match="gone"):
        await judged(session, written("x", "y"))
    assert [failure.message for failure in session.failures] == ["gone", "too"]
