"""Calls that requests will make later: whom they keep awake, and whom they wake before their time."""

from __future__ import annotations

from local_fusion.scheduler.policy import FairPolicy
from local_fusion.scheduler.situation import Abandon, Rest, Situation, Victim
from tests.scheduler.situations import course, engine, plainly, situation, swap

fair = FairPolicy(30.0)


def decided(now: Situation, policy: FairPolicy = fair) -> list[object]:
    return list(plainly(policy.decide(now)))


def test_a_judge_wakes_while_the_panel_still_works_where_memory_allows() -> None:
    member, judge = engine("member", awake=5, running=1), engine("judge", "down", awake=5)
    assert decided(situation(member, judge, courses={course("member", "judge"): 1})) == [swap("judge")]


def test_it_does_not_wake_before_the_panel_was_asked() -> None:
    # A fusion announces its judge a moment before it calls its members, who may need that memory.
    assert decided(situation(engine("judge", "down"), courses={course("", "judge"): 1})) == []


def test_it_wakes_instead_of_an_engine_that_nobody_needs() -> None:
    member, judge = engine("member", awake=5, running=1), engine("judge", "down", awake=5)
    courses = {course("member", "judge"): 1}
    assert decided(situation(member, engine("idle", awake=5), judge, courses=courses)) == [swap("judge", "idle")]


def test_never_instead_of_one_with_work_or_one_that_is_pinned_or_one_that_is_announced_too() -> None:
    member, judge = engine("member", awake=5, running=1), engine("judge", "down", awake=5)
    ahead = course("member", "judge")
    for other in (
        engine("other", awake=5, batch_running=1),
        engine("other", awake=5, batch_waiting=1),
        engine("other", awake=5, pinned=True),
    ):
        assert decided(situation(member, other, judge, courses={ahead: 1}, now=999.0)) == []
    idle = engine("other", awake=5)
    assert decided(situation(member, idle, judge, courses={ahead: 1, course("member", "other"): 1})) == []


def test_sleepers_are_not_stopped_for_what_is_only_announced() -> None:
    member, judge = engine("member", awake=5, running=1), engine("judge", "down", awake=5)
    sleeper = engine("sleeper", "down", awake=5, sleeping=1)
    assert decided(situation(member, sleeper, judge, courses={course("member", "judge"): 1})) == []


def test_nor_is_anybody_put_to_rest_while_other_members_still_have_to_be_woken() -> None:
    engines = engine("a", awake=5, running=1), engine("idle", awake=5), engine("judge", "down", awake=5)
    second = engine("b", "down", awake=6, waiting=1)
    assert swap("judge", "idle") not in decided(situation(*engines, second, courses={course("a b", "judge"): 1}))


def test_never_at_the_cost_of_somebody_who_is_queued_for_the_same_memory() -> None:
    member, judge = engine("member", awake=5, running=1), engine("judge", "down", awake=5)
    queued = engine("queued", "down", awake=6, batch_waiting=1)
    assert decided(situation(member, judge, queued, courses={course("member", "judge"): 1})) == []


def test_a_queue_on_other_devices_is_no_obstacle() -> None:
    member, judge = engine("member", awake=5, running=1), engine("judge", "down", awake=5)
    elsewhere = engine("busy", devices=(1,), running=1), engine("queued", "down", devices=(1,), waiting=1)
    assert decided(situation(member, judge, *elsewhere, courses={course("member", "judge"): 1})) == [swap("judge")]


def test_calls_that_come_later_spare_an_engine_if_another_can_go() -> None:
    quick, slow = engine("quick", awake=5, return_seconds=1), engine("slow", awake=5, return_seconds=60)
    queued = engine("b", "down", awake=5, waiting=1)
    # Its member sleeps, so the judge's turn is far away.
    member = engine("member", "down", awake=5, waiting=1, since=1.0)
    courses = {course("member", "quick"): 1}
    busy = engine("busy", awake=5, running=1)
    assert decided(situation(busy, quick, slow, queued, member, usable=15, now=1.0, courses=courses))[0] == swap(
        "b", "slow"
    )
    pair = situation(busy, quick, queued, member, courses=courses, now=1.0)
    assert decided(pair) == [swap("b", "quick")]


def test_calls_that_are_about_to_come_keep_an_engine_awake_until_somebody_is_overdue() -> None:
    member = engine("member", devices=(1,), running=1)
    judge, queued = engine("judge"), engine("b", "down", waiting=1)
    courses = {course("member", "judge"): 1}
    assert decided(situation(member, judge, queued, courses=courses, now=29.0)) == []
    assert decided(situation(member, judge, queued, courses=courses, now=30.0)) == [swap("b", "judge")]


def test_announced_batch_calls_keep_it_awake_for_batch_calls_only() -> None:
    member, judge = engine("member", devices=(1,), batch_running=1), engine("judge")
    courses = {course("member", "judge", "batch"): 1}
    assert decided(situation(member, judge, engine("b", "down", batch_waiting=1), courses=courses)) == []
    assert decided(situation(member, judge, engine("b", "down", waiting=1), courses=courses)) == [swap("b", "judge")]


def test_an_engine_on_its_way_up_counts_as_serving_and_one_that_makes_room_does_not() -> None:
    judge, queued = engine("judge"), engine("b", "down", waiting=1)
    courses = {course("member", "judge"): 1}
    coming = engine("member", "down", devices=(1,), waiting=1), engine("other", devices=(1,))
    assert decided(situation(*coming, judge, queued, swaps=(swap("member", "other"),), courses=courses)) == []
    leaving = engine("member", devices=(1,), waiting=1), engine("other", "down", devices=(1,), waiting=1)
    assert decided(situation(*leaving, judge, queued, swaps=(swap("other", "member"),), courses=courses)) == [
        swap("b", "judge")
    ]


def test_an_announced_engine_does_not_go_to_rest() -> None:
    resting = FairPolicy(30.0, idle_sleep_seconds=60.0)
    judge, member = engine("judge", drained_since=0.0), engine("member", devices=(1,), running=1)
    assert decided(situation(judge, member, now=60.0, courses={course("member", "judge"): 1}), resting) == []
    assert decided(situation(judge, member, now=60.0), resting) == [Rest(Victim("judge", "level 1"))]


def test_a_swap_for_announced_calls_goes_on_while_they_are_announced() -> None:
    engines = engine("member", running=1, awake=5), engine("idle", awake=5), engine("judge", "down", awake=5)
    under_way = (swap("judge", "idle"),)
    assert (
        decided(situation(*engines, swaps=under_way, draining=("judge",), courses={course("member", "judge"): 1})) == []
    )
    assert decided(situation(*engines, swaps=under_way, draining=("judge",))) == [Abandon("judge")]
