"""Who is awake next: drain before swap, within a bound, by those whom it costs least."""

from __future__ import annotations

import pytest

from local_fusion.scheduler.policy import FairPolicy
from local_fusion.scheduler.situation import Abandon, Refuse, Rest, Situation, Swap, Victim
from tests.scheduler.situations import engine, plainly, situation, swap

BOUND = 30.0
fair = FairPolicy(BOUND)
offline = FairPolicy(None)


def decided(now: Situation, policy: FairPolicy = fair) -> list[object]:
    return list(plainly(policy.decide(now)))


def test_nothing_is_done_where_nothing_waits() -> None:
    assert decided(situation(engine("a"), engine("b", "down"))) == []


def test_where_there_is_room_whoever_is_called_wakes_beside_the_others() -> None:
    assert decided(situation(engine("a", awake=5, running=1), engine("b", "down", awake=5, waiting=1))) == [swap("b")]


def test_what_sleepers_leave_behind_is_not_room() -> None:
    sleeper = engine("s", "down", awake=9, sleeping=1)
    assert decided(situation(sleeper, engine("b", "down", awake=10, waiting=1))) != [swap("b")]
    assert decided(situation(sleeper, engine("b", "down", awake=9, waiting=1))) == [swap("b")]


def test_what_a_sleeper_holds_already_counts_when_it_wakes() -> None:
    assert decided(situation(engine("s", "down", awake=10, sleeping=3, waiting=1))) == [swap("s")]


def test_an_engine_with_work_keeps_its_memory() -> None:
    queued = engine("b", "down", waiting=3, since=0.0)
    assert decided(situation(engine("a", running=1), queued, now=BOUND - 1)) == []
    assert decided(situation(engine("a", waiting=1), queued, now=BOUND - 1)) == []


def test_an_engine_that_has_run_dry_makes_room() -> None:
    assert decided(situation(engine("a"), engine("b", "down", waiting=1))) == [swap("b", "a")]


def test_past_the_bound_an_engine_with_work_makes_room_too() -> None:
    queued = engine("b", "down", waiting=1, since=5.0)
    busy = engine("a", running=4, waiting=9)
    assert decided(situation(busy, queued, now=5.0 + BOUND)) == [swap("b", "a")]
    assert decided(situation(busy, queued, now=5.0 + BOUND), offline) == []


@pytest.mark.parametrize("since", [0.1, 1 / 3, 1e6 / 3, 12345.6789, 5.7])
def test_the_bound_has_come_at_exactly_the_moment_that_was_asked_for(since: float) -> None:
    # A clock that stops at that moment and no later must not be told that it is too early and not to look again.
    for bound in (0.7, 30.0, 1 / 7):
        policy = FairPolicy(bound)
        waits = engine("a", running=1), engine("b", "down", waiting=1, since=since)
        at = policy.look_again(situation(*waits, now=since))
        assert at is not None
        assert decided(situation(*waits, now=at), policy) == [swap("b", "a")]


@pytest.mark.parametrize("since", [0.1, 1 / 3, 1e6 / 3, 12345.6789, 5.7])
def test_so_has_the_moment_to_rest(since: float) -> None:
    for idle in (0.7, 300.0, 1 / 7):
        policy = FairPolicy(BOUND, idle_sleep_seconds=idle)
        at = policy.look_again(situation(engine("a", drained_since=since), now=since))
        assert at is not None
        assert decided(situation(engine("a", drained_since=since), now=at), policy) == [Rest(Victim("a", "level 1"))]


def test_only_interactive_calls_have_a_bound() -> None:
    queued = engine("b", "down", batch_waiting=5, since=0.0)
    assert decided(situation(engine("a", running=1), queued, now=1000 * BOUND)) == []
    assert decided(situation(engine("a", batch_running=1), queued, now=1000 * BOUND)) == []
    assert decided(situation(engine("a"), queued)) == [swap("b", "a")]


def test_batch_work_yields_to_an_interactive_call() -> None:
    queued = engine("b", "down", waiting=1)
    assert decided(situation(engine("a", batch_running=8, batch_waiting=99), queued)) == [swap("b", "a")]
    assert decided(situation(engine("a", running=1, batch_waiting=99), queued)) == []


def test_whoever_has_waited_longest_is_served_first_and_interactive_before_batch() -> None:
    first = engine("first", "down", waiting=1, since=1.0)
    second = engine("second", "down", waiting=50, since=2.0)
    batch = engine("batch", "down", batch_waiting=99, since=0.0)
    assert decided(situation(engine("a"), batch, second, first, now=3.0)) == [swap("first", "a")]


def test_the_longest_queue_of_batch_calls_comes_first() -> None:
    short, long = engine("short", "down", batch_waiting=2), engine("long", "down", batch_waiting=3, since=9.0)
    assert decided(situation(engine("a"), short, long, now=10.0)) == [swap("long", "a")]


def test_two_wake_at_the_same_time_where_one_after_the_other_would_take_other_memory() -> None:
    queued = [engine("b", "down", waiting=1), engine("c", "down", devices=(1,), waiting=1)]
    awake = [engine("a"), engine("d", devices=(1,))]
    assert decided(situation(*awake, *queued)) == [swap("b", "a"), swap("c", "d")]


def test_memory_that_a_swap_will_take_is_not_given_away_again() -> None:
    halves = [engine(name, "down", awake=6, waiting=1, since=since) for name, since in (("b", 1.0), ("c", 2.0))]
    assert decided(situation(*halves, now=3.0)) == [swap("b")]
    assert decided(situation(*halves, swaps=(swap("b"),), now=3.0)) == []


def test_memory_that_a_swap_will_free_beyond_its_need_is_given_away() -> None:
    small = [engine(name, "down", awake=4, waiting=1, since=since) for name, since in (("b", 1.0), ("c", 2.0))]
    assert decided(situation(engine("a"), *small, now=3.0)) == [swap("b", "a"), swap("c")]


def test_engines_that_take_part_in_a_swap_are_left_alone() -> None:
    under_way = situation(
        engine("a"), engine("b", "down", waiting=1), engine("c", "down", waiting=1), swaps=(swap("b", "a"),), now=99.0
    )
    assert decided(under_way) == []


def test_an_engine_that_is_moved_by_hand_is_left_alone() -> None:
    queued = engine("b", "down", waiting=1)
    assert decided(situation(engine("a"), queued, occupied=("a",), now=99.0)) == []
    assert decided(situation(engine("a"), queued, occupied=("b",), now=99.0)) == []


def test_calls_that_waited_when_an_engine_woke_get_in_before_it_makes_room() -> None:
    queued = engine("b", "down", waiting=1)
    assert decided(situation(engine("a", running=1, waiting=2, owed=2), queued, now=99.0)) == []
    assert decided(situation(engine("a", running=1, waiting=2, owed=0), queued, now=99.0)) == [swap("b", "a")]


def test_an_engine_over_several_devices_frees_and_needs_all_of_them() -> None:
    wide = engine("wide", "down", devices=(0, 1), waiting=1)
    assert decided(situation(engine("a"), engine("b", devices=(1,)), wide)) == [swap("wide", "a", "b")]
    assert decided(situation(engine("a"), engine("b", devices=(1,), running=1), wide)) == []
    narrow = engine("c", "down", devices=(1,), waiting=1)
    assert decided(situation(engine("awake wide", devices=(0, 1)), narrow)) == [swap("c", "awake wide")]


def test_past_its_bound_nobody_who_has_waited_less_takes_what_it_waits_for() -> None:
    # Else two engines that take turns on each of two devices keep one that needs both waiting for ever.
    wide = engine("wide", "down", devices=(0, 1), waiting=1, since=0.0)
    owing = engine("a", running=1, waiting=1, owed=1)
    taking_turns = engine("c", devices=(1,), running=1), engine("d", "down", devices=(1,), waiting=1, since=1.0)
    elsewhere = engine("e", devices=(2,), running=1), engine("f", "down", devices=(2,), waiting=1, since=2.0)
    assert decided(situation(owing, wide, *taking_turns, *elsewhere, now=99.0)) == [swap("f", "e")]


def test_before_its_bound_it_keeps_nobody_waiting() -> None:
    wide = engine("wide", "down", devices=(0, 1), waiting=1, since=0.0)
    busy = engine("a", running=1)
    others = engine("c", devices=(1,)), engine("d", "down", devices=(1,), waiting=1, since=1.0)
    assert decided(situation(busy, wide, *others, now=2.0)) == [swap("d", "c")]


def test_sleepers_are_stopped_only_where_nothing_else_makes_room() -> None:
    queued = engine("b", "down", awake=8, waiting=1)
    sleeper = engine("s", "down", awake=8, sleeping=3, return_seconds=0.1)
    idle = engine("a", awake=6, sleeping=1)
    assert decided(situation(idle, sleeper, queued, usable=12)) == [swap("b", "a")]
    assert decided(situation(idle, sleeper, queued, usable=11)) == [swap("b", "a", rest="stopped")]
    assert decided(situation(sleeper, queued)) == [swap("b", "s", rest="stopped")]


def test_a_sleeper_that_is_stopped_for_another_does_not_wake_at_the_same_time() -> None:
    sleeper = engine("s", "down", awake=4, sleeping=3, waiting=1, since=2.0)
    first = engine("b", "down", awake=9, waiting=1, since=1.0)
    assert decided(situation(first, sleeper, now=3.0)) == [swap("b", "s", rest="stopped")]
    small = engine("b", "down", awake=8, waiting=1, since=1.0)
    assert decided(situation(small, sleeper, usable=13, now=3.0)) == [swap("b"), swap("s")]


def test_an_engine_that_restarts_after_a_crash_is_stopped_to_make_room() -> None:
    queued = engine("b", "down", waiting=1)
    assert decided(situation(engine("a", "moving"), queued)) == [swap("b", "a", rest="stopped")]
    assert decided(situation(engine("a", "moving", waiting=1), queued)) == []


def test_an_engine_that_is_broken_holds_nothing_and_is_not_woken() -> None:
    assert decided(situation(engine("a", "lost", waiting=1), engine("b", "down", waiting=1))) == [swap("b")]


def test_a_pinned_engine_is_never_chosen() -> None:
    pinned, other = engine("a", awake=4, pinned=True), engine("c", awake=6, running=1)
    assert decided(situation(pinned, other, engine("b", "down", awake=6, waiting=1), now=99.0)) == [swap("b", "c")]


def test_calls_that_a_pin_keeps_from_ever_being_served_are_turned_away_with_its_name() -> None:
    (refused,) = fair.decide(situation(engine("a", awake=4, pinned=True), engine("b", "down", awake=7, waiting=1)))
    assert isinstance(refused, Refuse)
    assert refused.target == "b"
    assert "a is pinned" in refused.reason
    assert "unpin" in refused.hint


def test_a_pinned_engine_that_broke_is_in_nobodys_way() -> None:
    broken = engine("a", "lost", pinned=True)
    assert decided(situation(broken, engine("c"), engine("b", "down", waiting=1))) == [swap("b", "c")]


def test_a_swap_is_abandoned_when_nobody_waits_for_it_any_more() -> None:
    asked = situation(engine("a", running=1), engine("b", "down"), swaps=(swap("b", "a"),), draining=("b",))
    assert decided(asked) == [Abandon("b")]
    moving = situation(engine("a", running=1), engine("b", "down"), swaps=(swap("b", "a"),))
    assert decided(moving) == []


def test_a_swap_is_abandoned_when_another_that_it_relied_on_was() -> None:
    engines = engine("a", running=1), engine("b", "down", awake=4), engine("c", "down", awake=4, waiting=1)
    relied = situation(*engines, swaps=(swap("b", "a"), swap("c")), draining=("b", "c"), now=1.0)
    assert decided(relied) == [Abandon("b"), Abandon("c")]
    assert decided(situation(*engines, now=BOUND)) == [swap("c", "a")]


def test_an_idle_engine_rests_when_its_time_has_come() -> None:
    resting = FairPolicy(BOUND, idle_sleep_seconds=300.0)
    idle = engine("a", drained_since=100.0, rest="level 2")
    assert decided(situation(idle, now=399.0), resting) == []
    assert resting.look_again(situation(idle, now=399.0)) == 400.0
    assert decided(situation(idle, now=400.0), resting) == [Rest(Victim("a", "level 2"))]
    assert decided(situation(idle, now=400.0)) == []
    for awake in (
        engine("a", drained_since=100.0, pinned=True),
        engine("a", running=1),
        engine("a", drained_since=100.0, waiting=1),
    ):
        assert decided(situation(awake, now=9999.0), resting) == []


def test_the_clock_is_looked_at_again_when_the_next_bound_comes() -> None:
    first = engine("b", "down", waiting=1, since=7.0)
    second = engine("c", "down", waiting=1, since=5.0)
    batch = engine("d", "down", batch_waiting=1, since=1.0)
    assert fair.look_again(situation(engine("a", running=1), first, second, batch, now=8.0)) == 5.0 + BOUND
    assert fair.look_again(situation(engine("a", running=1), first, second, now=5.0 + BOUND)) == 7.0 + BOUND
    assert fair.look_again(situation(engine("a", running=1), batch, now=8.0)) is None
    assert offline.look_again(situation(engine("a", running=1), first, now=8.0)) is None


def test_every_swap_says_why() -> None:
    def why(*engines: object, now: float = 0.0) -> str:
        (action,) = fair.decide(situation(*engines, now=now))  # type: ignore[arg-type]
        assert isinstance(action, Swap)
        return action.because

    queued = engine("b", "down", waiting=1)
    assert why(queued) == "there is room"
    assert why(engine("a"), engine("b", "down", batch_waiting=1)) == "the others have run dry"
    assert why(engine("a", batch_running=1), queued) == "the others have nothing urgent"
    assert why(engine("a", running=1), queued, now=BOUND) == "calls have waited for 30 s"
