"""What each key may use: requests, tokens, and how many at the same time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from local_fusion.core.records import CallRecord, Usage
from local_fusion.errors import TooMany
from local_fusion.server.context import Caller, Context
from local_fusion.server.guard.limits import Limits, Meter, duration
from tests.server.guard.guarded import entry


def meter(**limits: Any) -> Meter:
    return Meter(entry("alice", **limits), now=0)


def refusal(full: Meter, now: float) -> TooMany:
    with pytest.raises(TooMany) as raised:
        full.enter(now)
    return raised.value


def call(tokens: int) -> CallRecord:
    return CallRecord("panel", "a", Usage(tokens - 1, 1), 1.0)


def test_requests_beyond_a_minutes_worth_have_to_wait_for_the_next() -> None:
    limited = meter(requests_per_minute=2)
    limited.enter(0)
    limited.enter(0)
    error = refusal(limited, 0)
    assert error.retry_seconds == 30
    assert "may use 2 requests a minute" in error.message
    assert "requests_per_minute" in error.hint
    limited.enter(30)


def test_a_request_that_was_turned_away_costs_nothing() -> None:
    limited = meter(requests_per_minute=1)
    limited.enter(0)
    assert [refusal(limited, 30).retry_seconds for _ in range(3)] == [30, 30, 30]
    limited.enter(60)


def test_tokens_count_once_they_are_spent_and_have_to_come_back() -> None:
    limited = meter(tokens_per_minute=60)
    limited.enter(0)
    limited.spent(90, 0)
    error = refusal(limited, 0)
    assert error.retry_seconds == 31
    assert "may use 60 tokens a minute" in error.message
    limited.enter(31)


def test_only_so_many_at_the_same_time() -> None:
    limited = meter(concurrent_requests=2)
    limited.enter(0)
    limited.enter(0)
    assert "2 requests worked on at the same time" in refusal(limited, 0).message
    limited.leave()
    limited.enter(0)


def test_one_that_may_not_come_in_for_another_reason_takes_no_place() -> None:
    limited = meter(concurrent_requests=1, tokens_per_minute=60)
    limited.spent(60, 0)
    refusal(limited, 0)
    assert limited.running == 0


def test_what_is_left_is_told_in_the_names_that_openais_clients_read() -> None:
    limited = meter(requests_per_minute=60, tokens_per_minute=6000)
    limited.enter(0)
    limited.spent(6001, 0)
    assert limited.headers("openai", 0) == [
        (b"x-ratelimit-limit-requests", b"60"),
        (b"x-ratelimit-remaining-requests", b"59"),
        (b"x-ratelimit-reset-requests", b"1s"),
        (b"x-ratelimit-limit-tokens", b"6000"),
        (b"x-ratelimit-remaining-tokens", b"0"),
        (b"x-ratelimit-reset-tokens", b"1m1s"),
    ]


def test_and_in_anthropics() -> None:
    limited = meter(tokens_per_minute=60)
    limited.spent(30, 0)
    assert limited.headers("anthropic", 0, datetime(2026, 1, 1, tzinfo=UTC)) == [
        (b"anthropic-ratelimit-tokens-limit", b"60"),
        (b"anthropic-ratelimit-tokens-remaining", b"30"),
        (b"anthropic-ratelimit-tokens-reset", b"2026-01-01T00:00:30Z"),
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.0101, "11ms"), (1, "1s"), (59.2, "1m0s"), (60, "1m0s"), (125, "2m5s")]
)
def test_times_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_tokens_of_engine_calls_are_those_of_the_key_that_asked() -> None:
    limits = Limits(lambda: 0)
    alice, bob = (limits.of(entry(name, tokens_per_minute=100)) for name in ("alice", "bob"))
    limits.hear(Context(caller=Caller("alice")), call(150))
    limits.hear(Context(caller=Caller("nobody")), call(150))
    assert alice is not None
    assert bob is not None
    refusal(alice, 0)
    bob.enter(0)


def test_a_key_without_limits_has_no_meter() -> None:
    assert Limits(lambda: 0).of(entry("alice")) is None


def test_limits_that_change_hold_at_once_and_give_nobody_a_fresh_minute() -> None:
    limits = Limits(lambda: 0)
    before = limits.of(entry("alice", requests_per_minute=2))
    assert before is not None
    before.enter(0)
    before.enter(0)
    after = limits.of(entry("alice", "lf-rotated", requests_per_minute=10))
    assert after is before
    refusal(after, 0)
    after.enter(6)
    assert limits.of(entry("alice", tokens_per_minute=5)) is before
    before.enter(6)


def test_those_who_are_gone_are_forgotten_once_nothing_of_theirs_is_running() -> None:
    limits = Limits(lambda: 0)
    meters = {name: limits.of(entry(name, concurrent_requests=1)) for name in ("stays", "gone", "busy")}
    busy = meters["busy"]
    assert busy is not None
    busy.enter(0)
    limits.keep(["stays"])
    assert limits.of(entry("stays", concurrent_requests=1)) is meters["stays"]
    assert limits.of(entry("busy", concurrent_requests=1)) is busy
    assert limits.of(entry("gone", concurrent_requests=1)) is not meters["gone"]
