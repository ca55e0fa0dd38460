"""What follows when a process has ended: decided from values alone."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.engines.log_causes import Cause
from local_fusion.engines.recovery import Again, End, GivenUp, Phase, Record, after
from local_fusion.errors import EngineStartFailed, EngineUnavailable

BAD_LUCK = Cause("unknown", "bad luck", "Try again.")
NO_MEMORY = Cause("out_of_gpu_memory", "the GPU's memory ran out", "Leave it more.")
NO_MODEL = Cause("bad_model_folder", "there is no checkpoint", "Fetch it.", permanent=True)
NOTE = "KV cache lowered from 4 GiB to 3 GiB after running out of memory twice"


def step(end: End, record: Record = Record(), **changes: Any) -> Again | GivenUp:  # noqa: B008 - frozen
    facts = {"name": "qwen", "wanted": True, "restarts": 5, "can_lower": False, "note": None}
    return after(end, record, **{**facts, **changes})


def again(end: End, record: Record = Record(), **changes: Any) -> Again:  # noqa: B008 - frozen
    found = step(end, record, **changes)
    assert isinstance(found, Again)
    return found


def given_up(end: End, record: Record = Record(), **changes: Any) -> GivenUp:  # noqa: B008 - frozen
    found = step(end, record, **changes)
    assert isinstance(found, GivenUp)
    return found


def test_pauses_double_up_to_a_minute_and_then_it_is_broken() -> None:
    record, pauses = Record(), []
    for _ in range(8):
        next_step = again(End(BAD_LUCK), record, restarts=8)
        record = next_step.record
        pauses.append(next_step.delay)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    failure = given_up(End(BAD_LUCK), record, restarts=8).failure
    assert isinstance(failure, EngineStartFailed)
    assert failure.message == "qwen did not start: bad luck (9 times in a row)"


def test_five_minutes_of_life_give_a_clean_record() -> None:
    stained = Record(crashes=5, out_of_memory=1)
    assert again(End(BAD_LUCK, "awake", 300.0), stained).record == Record(crashes=1)
    assert isinstance(given_up(End(BAD_LUCK, "awake", 299.0), stained).failure, EngineUnavailable)
    assert not again(End(NO_MEMORY, "awake", 300.0), stained, can_lower=True).lowered
    assert again(End(NO_MEMORY, "waking", 300.0), stained, can_lower=True).record == Record(out_of_memory=1)


@pytest.mark.parametrize("phase", ["starting", "waking", "asleep", "falling_asleep"])
def test_what_cannot_help_is_not_tried_again(phase: Phase) -> None:
    failure = given_up(End(NO_MODEL, phase)).failure
    assert isinstance(failure, EngineStartFailed)
    assert failure.permanent


def test_what_cannot_help_at_a_start_is_a_crash_like_others_where_it_was_awake_before() -> None:
    assert again(End(NO_MODEL, "awake", 1.0)).delay == 1


@pytest.mark.parametrize("phase", ["falling_asleep", "asleep", "waking"])
def test_an_engine_that_fails_to_sleep_or_wake_but_is_wanted_starts_at_once_with_the_record_it_had(
    phase: Phase,
) -> None:
    found = again(End(BAD_LUCK, phase), Record(crashes=3))
    assert (found.delay, found.record.crashes) == (0, 3)
    assert again(End(BAD_LUCK, phase), Record(crashes=5), restarts=0)


@pytest.mark.parametrize("phase", ["starting", "awake", "falling_asleep", "asleep", "waking"])
def test_an_engine_that_nobody_wants_stays_stopped(phase: Phase) -> None:
    found = given_up(End(BAD_LUCK, phase), wanted=False)
    assert (found.state, type(found.failure)) == ("stopped", EngineUnavailable)
    assert "bad luck" in found.failure.message


def test_the_second_time_without_memory_in_a_row_lowers_the_cache_and_that_is_tried_whatever_was_before() -> None:
    first = again(End(NO_MEMORY), restarts=1, can_lower=True)
    assert not first.lowered
    second = again(End(NO_MEMORY), first.record, restarts=1, can_lower=True)
    assert second.lowered
    assert isinstance(step(End(BAD_LUCK), second.record, restarts=1, note=NOTE), GivenUp)


def test_the_smaller_cache_that_does_not_fit_either_is_the_end_with_all_that_said() -> None:
    record = Record(crashes=2, out_of_memory=2)
    found = given_up(End(NO_MEMORY), record, note=NOTE)
    assert found.state == "broken"
    assert found.failure.message == f"qwen did not start: the GPU's memory ran out (3 times in a row); {NOTE}"


def test_another_failure_in_between_starts_the_count_anew() -> None:
    record = again(End(BAD_LUCK), Record(crashes=1, out_of_memory=1)).record
    assert record.out_of_memory == 0
    assert not again(End(NO_MEMORY), record, can_lower=True).lowered


def test_without_memory_on_waking_and_again_at_the_fresh_start_is_twice() -> None:
    woken = again(End(NO_MEMORY, "waking"), can_lower=True)
    assert (woken.delay, woken.lowered) == (0, False)
    assert again(End(NO_MEMORY), woken.record, can_lower=True).lowered


def test_a_frozen_engine_is_said_to_hang_whatever_it_did() -> None:
    hung = Cause("hung", "no sign of life for 60 s", "")
    assert again(End(hung, "awake", 5.0)).message == "qwen hung: no sign of life for 60 s"
