"""Engines that crash, break, do not wake or do not rest: every call that waits for one gets an answer."""

from __future__ import annotations

import asyncio

import pytest

from local_fusion.engines.engine import State
from local_fusion.errors import EngineDied, EngineError, EngineStartFailed, EngineUnavailable, MemoryTaken
from local_fusion.scheduler.policy import FairPolicy
from local_fusion.scheduler.situation import Action, Situation
from tests.scheduler.machine import machine, takes, virtual

ONE = {"a": takes()}
TWO = {"a": takes(), "b": takes()}


async def answers(calls: list[asyncio.Task[float]]) -> list[float | BaseException]:
    return await asyncio.gather(*calls, return_exceptions=True)


@virtual
async def test_calls_that_wait_while_an_engine_restarts_after_a_crash_wait_for_it() -> None:
    async with machine(ONE, awake=["a"], capacities={"a": 1}) as rig:
        in_flight, queued = rig.calling("a", 10.0), rig.calling("a")
        await asyncio.sleep(5)
        rig.engines["a"].crash()
        new = rig.calling("a")
        with pytest.raises(EngineDied):
            await in_flight
        assert await queued == 5.0 + 3.0 + 20.0
        assert await new == 29.0


@virtual
async def test_a_broken_engine_turns_its_calls_away_at_once_with_the_cause_and_later_ones_too() -> None:
    async with machine(ONE, awake=["a"], capacities={"a": 1}) as rig:
        calls = [rig.calling("a", 10.0) for _ in range(3)]
        await asyncio.sleep(5)
        rig.engines["a"].crash(for_good=True)
        died, *turned_away = await answers(calls)
        assert isinstance(died, EngineDied)
        for error in [*turned_away, *await answers([rig.calling("a")])]:
            assert isinstance(error, EngineUnavailable)
            assert error.message == "a crashed: it is beyond repair"
            assert "restart" in error.hint
        assert asyncio.get_running_loop().time() == 5.0
        assert len({id(error) for error in turned_away}) == 2  # each its own


@virtual
async def test_a_broken_engine_is_in_nobodys_way() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"]) as rig:
        busy, queued = rig.calling("a", 100.0), rig.calling("b")
        await asyncio.sleep(5)
        rig.engines["a"].crash(for_good=True)
        assert await queued == 7.0
        assert isinstance((await answers([busy]))[0], EngineDied)


@virtual
async def test_a_restart_by_hand_revives_it() -> None:
    async with machine(ONE, awake=["a"]) as rig:
        rig.engines["a"].crash(for_good=True)
        restarting = asyncio.create_task(rig.scheduler.restart("a"))
        await asyncio.sleep(1)
        waiting = rig.calling("a")
        await restarting
        assert await waiting == 20.0


@virtual
async def test_a_restart_by_hand_that_fails_says_why_and_leaves_it_broken() -> None:
    async with machine(ONE, awake=["a"]) as rig:
        rig.engines["a"].crash(for_good=True)
        rig.engines["a"].failures = [(EngineStartFailed("no such kernel", permanent=True), "broken")]
        with pytest.raises(EngineStartFailed, match="no such kernel"):
            await rig.scheduler.restart("a")
        with pytest.raises(EngineStartFailed, match="no such kernel") as later:
            await rig.call("a")
        assert later.value.permanent


@virtual
async def test_a_restart_by_hand_that_is_given_up_does_not_let_the_next_call_try() -> None:
    async with machine(TWO, awake=["a"]) as rig:
        rig.engines["b"].found("broken")
        busy = rig.calling("a", 100.0)
        waking = asyncio.create_task(rig.scheduler.wake("b"))
        await asyncio.sleep(1)
        waking.cancel()
        with pytest.raises(EngineUnavailable, match="b is broken"):
            await rig.call("b")
        busy.cancel()


@pytest.mark.parametrize(
    ("error", "left"),
    [(EngineStartFailed("too old a driver"), "stopped"), (MemoryTaken("a desktop has it"), "asleep")],
)
@virtual
async def test_an_engine_that_does_not_wake_answers_all_who_wait_and_the_next_call_tries_again(
    error: EngineError, left: State
) -> None:
    async with machine(ONE, asleep=["a"]) as rig:
        rig.engines["a"].failures = [(error, left)]
        told = await answers([rig.calling("a") for _ in range(3)])
        assert [(type(each), str(each)) for each in told] == [(type(error), str(error))] * 3
        assert await rig.call("a") == (2.0 + 20.0 if left == "stopped" else 2.0)


@virtual
async def test_a_defect_while_waking_is_an_answer_too() -> None:
    async with machine(ONE, asleep=["a"]) as rig:
        rig.engines["a"].failures = [(KeyError("oops"), "stopped")]
        with pytest.raises(EngineError, match="oops"):
            await rig.call("a")
        await rig.call("a")


@virtual
async def test_who_made_room_for_one_that_did_not_wake_comes_back_for_its_own_calls() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"]) as rig:
        rig.engines["b"].failures = [(MemoryTaken("a desktop has it"), "asleep")]
        failing = rig.calling("b")
        await asyncio.sleep(0.5)
        own = rig.calling("a")
        with pytest.raises(MemoryTaken):
            await failing
        assert await own == 1.0 + 2.0
        assert rig.states() == {"a": "awake", "b": "asleep"}


@virtual
async def test_an_engine_that_crashes_while_it_is_to_make_room_makes_room() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"], fairness_seconds=1) as rig:
        long, queued = rig.calling("a", 60.0), rig.calling("b")
        await asyncio.sleep(10)
        rig.engines["a"].crash()
        assert await queued == 10.0 + 1.0 + 2.0
        assert isinstance((await answers([long]))[0], EngineDied)


@virtual
async def test_an_engine_that_dies_while_it_falls_asleep_or_sleeps_is_started_when_it_is_called() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"]) as rig:
        queued = rig.calling("b")
        await asyncio.sleep(0.5)
        rig.engines["a"].crash()
        await queued
        assert rig.states() == {"a": "stopped", "b": "awake"}
        await rig.call("a")
        rig.engines["b"].crash()
        assert rig.states() == {"a": "awake", "b": "stopped"}
        await rig.call("b")


@virtual
async def test_an_engine_that_crashes_while_it_wakes_is_waited_for() -> None:
    async with machine(ONE, asleep=["a"]) as rig:
        queued = rig.calling("a")
        await asyncio.sleep(1)
        rig.engines["a"].crash()
        assert await queued == 2.0 + 3.0 + 20.0


@virtual
async def test_a_policy_that_fails_is_an_answer_and_not_the_end() -> None:
    class Mistaken(FairPolicy):
        mistakes = 1

        def decide(self, situation: Situation) -> tuple[Action, ...]:
            if Mistaken.mistakes:
                Mistaken.mistakes -= 1
                raise ZeroDivisionError("a mistake")
            return super().decide(situation)

    async with machine(ONE, asleep=["a"], policy=Mistaken()) as rig:
        with pytest.raises(EngineUnavailable, match="a mistake"):
            await rig.call("a")
        assert await rig.call("a") == 2.0


@virtual
async def test_where_an_engine_cannot_be_ended_whoever_wanted_its_memory_is_told() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"]) as rig:
        rig.engines["a"].rest_fails_with = EngineUnavailable("a: process 7 does not end")
        rig.engines["b"].failures = [(MemoryTaken("process 7 has it"), "asleep")]
        with pytest.raises(MemoryTaken, match="process 7"):
            await rig.call("b")
        with pytest.raises(EngineUnavailable, match="does not end"):
            await rig.call("a")
