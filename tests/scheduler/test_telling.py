"""What a waiting call hears: how many come first, and what is waited for; never old news."""

from __future__ import annotations

import asyncio
from collections import deque

from local_fusion.engines.gate import Tell
from tests.scheduler.machine import Seconds, machine, now, takes, virtual

ONE = {"a": takes()}
TWO = {"a": takes(), "b": takes()}

Told = list[tuple[float, int, str]]


def into(told: Told) -> Tell:
    return lambda ahead, reason: told.append((now(), ahead, reason))


@virtual
async def test_a_call_whose_turn_is_now_hears_nothing() -> None:
    async with machine(ONE, awake=["a"]) as rig:
        told: Told = []
        await rig.call("a", tell=into(told))
        assert told == []


@virtual
async def test_it_hears_of_those_ahead_and_of_every_step_of_a_swap() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"], fairness_seconds=10) as rig:
        told: Told = []
        long, first = rig.calling("a", 12.0), rig.calling("b")
        queued = rig.calling("b", tell=into(told))
        await asyncio.wait([long, first, queued])
        said = {seconds: (ahead, reason) for seconds, ahead, reason in told}
        assert said[0.0] == (1, "a has its memory, at most 10 s more")
        assert said[7.0] == (1, "a has its memory, at most 3 s more")
        assert said[10.0] == (1, "swap in progress, a finishes 1 call first")
        assert said[12.0] == (1, "swap in progress")
        assert max(said) == 12.0


@virtual
async def test_it_hears_that_those_ahead_have_gone() -> None:
    async with machine(ONE, awake=["a"], capacities={"a": 1}) as rig:
        told: Told = []
        calls = [rig.calling("a", 10.0) for _ in range(3)]
        calls.append(rig.calling("a", tell=into(told)))
        await asyncio.sleep(5.5)
        calls[1].cancel()
        await asyncio.wait(calls)
        assert told == [(0.0, 2, "at work on 1 call"), (6.0, 1, "at work on 1 call"), (10.0, 0, "at work on 1 call")]


@virtual
async def test_it_hears_of_a_crash_and_of_the_way_back() -> None:
    async with machine(ONE, awake=["a"], capacities={"a": 1}) as rig:
        told: Told = []
        in_flight = rig.calling("a", 10.0)
        queued = rig.calling("a", tell=into(told))
        await asyncio.sleep(5)
        rig.engines["a"].crash()
        await asyncio.wait([in_flight, queued])
        assert told == [(0.0, 0, "at work on 1 call"), (5.0, 0, "is starting")]


@virtual
async def test_a_caller_who_does_not_listen_well_harms_nobody() -> None:
    def mistaken(ahead: int, reason: str) -> None:
        raise RuntimeError("a mistake")

    async with machine(ONE, asleep=["a"]) as rig:
        calls = [rig.calling("a", tell=mistaken), rig.calling("a")]
        assert [await call for call in calls] == [2.0, 2.0]


@virtual
async def test_an_engine_that_made_room_tells_its_calls_that_it_comes_back() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"], fairness_seconds=1) as rig:
        told: Told = []
        calls = [rig.calling("a", 5.0), rig.calling("b")]
        await asyncio.sleep(2)
        calls.append(rig.calling("a", tell=into(told)))
        await asyncio.wait(calls)
        assert told[0] == (2.0, 0, "makes room for b, then comes back")


@virtual
async def test_what_was_told_last_is_never_out_of_date_for_more_than_a_second() -> None:
    seconds = {"a": Seconds(sleep=2.3), "b": Seconds(wake1=3.7)}
    async with machine(TWO, awake=["a"], asleep=["b"], fairness_seconds=7, seconds=seconds) as rig:
        told: Told = []
        others = [rig.calling("a", 9.1), *(rig.calling("b", 0.3) for _ in range(3))]
        queued = rig.calling("b", tell=into(told))
        recent: deque[tuple[int, str]] = deque(maxlen=5)  # quarters of a second, in one second and just before
        await asyncio.sleep(0.01)
        for quarter in range(200):
            if queued.done():
                break
            if quarter == 14:
                others[1].cancel()
            await asyncio.sleep(0.25)
            overview = rig.scheduler.overview()[1]
            recent.append((overview.waiting - 1, overview.reason))
            if not queued.done():
                assert told[-1][1:] in recent
        assert len(told) > 8
        await asyncio.wait([*others, queued])
