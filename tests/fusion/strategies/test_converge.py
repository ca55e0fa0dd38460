"""`converge`: rounds of revision, each one scored, until the same member stays in front or is good enough."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import CallEnded, StageStarted, VerdictReached
from local_fusion.core.model import Emit, FusionReport, Reply, unheard
from local_fusion.core.records import CallRecord, Usage, Verdict
from local_fusion.errors import EngineDied, PanelFailed
from tests.fusion.rounds.debaters import Debater, prompt_of
from tests.scripted import Heard, Scripted, asking, fusion

GONE = EngineDied("gone")
SHOWN = re.compile(r"<answer>\n(.*?)\n</answer>", re.DOTALL)

Mark = Callable[[str], float]


def by_number(text: str) -> float:
    """Texts say how good they are: `worth 7`."""
    return float(text.split()[1])


class Member(Debater):
    """Revises as `said`, and gives others' answers `mark`s from 1 to 9: so many `reviews`, then its engine dies."""

    def __init__(self, name: str, *said: str | Exception | None, mark: Mark = by_number, reviews: int = 999) -> None:
        super().__init__(name, *said)
        self.mark = mark
        self.reviews = reviews
        self.reviewed: list[str] = []

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> Mapping[str, float]:
        await asyncio.sleep(0)
        text = SHOWN.findall(prompt_of(request))[0]
        self.weighed.append(prompt_of(request))
        if len(self.reviewed) >= self.reviews:
            emit(CallEnded(CallRecord("judge", self.name, Usage(1, 0), 0.0, error=GONE.code)))
            raise GONE
        self.reviewed.append(text)
        emit(CallEnded(CallRecord("judge", self.name, Usage(1, 1), 0.0)))
        mark = self.mark(text)
        low = min(8, int(mark))
        return {label: {low: low + 1 - mark, low + 1: mark - low}.get(int(label), 0.0) for label in labels}


class Sampled(Member):
    """Gives `said` as the samples of one answer, and the first of it whenever it is asked for one."""

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        self.texts = [str(each) for each in self.said]
        return await Scripted.answer(self, request, emit)


async def converge(*models: Scripted, heard: Heard | None = None, **more: Any) -> Reply:
    panel = [model.name for model in models if model.name != "judge"]
    config = {"strategy": "converge", "panel": panel, **more}
    return await fusion(models, f=config)["f"].answer(asking(), heard or Heard())


def report_of(reply: Reply) -> FusionReport:
    assert reply.report is not None
    return reply.report


def verdict_of(reply: Reply) -> Verdict:
    verdict = report_of(reply).verdict
    assert verdict is not None
    return verdict


async def test_it_ends_when_the_same_member_stays_in_front() -> None:
    panel = [Member("a", "worth 3", "worth 5"), Member("b", "worth 7", "worth 8"), Member("c", "worth 4", "worth 6")]
    heard = Heard()
    reply = await converge(*panel, heard=heard, max_rounds=5)
    assert reply.choices[0].text == heard.text == "worth 8"
    assert [(event.stage, event.round) for event in heard.of(StageStarted)] == [
        ("panel", 1),
        ("judge", 1),
        ("panel", 2),
        ("judge", 2),
    ]
    verdict = verdict_of(reply)
    assert (verdict.winner, verdict.absolute) == ("c2.2", True)
    assert verdict.scores == pytest.approx({"c1.2": 4 / 8, "c2.2": 7 / 8, "c3.2": 5 / 8})
    assert [(saving.kind, saving.samples) for saving in report_of(reply).savings] == [("decided", 9)]
    assert report_of(reply).savings[0].reason == "b was in front in 2 rounds in a row"


async def test_a_new_leader_starts_the_count_anew() -> None:
    panel = [Member("a", "worth 3", "worth 9", "worth 9.0"), Member("b", "worth 7"), Member("c", "worth 4")]
    reply = await converge(*panel, max_rounds=5, stable_rounds=2)
    assert [len(model.requests) for model in panel] == [3, 3, 3]
    assert verdict_of(reply).winner == "c1.3"


async def test_a_tie_is_no_change_of_leader() -> None:
    panel = [Member("a", "worth 3", "worth 7.0"), Member("b", "worth 7"), Member("c", "worth 4")]
    reply = await converge(*panel, max_rounds=5)
    assert [len(model.requests) for model in panel] == [2, 2, 2]
    assert verdict_of(reply).winner == "c2.2"
    assert verdict_of(reply).tied


async def test_it_ends_at_once_when_the_best_answer_is_good_enough() -> None:
    panel = [Member("a", "worth 3"), Member("b", "worth 9"), Member("c", "worth 4")]
    reply = await converge(*panel, max_rounds=4, threshold=0.95)
    assert reply.choices[0].text == "worth 9"
    assert [len(model.requests) for model in panel] == [1, 1, 1]
    assert [(saving.samples, saving.reason) for saving in report_of(reply).savings] == [
        (9, "c2 reached the threshold in round 1")
    ]


async def test_with_absolute_scores_the_best_answer_of_all_rounds_is_returned_and_the_verdict_says_so() -> None:
    panel = [
        Member("a", "worth 9", "worth 2"),
        Member("b", "worth 3", "worth 5"),
        Member("c", "worth 4", "worth 1"),
    ]
    reply = await converge(*panel, max_rounds=2)
    assert reply.choices[0].text == "worth 9"
    verdict = verdict_of(reply)
    assert verdict.winner == "c1"
    assert verdict.reason == "the best answer of 2 rounds; c2.2 was the best of the last one"
    assert set(verdict.scores) == {"c1", "c2", "c3", "c1.2", "c2.2", "c3.2"}
    assert not report_of(reply).savings


async def test_an_answer_that_stays_and_could_not_be_scored_again_keeps_the_score_it_won_with() -> None:
    panel = [
        Member("a", "worth 9", GONE),
        Member("b", "worth 3", "worth 5", reviews=2),
        Member("c", "worth 4", "worth 1", reviews=2),
    ]
    reply = await converge(*panel, max_rounds=2)
    assert reply.choices[0].text == "worth 9"
    verdict = verdict_of(reply)
    assert (verdict.winner, verdict.scores["c1"], verdict.abstained) == ("c1", 1.0, ())


async def test_with_a_judge_that_only_compares_the_best_of_the_last_round_is_returned() -> None:
    judge = Scripted("judge", preference=lambda prompt: 0.9 if "<answer_a>\nb" in prompt else 0.1)
    panel = [Debater("a", "a one", "a two"), Debater("b", "b one", "b two")]
    reply = await converge(*panel, judge, judge="judge", max_rounds=4)
    assert reply.choices[0].text == "b two"
    assert [len(model.requests) for model in panel] == [2, 2]
    assert not verdict_of(reply).absolute


async def test_nobody_marks_its_own_answer_nor_a_copy_of_it_and_names_are_hidden() -> None:
    panel = [Member("a", "worth 3 same"), Member("b", "worth 3 same"), Member("c", "worth 4"), Member("d", "worth 5")]
    await converge(*panel, max_rounds=2)
    assert set(panel[0].reviewed) == set(panel[1].reviewed) == {"worth 4", "worth 5"}
    assert sorted(panel[2].reviewed) == ["worth 3 same", "worth 3 same", "worth 5", "worth 5"]  # once in each round
    assert all("c1" not in prompt for model in panel for prompt in model.weighed)


async def test_what_all_members_wrote_is_nobodys_own_and_is_scored_by_all() -> None:
    members = [Sampled("a", "worth 7", "worth 4"), Sampled("b", "worth 4", "worth 7")]
    reply = await converge(*members, panel=[{"model": name, "samples": 2} for name in "ab"], max_rounds=2)
    assert reply.choices[0].text == "worth 7"
    assert verdict_of(reply).abstained == ()


async def test_a_severe_member_gains_nothing_by_marking_all_others_down() -> None:
    panel = [
        Member("a", "worth 7", mark=lambda text: by_number(text) - 4),  # by plain means, 7 against (4 + 8 + 8) / 3
        Member("b", "worth 8"),
        Member("c", "worth 6"),
        Member("d", "worth 5"),
    ]
    reply = await converge(*panel, max_rounds=2)
    assert reply.choices[0].text == "worth 8"
    scores = verdict_of(reply).scores
    assert scores["c2.2"] - scores["c1.2"] == pytest.approx(1 / 8)


async def test_members_see_answers_but_neither_marks_nor_leader() -> None:
    panel = [Member("a", "worth 3"), Member("b", "worth 7"), Member("c", "worth 4")]
    await converge(*panel, max_rounds=2)
    for model in panel:
        prompt = prompt_of(model.requests[1])
        assert all(f"worth {number}" in prompt for number in (3, 4, 7))
        for word in ("score", "mark", "leader", "best", "0."):
            assert word not in prompt.lower()


async def test_reviewers_share_the_conversation_as_prefix() -> None:
    panel = [Member("a", "worth 3"), Member("b", "worth 7"), Member("c", "worth 4")]
    await converge(*panel, max_rounds=2)
    for model in panel:
        beginnings = {prompt[: prompt.index("<answer>")] for prompt in model.weighed}
        assert len(beginnings) == 1
        assert beginnings.pop().startswith("What is 6 times 7?\n")


async def test_a_reviewer_that_fails_is_left_out() -> None:
    panel = [Member("a", "worth 3", reviews=0), Member("b", "worth 7"), Member("c", "worth 4")]
    reply = await converge(*panel, max_rounds=2)
    assert reply.choices[0].text == "worth 7"
    assert {(failure.stage, failure.member) for failure in report_of(reply).failed} == {("judge", "a")}
    assert "2 of 3 members" in verdict_of(reply).reason


async def test_where_a_round_cannot_be_scored_the_last_scores_stand() -> None:
    panel = [
        Member("a", "worth 3", "worth 9", reviews=2),
        Member("b", "worth 7", "worth 5", reviews=2),
        Member("c", "worth 4", "worth 4", reviews=2),
    ]
    reply = await converge(*panel, max_rounds=2)
    assert reply.choices[0].text == "worth 7"
    assert "round 2 could not be scored: the last scores stand" in report_of(reply).notes


async def test_an_answer_that_could_not_be_judged_is_never_in_front() -> None:
    script = 'read x; case "$x" in *1) exit 3;; esac; exit 1'
    panel = [Debater("a", "worth 5", "worth 1"), Debater("b", "worth 2"), Debater("c", "worth 3")]
    reply = await converge(*panel, judge={"command": ["/bin/sh", "-c", script]}, max_rounds=2)
    assert reply.choices[0].text == "worth 2"
    assert verdict_of(reply).abstained == ("c1.2",)


async def test_without_any_scores_the_first_answer_stands_in_and_that_is_noted() -> None:
    panel = [Member(name, f"worth {number}", reviews=0) for number, name in enumerate("abc", start=2)]
    reply = await converge(*panel, max_rounds=2)
    assert reply.choices[0].text == "worth 2"
    assert report_of(reply).verdict is None
    assert report_of(reply).notes[-1] == "nobody scored the answers: c1.2 is simply the first in panel order"


async def test_answers_that_are_all_the_same_need_no_judge() -> None:
    panel, heard = [Member("a", "worth 3"), Member("b", "worth 3")], Heard()
    reply = await converge(*panel, heard=heard, max_rounds=3)
    assert reply.choices[0].text == "worth 3"
    assert not any(model.weighed for model in panel)
    assert [event.verdict.judge for event in heard.of(VerdictReached)] == ["none"]
    assert [(saving.kind, saving.samples) for saving in report_of(reply).savings] == [("agreed", 4)]


async def test_samples_of_one_member_are_debaters_and_a_member_that_is_alone_reviews_them() -> None:
    model = Member("a", "worth 1")
    counted = iter(("worth 2", "worth 6", "worth 4") * 2)

    async def numbered(request: ChatRequest, emit: Emit = unheard) -> Reply:
        model.answers = lambda _: next(counted)
        return await Scripted.answer(model, request, emit)

    model.answer = numbered  # type: ignore[method-assign]
    reply = await converge(model, panel=[{"model": "a", "samples": 3}], max_rounds=2)
    assert [request.samples for request in model.requests] == [3, 1, 1, 1]
    assert reply.choices[0].text == "worth 6"
    assert len(model.reviewed) == 6


async def test_a_debater_that_fails_keeps_its_answer_and_may_win_with_it() -> None:
    panel = [Member("a", "worth 9", GONE), Member("b", "worth 7", "worth 8"), Member("c", "worth 4")]
    reply = await converge(*panel, max_rounds=3)
    assert reply.choices[0].text == "worth 9"
    assert [failure.member for failure in report_of(reply).failed] == ["a"]


async def test_a_refusal_is_not_scored_where_others_answer() -> None:
    panel = [Member("a", "I cannot help with that."), Member("b", "worth 7"), Member("c", "worth 4")]
    reply = await converge(*panel, max_rounds=2)
    assert reply.choices[0].text == "worth 7"
    assert [failure.code for failure in report_of(reply).failed] == ["refused"]
    assert set(verdict_of(reply).scores) == {"c2.2", "c3.2"}


async def test_the_only_answer_left_stands() -> None:
    alive = Member("alive", "worth 3")
    reply = await converge(Member("dead", GONE), alive)
    assert reply.choices[0].text == "worth 3"
    assert "nothing to compare" in report_of(reply).notes[0]


async def test_a_round_in_which_all_fail_ends_it_with_what_is_there() -> None:
    panel = [Member("a", "worth 3", GONE), Member("b", "worth 7", GONE), Member("c", "worth 4", GONE)]
    reply = await converge(*panel, max_rounds=4)
    assert reply.choices[0].text == "worth 7"
    assert "nobody answered in the next one" in report_of(reply).notes[0]


async def test_all_failing_tells_each_cause() -> None:
    with pytest.raises(PanelFailed, match="a: gone; b: gone"):
        await converge(Member("a", GONE), Member("b", GONE))


async def test_every_call_is_counted() -> None:
    panel = [Member("a", "worth 3"), Member("b", "worth 7"), Member("c", "worth 4")]
    reply = await converge(*panel, max_rounds=2)
    assert [call.stage for call in reply.calls] == ["panel"] * 3 + ["judge"] * 6 + ["panel"] * 3 + ["judge"] * 6


async def test_cancelling_while_members_review_leaves_nothing_running() -> None:
    reviewing = asyncio.Event()

    class Slow(Member):
        async def weigh(self, request: ChatRequest, labels: Any, emit: Emit = unheard) -> Mapping[str, float]:
            reviewing.set()
            await asyncio.Event().wait()
            return {}

    task = asyncio.create_task(converge(Slow("a", "worth 3"), Slow("b", "worth 7"), Slow("c", "worth 4")))
    await reviewing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(asyncio.all_tasks()) == 1
