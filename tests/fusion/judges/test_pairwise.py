"""The probability judge: which pairs it is asked about, how, and what comes of it."""

from __future__ import annotations

import asyncio

import pytest

from local_fusion.core.chat import ChatRequest
from local_fusion.core.model import Emit, unheard
from local_fusion.core.records import Usage
from local_fusion.core.sampling import Sampling
from local_fusion.errors import DeadlineExceeded, EngineDied
from local_fusion.fusion.judges.weighing import AT_THE_SAME_TIME
from local_fusion.fusion.prompts import judging
from tests.fusion.judges.courts import common_start, court, judged, likes, shown, written
from tests.scripted import Scripted, asking


async def test_strengths_follow_the_judge_and_sum_to_one() -> None:
    session = court([Scripted("judge", preference=likes("good", "fair"))], "judge")
    verdict = await judged(session, written("bad", "good", "fair"))
    assert verdict.winner == "c2"
    assert verdict.scores["c2"] > verdict.scores["c3"] > verdict.scores["c1"]
    assert sum(verdict.scores.values()) == pytest.approx(1)
    assert not verdict.absolute
    assert not verdict.tied


async def test_comparisons_with_the_same_answer_in_front_are_asked_for_one_after_the_other() -> None:
    judge = Scripted("judge")
    await judged(court([judge], "judge"), written("w", "x", "y", "z"))
    fronts = [shown(prompt)[0] for prompt in judge.weighed]
    assert [fronts[index : index + 3] for index in (0, 3, 6, 9)] == [[front] * 3 for front in fronts[::3]]
    assert len(fronts) == 12


async def test_both_orders_share_the_conversation_and_all_of_the_instruction() -> None:
    judge = Scripted("judge")
    await judged(court([judge], "judge"), written("first answer", "second answer"))
    one, other = judge.weighed
    shared = common_start([one, other])
    assert shared.startswith("What is 6 times 7?")
    assert shared.endswith("<answer_a>\n")
    assert len(one.removeprefix(shared)) < len(shared)


async def test_pairs_with_the_same_answer_in_front_share_that_too() -> None:
    messages = asking().messages
    one, other = (judging.comparison(messages, "same", text)[-1].content for text in ("x", "y"))
    assert "same\n</answer_a>\n\n<answer_b>\n" in common_start([one, other])


@pytest.mark.parametrize(
    ("count", "neighbours", "pairs"), [(8, 1, 28), (9, 1, 9), (9, 3, 27), (20, 3, 60), (12, 64, 66)]
)
async def test_more_than_eight_candidates_are_compared_with_so_many_neighbours(
    count: int, neighbours: int, pairs: int
) -> None:
    judge = Scripted("judge")
    options = {"kind": "pairwise", "model": "judge", "neighbours": neighbours}
    await judged(court([judge], options), written(*map(str, range(count))))
    assert len(judge.weighed) == 2 * pairs


async def test_copies_are_judged_once_and_are_equally_strong() -> None:
    judge = Scripted("judge", preference=likes("good"))
    verdict = await judged(court([judge], "judge"), written("bad", "good", "bad", "good"))
    assert len(judge.weighed) == 2
    assert verdict.scores["c1"] == verdict.scores["c3"] < verdict.scores["c2"] == verdict.scores["c4"]
    assert sum(verdict.scores.values()) == pytest.approx(1)
    assert (verdict.winner, verdict.tied) == ("c2", False)


async def test_a_single_candidate_wins_without_a_comparison() -> None:
    judge = Scripted("judge")
    verdict = await judged(court([judge], "judge"), written("alone"))
    assert (verdict.winner, verdict.scores, judge.weighed) == ("c1", {"c1": 1.0}, [])


async def test_every_forward_pass_is_counted_for_the_judge() -> None:
    session = court([Scripted("judge")], "judge")
    await judged(session, written("x", "y"))
    assert [(call.stage, call.model) for call in session.calls] == [("judge", "judge")] * 2
    assert sum((call.usage for call in session.calls), Usage()).completion_tokens == 2


async def test_a_failing_judge_is_kept_once_with_its_cause() -> None:
    session = court([Scripted("judge", error=EngineDied("gone"))], "judge")
    with pytest.raises(EngineDied):
        await judged(session, written("x", "y", "z"))
    assert [(failure.stage, failure.model, failure.message) for failure in session.failures] == [
        ("judge", "judge", "gone")
    ]


class Hanging(Scripted):
    """Never says which is better."""

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> dict[str, float]:
        self.weighed.append(request.messages[-1].content)
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled += 1
        raise AssertionError


async def test_a_judge_that_hangs_is_given_up_at_its_deadline() -> None:
    judge = Hanging("judge")
    session = court([judge], "judge", deadlines={"judge": 0.01})
    with pytest.raises(DeadlineExceeded):
        await judged(session, written("x", "y"))
    assert judge.cancelled == len(judge.weighed) == 2


async def test_cancelling_leaves_nothing_running() -> None:
    judge = Hanging("judge")
    task = asyncio.ensure_future(judged(court([judge], "judge"), written("x", "y", "z")))
    while len(judge.weighed) < 6:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert judge.cancelled == 6
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_large_panel_leaves_others_their_turn() -> None:
    judge = Hanging("judge")
    task = asyncio.ensure_future(judged(court([judge], "judge"), written(*map(str, range(40)))))
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(judge.weighed) == AT_THE_SAME_TIME
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_order_is_drawn_from_the_seed_of_the_request() -> None:
    async def fronts(seed: int) -> list[str]:
        judge = Scripted("judge")
        request = asking(sampling=Sampling(seed=seed))
        await judged(court([judge], "judge", request=request), written(*"abcdefghijkl"))
        return [shown(prompt)[0] for prompt in judge.weighed]

    assert await fronts(1) == await fronts(1)
    assert len({tuple(await fronts(seed)) for seed in range(5)}) == 5
