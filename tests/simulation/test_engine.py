"""A simulated engine goes the same ladder as a real one, in modelled seconds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from local_fusion.scheduler.managed import ManagedEngine
from local_fusion.simulation.engine import SimulatedEngine
from tests.cli.plans import GIB
from tests.simulation.parts import World, now, simulated


def states(engine: SimulatedEngine) -> list[tuple[float, str]]:
    return list(engine.lane.states)


def test_down_the_ladder_and_up_again() -> None:
    async def body(world: World) -> None:
        engine = world.engine("one")
        managed: ManagedEngine = engine
        heard = []
        managed.subscribe(lambda snapshot: heard.append((snapshot.state, snapshot.level)))
        await managed.wake()
        await managed.sleep(1)
        await managed.wake()
        await managed.sleep(2)
        await managed.wake()
        await managed.stop()
        assert heard == [
            ("starting", None),
            ("awake", None),
            ("falling_asleep", 1),
            ("asleep", 1),
            ("waking", 1),
            ("awake", None),
            ("falling_asleep", 2),
            ("asleep", 2),
            ("waking", 2),
            ("awake", None),
            ("stopping", None),
            ("stopped", None),
        ]
        assert [at for at, state in states(engine) if state in ("awake", "asleep", "stopped")] == [
            0,
            60,
            64,
            67,
            68,
            78,
            80,
        ]
        assert world.rig.held(0) == 0
        assert (engine.snapshot.seconds_to_ready, engine.snapshot.seconds_to_wake) == (60, 10)

    simulated(body)


def test_orders_are_carried_out_one_after_the_other_and_twice_the_same_is_once() -> None:
    async def body(world: World) -> None:
        engine = world.engine("one")
        await asyncio.gather(engine.wake(), engine.wake(), engine.sleep(1), engine.stop(), engine.stop())
        assert [move.kind for move in engine.lane.moves] == ["start", "sleep", "stop"]
        assert now() == 66

    simulated(body)


def test_one_engine_at_a_time_moves_on_a_gpu() -> None:
    async def body(world: World) -> None:
        small: dict[str, Any] = {"weights": 1, "kv": 1, "overhead": 1}
        engines = [
            world.engine("one", 0, **small),
            world.engine("two", 0, 1, **small),
            world.engine("three", 1, **small),
        ]
        await asyncio.gather(*(engine.wake() for engine in engines))
        assert sorted(engine.lane.moves[0].ended for engine in engines) == [60, 60, 120]  # `two` needs both GPUs

    simulated(body)


def test_calls_wait_until_it_is_awake() -> None:
    async def body(world: World) -> None:
        engine = world.engine("one")
        call = asyncio.create_task(engine.generate(1, [4]))
        await asyncio.sleep(10)
        await engine.wake()
        await call
        assert now() == 72

    simulated(body)


def test_an_engine_with_calls_in_flight_is_not_to_be_put_to_sleep() -> None:
    async def body(world: World) -> None:
        engine = world.engine("one")
        await engine.wake()
        call = asyncio.create_task(engine.generate(1, [4]))
        await asyncio.sleep(0.1)
        for order in (engine.sleep(1), engine.stop()):
            with pytest.raises(RuntimeError, match="one is to give its memory back with 1 calls in flight"):
                await order
        await call
        await engine.stop()

    simulated(body)


def test_no_more_runs_at_the_same_time_than_the_cache_holds() -> None:
    async def body(world: World) -> None:
        engine = world.engine("one", kv_cache_bytes=100 * 131072)
        await engine.wake()
        began = now()
        await asyncio.gather(*(engine.generate(40, [10]) for _ in range(4)))
        assert now() - began == 10  # two and two, of 50 tokens each
        assert max(value for _, value in engine.lane.running.points) == 2

    simulated(body)


def test_an_engine_that_never_moved_holds_nothing() -> None:
    async def body(world: World) -> None:
        engine = world.engine("one")
        await engine.sleep(1)
        await engine.stop()
        assert (now(), world.rig.held(0), engine.snapshot.state) == (0, 0, "stopped")
        assert world.rig.peaks[0] < GIB

    simulated(body)
