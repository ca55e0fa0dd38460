"""Token buckets: nobody gets more than a minute allows, and everybody gets that."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.server.guard.buckets import Bucket

RATES = st.integers(1, 100_000)
GAPS = st.lists(st.floats(0, 120), max_size=60)


def test_a_full_one_holds_a_minutes_worth_and_fills_up_evenly() -> None:
    bucket = Bucket.full(60, now=0)
    bucket.take(60, now=0)
    assert bucket.left(0) == 0
    assert bucket.left(1) == 1
    assert bucket.left(30) == 30
    assert bucket.left(1000) == 60


def test_what_was_taken_after_the_fact_has_to_come_back_first() -> None:
    bucket = Bucket.full(60, now=0)
    bucket.take(90, now=0)
    assert bucket.left(0) == -30
    assert bucket.wait(1, now=0) == 31
    assert bucket.wait(1, now=31) == 0


@given(RATES, GAPS)
def test_in_any_time_no_more_gets_out_than_was_there_and_came_in(per_minute: int, gaps: list[float]) -> None:
    bucket, now, taken = Bucket.full(per_minute, now=0), 0.0, 0
    for gap in gaps:
        now += gap
        while bucket.left(now) >= 1 and taken < 10_000:
            bucket.take(1, now)
            taken += 1
    assert taken <= per_minute + now * per_minute / 60 + 1e-6 * (1 + len(gaps)) * per_minute


@given(RATES, st.floats(0, 1e6), st.floats(0, 1e6))
def test_after_the_wait_it_is_there_and_not_before(per_minute: int, taken: float, now: float) -> None:
    bucket = Bucket.full(per_minute, now)
    bucket.take(taken, now)
    wait = bucket.wait(1, now)
    assert bucket.left(now + wait) >= 1 - 1e-3
    if wait > 1e-3:
        assert bucket.left(now + wait * 0.9) < 1


@given(RATES, GAPS)
def test_it_never_holds_more_than_a_minutes_worth(per_minute: int, gaps: list[float]) -> None:
    bucket, now = Bucket.full(per_minute, now=0), 0.0
    for gap in gaps:
        now += gap
        bucket.take(0, now)
        assert bucket.left(now) <= per_minute


@given(RATES, RATES, st.floats(0, 1e5))
def test_another_limit_gives_nobody_a_fresh_minute(before: int, after: int, taken: float) -> None:
    bucket = Bucket.full(before, now=0)
    bucket.take(taken, now=0)
    left = bucket.left(0)
    bucket.allow(after, now=0)
    assert bucket.left(0) == min(left, after)
    assert bucket.left(1e9) == pytest.approx(after)


def test_a_clock_that_goes_back_gives_and_takes_nothing() -> None:
    bucket = Bucket.full(60, now=100)
    bucket.take(30, now=100)
    assert bucket.left(50) == 30
    bucket.take(0, now=50)
    assert bucket.left(100) == 30
