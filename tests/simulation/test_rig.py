"""What engines share: memory that cannot be overdrawn unseen, and time that they take turns at."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from local_fusion.simulation.rig import HOST
from tests.cli.plans import GIB
from tests.simulation.parts import World, now, simulated


def test_two_engines_awake_where_one_fits_are_written_down_at_that_second() -> None:
    async def body(world: World) -> None:
        one, two = world.engine("one"), world.engine("two")
        await one.wake()
        await two.wake()
        (found,) = world.rig.overdrafts
        assert (found.at, found.device, found.engine) == (60, 0, "two")
        assert (found.booked_bytes, found.usable_bytes) == (24 * GIB, 20 * GIB)
        assert "two" in str(found)

    simulated(body)


def test_memory_counts_from_the_beginning_of_a_wake_to_the_end_of_a_sleep() -> None:
    async def body(world: World) -> None:
        one, two = world.engine("one"), world.engine("two", 0, 1)
        await one.wake()
        falling_asleep = asyncio.create_task(one.sleep(2))
        await asyncio.sleep(0.5)
        # On GPU 0 it waits for its turn at the device, but whoever books there while another still holds is seen.
        world.rig.book("three", (0,), 9 * GIB)
        await falling_asleep
        assert [each.engine for each in world.rig.overdrafts] == ["three"]
        world.rig.book("three", (0,), 0)
        assert world.rig.held(0) == GIB
        await two.wake()
        assert (world.rig.held(0), world.rig.held(1)) == (13 * GIB, 12 * GIB)
        assert len(world.rig.overdrafts) == 1
        assert world.rig.peaks[0] == 21 * GIB

    simulated(body)


def test_host_ram_is_held_from_the_first_sleep_until_the_end_and_may_be_overdrawn_too() -> None:
    async def body(world: World) -> None:
        one, two = world.engine("one"), world.engine("two", 1)
        for engine in (one, two):
            await engine.wake()
        await one.sleep(1)
        assert world.rig.held(HOST) == 8 * GIB
        await one.wake()
        assert world.rig.held(HOST) == 8 * GIB
        assert not world.rig.overdrafts
        await two.sleep(1)
        assert [each.device for each in world.rig.overdrafts] == [HOST]
        await one.stop()
        assert world.rig.held(HOST) == 8 * GIB

    simulated(body, host_gibs=10)


def test_engines_that_compute_on_one_gpu_take_turns_and_those_on_two_do_not() -> None:
    async def body(world: World) -> list[float]:
        small: dict[str, Any] = {"weights": 1, "kv": 1, "overhead": 1}
        here, beside = world.engine("here", 0, **small), world.engine("beside", 0, **small)
        there = world.engine("there", 1, **small)
        for engine in (here, beside, there):
            await engine.wake()
        began = now()

        async def seconds(*answers: int, of: object = here, after: float = 0.0) -> float:
            await asyncio.sleep(after)
            await of.generate(10, answers)  # type: ignore[attr-defined]
            return now() - began

        ended = await asyncio.gather(seconds(10), seconds(4, of=beside, after=2), seconds(10, of=there))
        assert world.rig.busy_seconds == {0: 7, 1: 5}
        return list(ended)

    # Alone for 2 s, sharing the GPU for 4 s until `beside` has had its 2 s, alone again for the last second.
    assert simulated(body) == [7, 6, 5]


def test_engines_on_the_cpu_share_only_cores() -> None:
    async def body(world: World) -> list[float]:
        engines = [
            world.engine(name, 0, kind="cpu", cores=cores, weights=1, kv=1, overhead=1)
            for name, cores in (("a", (0, 1)), ("b", (1, 2)), ("c", (3,)))
        ]
        await asyncio.gather(*(engine.wake() for engine in engines))
        assert now() == 60  # nobody waits for a turn to start, as on a GPU
        await asyncio.gather(*(engine.generate(1, [10]) for engine in engines))
        return [engine.lane.busy_seconds for engine in engines]

    assert simulated(body) == [10, 10, 5]


@pytest.mark.parametrize("size", [20 * GIB, 20 * GIB + 1])
def test_a_full_device_is_not_overdrawn_and_one_byte_more_is(size: int) -> None:
    async def body(world: World) -> int:
        world.rig.book("one", (0,), size)
        return len(world.rig.overdrafts)

    assert simulated(body) == (size > 20 * GIB)
