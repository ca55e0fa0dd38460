"""Engines that come, change and go under a scheduler that goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.config.schema import SchedulingSettings
from local_fusion.engines.gate import Call
from local_fusion.errors import EngineDied, EngineUnavailable
from local_fusion.scheduler.costs import Costs
from local_fusion.scheduler.managed import Terms
from local_fusion.scheduler.situation import Footprint
from local_fusion.simulation.clock import run
from tests.scheduler.machine import Machine, Seconds, StagedEngine, machine, now, takes, virtual

ONE = {"a": takes()}
TWO = {"a": takes(), "b": takes()}
BOTH = {"a": takes(5), "b": takes(5)}


def terms(footprint: Footprint, capacity: int = 8) -> Terms:
    return Terms(footprint, Costs(20.0, 2.0, 4.0), capacity)


def come(rig: Machine, name: str, footprint: Footprint, seconds: Seconds = Seconds()) -> StagedEngine:  # noqa: B008
    """Another engine, which is stopped."""
    engine = rig.engines[name] = StagedEngine(name, footprint, rig.ledger, seconds)
    rig.scheduler.add(engine, terms(footprint))
    return engine


async def go(rig: Machine, name: str, seconds: float = 20.0) -> bool:
    """Take an engine away as a reload does; whether nobody needed it any more."""
    holding = rig.scheduler.holding
    unused = await holding.unused(name, seconds)
    with holding.held(name):
        await rig.engines[name].stop()
        await holding.left_alone(name)
    rig.scheduler.remove(name)
    return unused


@asynccontextmanager
async def changing(rig: Machine, name: str, seconds: float = 20.0) -> AsyncIterator[None]:
    """Stop an engine to have it replaced in this block, as a reload does."""
    holding = rig.scheduler.holding
    with holding.held(name):
        await holding.drained(name, seconds)
        await rig.engines[name].stop()
        await holding.left_alone(name)
        yield


@virtual
async def test_an_engine_that_comes_is_woken_by_its_first_call() -> None:
    async with machine(ONE, usable=20, awake=["a"]) as rig:
        come(rig, "b", takes())
        assert await rig.call("b") == 20.0
        assert [each.name for each in rig.scheduler.overview()] == ["a", "b"]


@virtual
async def test_engines_that_come_are_started_where_there_is_room_beside_those_that_are_to_be_awake() -> None:
    async with machine(BOTH, usable=15, awake=["a"]) as rig:
        come(rig, "c", takes(5))
        come(rig, "d", takes(5))
        rig.scheduler.start_beside(["c"], {"a", "b", "c"})
        rig.scheduler.start_beside(["d"], {"a", "b", "c", "d"})
        await asyncio.sleep(30)
        assert rig.states() == {"a": "awake", "b": "stopped", "c": "awake", "d": "stopped"}
        assert await rig.call("d") == 30.0 + 20.0, "it is woken like any other when it is called"


@virtual
async def test_room_that_another_engine_is_about_to_take_is_no_room() -> None:
    async with machine(TWO, awake=[]) as rig:
        for name in ("c", "d"):
            come(rig, name, takes(6))
            rig.scheduler.start_beside([name], {name})
        assert await rig.call("b") == 20.0 + 1.0 + 20.0
        assert rig.states() == {"a": "stopped", "b": "awake", "c": "asleep", "d": "stopped"}


@virtual
async def test_an_engine_that_is_in_the_way_though_it_need_not_be_awake_is_left_in_peace_until_somebody_calls() -> None:
    async with machine(ONE, awake=["a"]) as rig:
        come(rig, "b", takes())
        rig.scheduler.start_beside(["b"], {"b"})
        await asyncio.sleep(60)
        assert rig.states() == {"a": "awake", "b": "stopped"}
        assert await rig.call("b") == 60.0 + 1.0 + 20.0


@virtual
async def test_calls_to_an_engine_that_is_replaced_wait_and_those_in_flight_end() -> None:
    async with machine(ONE, awake=["a"]) as rig:
        busy = rig.calling("a", 10.0)
        await asyncio.sleep(1)
        async with changing(rig, "a"):
            assert now() == 10.0 + 1.0
            late = rig.calling("a")
            await asyncio.sleep(5)
            rig.scheduler.place("a", terms(takes(7)))
            rig.engines["a"].footprint = takes(7)
        assert await busy == 0.0
        assert await late == 16.0 + 20.0
        assert rig.scheduler.overview()[0].held_bytes == 7


@virtual
async def test_a_request_that_has_begun_with_an_engine_finishes_there_before_it_is_replaced() -> None:
    async with machine(ONE, awake=["a"]) as rig:

        async def two_calls() -> list[float]:
            with rig.scheduler.gate("a").expecting(Call("r")):
                return [await rig.call("a", 5.0, request="r"), await rig.call("a", 5.0, request="r")]

        finishing = asyncio.create_task(two_calls())
        await asyncio.sleep(1)
        async with changing(rig, "a"):
            assert await finishing == [0.0, 5.0]
            assert now() == 10.0 + 1.0


@virtual
async def test_an_engine_is_replaced_in_the_middle_of_a_call_that_does_not_end() -> None:
    async with machine(ONE, awake=["a"]) as rig:
        busy = rig.calling("a", 1000.0)
        await asyncio.sleep(1)
        async with changing(rig, "a", seconds=5.0):
            assert now() == 6.0 + 1.0
        with pytest.raises(EngineDied):
            await busy
        assert await rig.call("a") == 7.0 + 20.0


@virtual
async def test_calls_that_wait_for_an_engine_to_start_go_on_waiting_when_it_is_replaced() -> None:
    async with machine(ONE) as rig:
        waiting = rig.calling("a")
        await asyncio.sleep(1)
        rig.engines["a"].failures = [(EngineUnavailable("a is stopped"), "stopped")]
        async with changing(rig, "a"):
            assert not waiting.done()
        assert await waiting == 20.0 + 20.0


@virtual
async def test_an_engine_that_goes_is_kept_for_whoever_may_still_call_it() -> None:
    async with machine(ONE, awake=["a"]) as rig:
        going: asyncio.Task[bool]
        with rig.scheduler.using(["a"]):
            going = asyncio.create_task(go(rig, "a"))
            await asyncio.sleep(5)
            assert await rig.call("a") == 5.0
        assert await going
        assert now() == 6.0 + 1.0
        assert rig.scheduler.overview() == ()


@virtual
async def test_an_engine_that_goes_is_woken_once_more_for_whoever_needs_it() -> None:
    async with machine(TWO, awake=["b"], asleep=["a"]) as rig:
        waiting = rig.calling("a")
        await asyncio.sleep(0)
        assert await go(rig, "a")
        assert await waiting == 3.0


@virtual
async def test_whoever_needs_it_for_too_long_is_told_that_it_is_gone_and_so_is_everybody_later() -> None:
    async with machine(ONE, awake=["a"], capacities={"a": 1}) as rig:
        busy, waiting = rig.calling("a", 1000.0), rig.calling("a")
        await asyncio.sleep(1)
        assert not await go(rig, "a", seconds=5.0)
        with pytest.raises(EngineDied):
            await busy
        for each in (waiting, rig.calling("a")):
            with pytest.raises(EngineUnavailable, match="a was taken out of the configuration"):
                await each
        with rig.scheduler.gate("a").expecting(Call("r")):
            assert rig.is_at_rest()


@virtual
async def test_what_is_ordered_of_an_engine_that_goes_meanwhile_is_refused() -> None:
    async with machine(ONE, awake=["a"]) as rig:
        busy = rig.calling("a", 10.0)
        await asyncio.sleep(1)
        with rig.scheduler.holding.held("a"):
            orders = [asyncio.create_task(order("a")) for order in (rig.scheduler.sleep, rig.scheduler.restart)]
            await busy
            await rig.engines["a"].stop()
            await asyncio.sleep(1)
            assert not any(order.done() for order in orders)
            rig.scheduler.remove("a")
        for order in orders:
            with pytest.raises(EngineUnavailable, match="taken out"):
                await order


@virtual
async def test_whoever_moves_an_engine_by_hand_when_it_goes_hears_that_and_nothing_else() -> None:
    for order in ("sleep", "restart"):
        async with machine(ONE, awake=["a"]) as rig:
            async with rig.scheduler.gate("a").turn(Call("whose answer is being read to its end")):
                ordered = asyncio.create_task(getattr(rig.scheduler, order)("a"))
                await asyncio.sleep(1)
                assert not await go(rig, "a", 5.0)
            await asyncio.wait([ordered])
            assert isinstance(ordered.exception(), EngineUnavailable | None), repr(ordered.exception())


@virtual
async def test_other_settings_count_at_once() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"], fairness_seconds=None) as rig:
        busy = [rig.calling("a", 3.0 * turn) for turn in range(1, 30)]
        waiting = rig.calling("b")
        await asyncio.sleep(10)
        rig.ledger.usable = {0: 20}
        rig.scheduler.adopt(SchedulingSettings(fairness_seconds=5), {0: 20}, ["b", "a"])
        assert await waiting == 10.0 + 2.0, "there is room now"
        assert [each.name for each in rig.scheduler.overview()] == ["b", "a"]
        await asyncio.gather(*busy)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.sampled_from("abcd"), st.floats(0.1, 30.0)),
        st.tuples(st.just("come"), st.sampled_from("abcd"), st.sampled_from([4.0, 6.0, 10.0])),
        st.tuples(st.just("go"), st.sampled_from("abcd"), st.sampled_from([0.0, 3.0, 20.0])),
        st.tuples(st.just("change"), st.sampled_from("abcd"), st.sampled_from([4.0, 6.0, 10.0])),
        st.tuples(st.just("wait"), st.just(""), st.floats(0.0, 40.0)),
    ),
    max_size=30,
)


@given(steps)
def test_whatever_comes_changes_and_goes_memory_suffices_and_everybody_is_answered(plan: list[Any]) -> None:
    run(storm(plan))


async def storm(plan: list[Any]) -> None:
    """One step after the other, calls and moves side by side; `machine` looks for faults at the end."""
    async with machine(TWO, awake=["a"], fairness_seconds=5) as rig:
        there, moving, calls = {"a", "b"}, dict[str, asyncio.Task[Any]](), list[asyncio.Task[float]]()

        async def change(name: str, size: int) -> None:
            async with changing(rig, name, seconds=3.0):
                rig.engines[name].footprint = takes(size)
                rig.scheduler.place(name, terms(takes(size)))
            rig.scheduler.start_beside([name], {name})

        for what, name, number in plan:
            if name in moving:
                await moving.pop(name)  # a reload follows the one before
            match what:
                case "call":
                    calls.append(rig.calling(name, number))
                case "wait":
                    await asyncio.sleep(number)
                case "come" if name not in there:
                    there.add(name)
                    come(rig, name, takes(int(number)))
                    rig.scheduler.start_beside([name], {name})
                case "go" if name in there:
                    there.discard(name)
                    moving[name] = asyncio.create_task(go(rig, name, number))
                case "change" if name in there:
                    moving[name] = asyncio.create_task(change(name, int(number)))
                case _:
                    pass
        await asyncio.gather(*moving.values())
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        for outcome in outcomes:
            assert isinstance(outcome, float | EngineUnavailable | EngineDied), outcome
        assert {each.name for each in rig.scheduler.overview()} == there
        await asyncio.sleep(100)
        assert rig.is_at_rest()
