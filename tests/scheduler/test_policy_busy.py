"""Who makes room where all have work: those whom fewest call, also if they have only just been woken."""

from __future__ import annotations

import pytest

from local_fusion.scheduler.policy import FairPolicy
from local_fusion.scheduler.situation import EngineView, Situation, Swap
from tests.scheduler.situations import engine, plainly, situation, swap

BOUND = 30.0


def decided(now: Situation) -> list[object]:
    return list(plainly(FairPolicy(BOUND).decide(now)))


def overdue(*others: EngineView, swaps: tuple[Swap, ...] = ()) -> Situation:
    """A call has waited too long for `t`, which needs the half of a device."""
    waits = engine("t", "down", awake=5, waiting=1)
    return situation(*others, waits, now=BOUND, swaps=swaps, draining=tuple(each.target for each in swaps))


def test_whom_many_have_called_of_late_keeps_its_memory_before_one_with_more_calls_now() -> None:
    popular = engine("a", awake=5, running=2, recent=60.0)
    rare = engine("b", awake=5, running=4, recent=1.0)
    assert decided(overdue(popular, rare)) == [swap("t", "b")]


def test_what_was_called_of_late_does_not_count_for_one_that_has_run_dry() -> None:
    dry = engine("a", awake=5, recent=60.0)
    busy = engine("b", awake=5, running=1)
    assert decided(overdue(dry, busy)) == [swap("t", "a")]


@pytest.mark.parametrize("state", ["owes", "wakes"])
def test_one_that_was_only_just_woken_makes_room_in_its_turn_rather_than_a_popular_one(state: str) -> None:
    popular = engine("a", awake=5, running=2, recent=60.0)
    woken = engine("b", "awake" if state == "owes" else "down", awake=5, waiting=1, owed=int(state == "owes"))
    assert decided(overdue(popular, woken, swaps=() if state == "owes" else (swap("b"),))) == []


def test_nobody_waits_for_one_that_was_only_just_woken_where_it_is_the_popular_one() -> None:
    rare = engine("a", awake=5, running=1)
    woken = engine("b", awake=5, waiting=40, owed=40, recent=40.0)
    assert decided(overdue(rare, woken)) == [swap("t", "a")]
