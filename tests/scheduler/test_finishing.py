"""Who makes room lets requests finish that have calls in flight: a judge's next call is not worth another turn."""

from __future__ import annotations

import asyncio

from local_fusion.engines.gate import Call
from tests.scheduler.machine import Machine, machine, now, takes, virtual

BOUND = 5.0
TWO = {"a": takes(), "b": takes()}


async def ask_in_turn(staged: Machine, name: str, request: str, *seconds: float) -> list[float]:
    """Calls of one request, each made as soon as the one before is answered; the seconds of their turns."""
    return [await staged.call(name, each, request=request) for each in seconds]


@virtual
async def test_the_next_call_of_a_request_in_flight_is_let_in_though_its_engine_makes_room() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"], fairness_seconds=BOUND) as staged:
        judge = asyncio.create_task(ask_in_turn(staged, "a", "r1", 10, 10))
        await asyncio.sleep(0)
        other = staged.calling("b")
        await asyncio.sleep(BOUND + 1)
        late = staged.calling("a", request="r2")
        assert await judge == [0, 10]
        assert await other == 20 + 1 + 2  # after one rest and one wake
        assert await late > await other


@virtual
async def test_only_requests_that_were_in_flight_when_it_closed_may_finish() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"], fairness_seconds=BOUND) as staged:
        gone = asyncio.create_task(ask_in_turn(staged, "a", "r1", 1))
        stays = staged.calling("a", 20)
        await gone
        other = staged.calling("b")
        await asyncio.sleep(BOUND + 1)
        back = staged.calling("a", request="r1")
        assert await stays == 0
        assert await other < await back


@virtual
async def test_a_request_that_says_it_will_come_back_is_awaited_between_its_calls() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"], fairness_seconds=BOUND) as staged:

        async def fuse() -> list[float]:
            call = Call("r1")
            with staged.scheduler.gate("a").expecting(call):
                first = await staged.call("a", 10, request="r1")
                for _ in range(5):  # results travel through a few tasks
                    await asyncio.sleep(0)
                return [first, await staged.call("a", 10, request="r1")]

        fused = asyncio.create_task(fuse())
        await asyncio.sleep(0)
        other = staged.calling("b")
        assert await fused == [0, 10]
        assert await other == 23


@virtual
async def test_a_request_with_a_call_elsewhere_is_not_awaited() -> None:
    """It might be the very call that room is made for."""
    async with machine(TWO, awake=["a"], asleep=["b"], fairness_seconds=BOUND) as staged:
        with staged.scheduler.gate("a").expecting(Call("r1")):
            there = staged.calling("a", 10, request="r1")
            elsewhere = staged.calling("b", request="r1")
            await there
            assert await elsewhere == 13
            assert await staged.call("a", request="r1") == now() - 1


@virtual
async def test_batch_requests_do_not_finish_while_somebody_waits_for_room() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"], fairness_seconds=BOUND) as staged:
        batch = [staged.calling("a", 10, request="r1", priority="batch")]
        await asyncio.sleep(0)
        other = staged.calling("b")
        await batch[0]
        batch.append(staged.calling("a", 10, request="r1", priority="batch"))
        assert await other == 13
        assert await batch[1] > 13


@virtual
async def test_whoever_finishes_keeps_to_the_engines_room() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"], fairness_seconds=BOUND, capacities={"a": 2, "b": 1}) as staged:
        both = [asyncio.create_task(ask_in_turn(staged, "a", name, 10, 10)) for name in ("r1", "r2")]
        await asyncio.sleep(0)
        third = staged.calling("a", 1, request="r3")
        other = staged.calling("b")
        assert [await each for each in both] == [[0, 10], [0, 10]]
        assert await other == 23
        assert await third > 23
