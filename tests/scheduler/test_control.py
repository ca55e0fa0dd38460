"""What an administrator does by hand, what the clock does, and the end."""

from __future__ import annotations

import asyncio

import pytest

from local_fusion.errors import EngineError, EngineUnavailable, MemoryTaken
from tests.scheduler.machine import Seconds, machine, now, takes, virtual

ONE = {"a": takes()}
TWO = {"a": takes(), "b": takes()}


@virtual
async def test_the_plans_residents_are_started_before_anybody_calls() -> None:
    async with machine({"a": takes(5), "b": takes(5), "c": takes(5)}) as rig:
        rig.scheduler.start(["a", "b"])
        await asyncio.sleep(20.5)
        assert rig.states() == {"a": "awake", "b": "awake", "c": "stopped"}


@virtual
async def test_calls_for_others_wait_until_the_residents_are_up() -> None:
    async with machine(TWO, seconds={"a": Seconds(start=50)}, fairness_seconds=1) as rig:
        rig.scheduler.start(["a"])
        assert await rig.call("b") == 50.0 + 1.0 + 20.0


@virtual
async def test_an_engine_put_to_sleep_finishes_what_it_does_and_the_next_call_wakes_it() -> None:
    async with machine(ONE, awake=["a"]) as rig:
        busy = rig.calling("a", 10.0)
        await asyncio.sleep(1)
        sleeping = asyncio.create_task(rig.scheduler.sleep("a"))
        await asyncio.sleep(1)
        late = rig.calling("a")
        await sleeping
        assert now() == 11.0
        assert await busy == 0.0
        assert await late == 13.0


@virtual
async def test_an_engine_put_to_sleep_before_the_turn_of_those_it_was_woken_for_stands_in_nobodys_way() -> None:
    engines = {"a": takes(24), "b": takes(1), "c": takes(2, sleeping=1)}
    ones, quick = dict.fromkeys(engines, 1), dict.fromkeys(engines, Seconds(5.0, 0.5, 4.0, 0.3, 0.5))
    async with machine(engines, usable=24, capacities=ones, seconds=quick, fairness_seconds=5) as rig:
        calls = [rig.calling("c", 0.1) for _ in range(3)]
        await asyncio.sleep(0)
        waking = asyncio.create_task(rig.scheduler.wake("b"))
        for _ in range(3):
            await asyncio.sleep(0)  # both are being woken before anybody calls for the large one
        calls += [rig.calling("a", 0.1) for _ in range(7)]
        await asyncio.sleep(0.25)
        await rig.scheduler.sleep("c")
        await asyncio.wait_for(asyncio.gather(waking, *calls), 200)


@virtual
async def test_putting_to_sleep_what_sleeps_or_is_falling_asleep_changes_nothing() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"]) as rig:
        await rig.scheduler.sleep("b")
        assert now() == 0.0
        await asyncio.gather(rig.scheduler.sleep("a"), rig.scheduler.sleep("a"))
        assert now() == 1.0
        assert rig.states() == {"a": "asleep", "b": "asleep"}


@virtual
async def test_a_wake_by_hand_waits_for_its_turn_like_a_call() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"], fairness_seconds=10) as rig:
        busy = rig.calling("a", 4.0)
        await rig.scheduler.wake("b")
        assert now() == 4.0 + 1.0 + 2.0
        assert rig.states() == {"a": "asleep", "b": "awake"}
        await busy


@virtual
async def test_a_wake_by_hand_that_fails_says_why() -> None:
    async with machine(ONE, asleep=["a"]) as rig:
        rig.engines["a"].failures = [(MemoryTaken("a desktop has it"), "asleep")]
        with pytest.raises(MemoryTaken):
            await rig.scheduler.wake("a")


@virtual
async def test_a_restart_lets_calls_end_and_later_ones_wait_for_it() -> None:
    async with machine(ONE, awake=["a"]) as rig:
        busy = rig.calling("a", 10.0)
        await asyncio.sleep(1)
        restarting = asyncio.create_task(rig.scheduler.restart("a"))
        await asyncio.sleep(1)
        late = rig.calling("a")
        await restarting
        assert await busy == 0.0
        assert await late == 10.0 + 1.0 + 20.0


@virtual
async def test_a_restart_does_not_wait_for_ever_for_calls_that_never_end() -> None:
    async with machine(ONE, awake=["a"]) as rig:
        hanging = rig.calling("a", 9999.0)
        await asyncio.sleep(1)
        await rig.scheduler.restart("a")
        assert now() == 1.0 + 30.0 + 1.0 + 20.0
        with pytest.raises(EngineError):
            await hanging


@virtual
async def test_a_pinned_engine_is_awake_and_stays_so() -> None:
    async with machine({"a": takes(6), "b": takes(6)}, awake=["a"], asleep=["b"], fairness_seconds=1) as rig:
        await rig.scheduler.pin("b")
        assert rig.states() == {"a": "asleep", "b": "awake"}
        with pytest.raises(EngineUnavailable, match="b is pinned"):
            await rig.call("a")
        assert [each.pinned for each in rig.scheduler.overview()] == [False, True]
        rig.scheduler.unpin("b")
        await rig.call("a")
        assert rig.states() == {"a": "awake", "b": "asleep"}


@virtual
async def test_calls_that_wait_already_are_turned_away_when_a_pin_makes_them_hopeless() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"]) as rig:
        busy, queued = rig.calling("a", 100.0), rig.calling("b")
        await asyncio.sleep(1)
        await rig.scheduler.pin("a")
        with pytest.raises(EngineUnavailable, match="a is pinned"):
            await queued
        assert now() == 1.0
        busy.cancel()


@virtual
async def test_a_pin_that_fails_pins_nothing() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"]) as rig:
        rig.engines["b"].failures = [(MemoryTaken("a desktop has it"), "asleep")]
        with pytest.raises(MemoryTaken):
            await rig.scheduler.pin("b")
        await rig.call("a")
        await rig.scheduler.pin("a")
        with pytest.raises(EngineUnavailable, match="a is pinned"):
            await rig.scheduler.pin("b")
        assert [each.pinned for each in rig.scheduler.overview()] == [True, False]


@virtual
async def test_putting_a_pinned_engine_to_sleep_unpins_it() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"]) as rig:
        await rig.scheduler.pin("a")
        await rig.scheduler.sleep("a")
        await rig.call("b")
        assert not any(each.pinned for each in rig.scheduler.overview())


@virtual
async def test_engines_that_nobody_calls_give_their_memory_back() -> None:
    async with machine(ONE, idle_sleep_seconds=60) as rig:
        await rig.call("a", 5.0)
        await asyncio.sleep(59)
        assert rig.states() == {"a": "awake"}
        await asyncio.sleep(2.5)
        assert rig.states() == {"a": "asleep"}
        await rig.call("a")


@virtual
async def test_the_overview_tells_what_is_held_what_waits_and_how_long_moves_took() -> None:
    footprints = {"a": takes(8, sleeping=1), "b": takes(8, sleeping=2, rest="stopped", devices=(0,))}
    async with machine(footprints, awake=["a"], asleep=["b"]) as rig:
        busy = [rig.calling("a", 10.0), rig.calling("a", 10.0, priority="batch")]
        queued = [rig.calling("b", 10.0), rig.calling("b", 10.0, priority="batch")]
        await asyncio.sleep(4)
        a, b = rig.scheduler.overview()
        assert (a.running, a.waiting, a.held_bytes, a.oldest_wait, a.reason) == (2, 0, 8, None, "")
        assert (b.running, b.waiting, b.waiting_batch, b.held_bytes, b.oldest_wait) == (0, 2, 1, 2, 4.0)
        assert "a has its memory" in b.reason
        await asyncio.wait([*busy, *queued])
        a, b = rig.scheduler.overview()
        assert (a.snapshot.state, a.held_bytes, a.swaps, a.seconds_to_wake, a.seconds_to_rest) == (
            "asleep",
            1,
            0,
            None,
            1,
        )
        assert (b.snapshot.state, b.held_bytes, b.swaps, b.seconds_to_wake, b.seconds_to_rest) == (
            "awake",
            8,
            1,
            2,
            None,
        )
        assert (a.rest, b.rest) == ("level 1", "stopped")


@virtual
async def test_the_end_answers_everybody_who_waits() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"], capacities={"a": 1}, fairness_seconds=1) as rig:
        in_flight = rig.calling("a", 40.0)
        waiting = [rig.calling("a"), rig.calling("b"), rig.calling("b", priority="batch")]
        await asyncio.sleep(2)
        by_hand = [
            asyncio.create_task(action)
            for action in (
                rig.scheduler.sleep("a"),
                rig.scheduler.restart("a"),
                rig.scheduler.wake("b"),
                rig.scheduler.pin("b"),
            )
        ]
        await asyncio.sleep(2)
        await rig.scheduler.aclose()
        for error in await asyncio.gather(*waiting, *by_hand, return_exceptions=True):
            assert isinstance(error, EngineUnavailable)
            assert "stopping" in error.message
        assert now() == 4.0
        with pytest.raises(EngineUnavailable, match="stopping"):
            await rig.call("a")
        assert rig.states() == {"a": "awake", "b": "asleep"}
        assert await in_flight == 0.0


@virtual
async def test_the_end_comes_in_the_middle_of_a_move_too() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"]) as rig:
        waiting = rig.calling("b")
        await asyncio.sleep(0.5)
        await rig.scheduler.aclose()
        with pytest.raises(EngineUnavailable):
            await waiting
