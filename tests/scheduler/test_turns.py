"""A call's turn: in order, as far as there is room, and only on an engine that is awake and stays so."""

from __future__ import annotations

import asyncio

import pytest

from local_fusion.core.chat import Priority
from local_fusion.engines.gate import Call
from local_fusion.errors import QueueFull
from local_fusion.scheduler.records import Moved, Waited
from tests.scheduler.machine import machine, now, takes, virtual

ONE = {"a": takes()}
TWO = {"a": takes(), "b": takes()}


@virtual
async def test_a_call_to_an_engine_that_is_awake_begins_at_once() -> None:
    async with machine(ONE, awake=["a"]) as rig:
        assert await rig.call("a") == 0.0


@virtual
async def test_a_call_to_an_engine_that_is_stopped_begins_when_it_is_awake() -> None:
    async with machine(ONE) as rig:
        assert await rig.call("a") == 20.0


@virtual
async def test_calls_begin_in_the_order_in_which_they_came_interactive_before_batch() -> None:
    async with machine(ONE, awake=["a"], capacities={"a": 1}) as rig:
        began = {
            "first": rig.calling("a"),
            "batch 1": rig.calling("a", priority="batch"),
            "batch 2": rig.calling("a", priority="batch"),
            "second": rig.calling("a"),
            "third": rig.calling("a"),
        }
        await asyncio.wait(began.values())
        assert {name: task.result() for name, task in began.items()} == {
            "first": 0.0,
            "second": 1.0,
            "third": 2.0,
            "batch 1": 3.0,
            "batch 2": 4.0,
        }


@virtual
async def test_sequences_count_not_calls() -> None:
    async with machine(ONE, awake=["a"], capacities={"a": 4}) as rig:
        calls = [rig.calling("a", samples=samples) for samples in (3, 1, 2, 2)]
        assert await asyncio.gather(*calls) == [0.0, 0.0, 1.0, 1.0]


@virtual
async def test_a_call_larger_than_all_room_has_it_alone_and_nobody_overtakes_it() -> None:
    async with machine(ONE, awake=["a"], capacities={"a": 4}) as rig:
        calls = [rig.calling("a", samples=samples) for samples in (1, 9, 1)]
        assert await asyncio.gather(*calls) == [0.0, 1.0, 2.0]


@virtual
async def test_whoever_gives_up_waiting_is_passed_over() -> None:
    async with machine(ONE, awake=["a"], capacities={"a": 1}) as rig:
        first, second, third = (rig.calling("a") for _ in range(3))
        await asyncio.sleep(0.5)
        second.cancel()
        assert await first == 0.0
        assert await third == 1.0
        assert second.cancelled()
        assert rig.is_at_rest()


@pytest.mark.parametrize("ticks", range(6))
@virtual
async def test_whoever_gives_up_in_the_moment_of_its_turn_leaves_its_room_to_the_next(ticks: int) -> None:
    async with machine(ONE, awake=["a"], capacities={"a": 1}) as rig:
        first, second, third = (rig.calling("a", 5.0) for _ in range(3))
        await asyncio.sleep(1)
        first.cancel()
        for _ in range(ticks):
            await asyncio.sleep(0)
        second.cancel()
        assert await third == 1.0
        assert second.cancelled()
        assert rig.is_at_rest()


@virtual
async def test_a_call_broken_off_in_flight_gives_its_room_back() -> None:
    async with machine(ONE, awake=["a"], capacities={"a": 2}) as rig:
        first, second = rig.calling("a", 50.0, samples=2), rig.calling("a", samples=2)
        await asyncio.sleep(3)
        first.cancel()
        assert await second == 3.0
        assert rig.is_at_rest()


@virtual
async def test_all_that_waits_for_an_engine_runs_as_one_batch_after_one_swap() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"]) as rig:
        moves: list[object] = []
        rig.scheduler.subscribe(moves.append)
        busy = rig.calling("a", 10.0)
        began = await asyncio.gather(*(rig.call("b") for _ in range(50)))
        assert set(began) == {13.0}
        assert await busy == 0.0
        assert [each for each in moves if isinstance(each, Moved)] == [
            Moved("a", "sleep", 1.0, "b"),
            Moved("b", "wake", 2.0, None),
        ]


@virtual
async def test_an_engine_that_is_to_make_room_takes_no_further_calls() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"], fairness_seconds=10) as rig:
        long, queued = rig.calling("a", 15.0), rig.calling("b")
        await asyncio.sleep(9)
        assert await rig.call("a", 0.5) == 9.0
        await asyncio.sleep(1)
        late = rig.calling("a")
        # b: the long call ends at 15, a sleeps for 1 s, b wakes in 2 s; then all that again the other way round.
        assert await queued == 18.0
        assert await late == 18.0 + 1.0 + 1.0 + 2.0
        assert await long == 0.0


@virtual
async def test_a_request_in_the_middle_of_its_calls_finishes_before_its_engine_makes_room() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"], fairness_seconds=1) as rig:
        gate = rig.scheduler.gate("a")
        queued = rig.calling("b", 10.0)

        async def judge_and_write() -> list[float]:
            with gate.expecting(Call("fusion")):
                verdict = await rig.call("a", 5.0, request="fusion")
                await asyncio.sleep(0.5)  # between its calls
                return [verdict, await rig.call("a", 5.0, request="fusion")]

        fusing = asyncio.create_task(judge_and_write())
        await asyncio.sleep(2)
        stranger = rig.calling("a")
        assert await fusing == [0.0, 5.5]
        assert await queued == 10.5 + 1.0 + 2.0
        assert await stranger == 23.5 + 1.0 + 2.0


@pytest.mark.parametrize(("priority", "elsewhere"), [("interactive", "c"), ("batch", "")])
@virtual
async def test_it_is_not_waited_for_while_it_is_busy_elsewhere_or_a_batch(priority: Priority, elsewhere: str) -> None:
    footprints = {**TWO, "c": takes(devices=(1,))}
    async with machine(footprints, awake=["a", "c"], asleep=["b"], fairness_seconds=1) as rig:
        with rig.scheduler.gate("a").expecting(Call("fusion", priority=priority)):
            calls = [rig.calling("a", 5.0, request="fusion", priority=priority)]
            calls += [rig.calling(elsewhere, 50.0, request="fusion")] if elsewhere else []
            await asyncio.sleep(1)
            assert await rig.call("b", 10.0) == 5.0 + 1.0 + 2.0
        await asyncio.wait(calls)


@virtual
async def test_calls_that_waited_when_an_engine_woke_begin_before_it_makes_room_again() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"], capacities={"b": 1}, fairness_seconds=1) as rig:
        queued = [rig.calling("b", 10.0) for _ in range(3)]
        await asyncio.sleep(4)
        waiting_since_long = rig.calling("a")
        assert [await call for call in queued] == [3.0, 13.0, 23.0]
        assert await waiting_since_long == 36.0


@virtual
async def test_calls_that_came_later_wait_for_their_own_turn() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"], capacities={"b": 1}, fairness_seconds=1) as rig:
        first = rig.calling("b", 10.0)
        await asyncio.sleep(4)
        later, other = rig.calling("b", 10.0), rig.calling("a", 10.0)
        assert await first == 3.0
        assert await other == 16.0
        assert await later == 29.0


@virtual
async def test_a_swap_that_nobody_waits_for_any_more_is_called_off() -> None:
    async with machine(TWO, awake=["a"], asleep=["b"], fairness_seconds=1) as rig:
        long, queued = rig.calling("a", 60.0), rig.calling("b")
        await asyncio.sleep(2)
        other = rig.calling("a")
        await asyncio.sleep(1)
        assert not other.done()
        queued.cancel()
        assert await other == 3.0
        assert rig.states() == {"a": "awake", "b": "asleep"}
        long.cancel()


@pytest.mark.parametrize("ticks", range(8))
@virtual
async def test_a_swap_that_nobody_waits_for_any_more_leaves_no_engine_halfway(ticks: int) -> None:
    async with machine(TWO, awake=["a"], asleep=["b"]) as rig:
        queued = rig.calling("b")
        for _ in range(ticks):
            await asyncio.sleep(0)
        queued.cancel()
        await asyncio.sleep(10)
        assert await rig.call("a") <= 12.0
        assert rig.states()["a"] == "awake"


@virtual
async def test_a_full_queue_turns_requests_away_at_the_door_and_says_when_to_come_back() -> None:
    async with machine(ONE, awake=["a"], capacities={"a": 1}, max_queued_calls=4) as rig:
        calls = [rig.calling("a", 10.0) for _ in range(4)]
        await asyncio.sleep(1)
        rig.scheduler.admit(["a"])
        calls.append(rig.calling("a", 10.0))
        await asyncio.sleep(1)
        with pytest.raises(QueueFull, match="4 calls wait for a already") as unknown_pace:
            rig.scheduler.admit(["a"])
        assert unknown_pace.value.retry_seconds == 30.0
        await asyncio.sleep(20)
        calls += [rig.calling("a", 10.0) for _ in range(2)]
        await asyncio.sleep(1)
        with pytest.raises(QueueFull) as known_pace:
            rig.scheduler.admit(["a"])
        assert known_pace.value.retry_seconds == 20.0  # two calls of four, 10 s each
        for call in calls:
            call.cancel()


@virtual
async def test_the_pace_of_a_queue_is_that_of_its_work_and_not_of_the_hours_between() -> None:
    async with machine(ONE, awake=["a"], capacities={"a": 1}, max_queued_calls=2) as rig:
        for _ in range(3):
            await rig.call("a", 10.0)
            await asyncio.sleep(3600)
        calls = [rig.calling("a", 10.0) for _ in range(3)]
        await asyncio.sleep(1)
        with pytest.raises(QueueFull) as full:
            rig.scheduler.admit(["a"])
        assert full.value.retry_seconds == pytest.approx(10)  # one call of two
        await asyncio.wait(calls)


@virtual
async def test_a_full_queue_is_no_obstacle_to_other_engines() -> None:
    async with machine(TWO, usable=20, awake=["a", "b"], capacities={"a": 1}, max_queued_calls=1) as rig:
        calls = [rig.calling("a", 10.0) for _ in range(2)]
        await asyncio.sleep(1)
        rig.scheduler.admit(["b"])
        with pytest.raises(QueueFull):
            rig.scheduler.admit(["b", "a"])
        await asyncio.wait(calls)


@virtual
async def test_waits_are_told_to_whoever_wants_to_know_and_their_mistakes_harm_nobody() -> None:
    async with machine(ONE, awake=["a"], capacities={"a": 1}) as rig:
        waits: list[object] = []

        def mistaken(record: object) -> None:
            raise RuntimeError("a mistake")

        rig.scheduler.subscribe(mistaken)
        end = rig.scheduler.subscribe(waits.append)
        await asyncio.gather(rig.call("a", 2.0), rig.call("a", priority="batch"))
        end()
        await rig.call("a")
        assert waits == [Waited("a", "interactive", 0.0), Waited("a", "batch", 2.0)]


@virtual
async def test_a_judge_is_woken_while_the_panel_works_and_the_panel_is_not_disturbed() -> None:
    judged = {"member": takes(5), "judge": takes(5), "idle": takes(5)}
    async with machine(judged, awake=["member", "idle"], asleep=["judge"]) as rig:
        with rig.scheduler.gate("judge").expecting(Call("request")):
            assert await rig.call("member", 10.0, request="request") == 0.0
        assert await rig.call("judge", request="request") == now() - 1.0 == 10.0
        assert rig.engines["judge"].states[-1] == (3.0, "awake")
        assert rig.is_at_rest()


@virtual
async def test_an_engine_over_two_devices_does_not_starve_while_others_take_turns_on_each() -> None:
    footprints = {**TWO, "c": takes(devices=(1,)), "d": takes(devices=(1,)), "wide": takes(devices=(0, 1))}
    capacities = dict.fromkeys("abcd", 1)
    async with machine(footprints, awake=["a", "c"], fairness_seconds=1, capacities=capacities) as rig:

        async def keep_asking(name: str, seconds: float) -> None:
            while True:
                await asyncio.gather(rig.call(name, seconds), rig.call(name, seconds))

        asking = [asyncio.create_task(keep_asking(name, 3.0 + 0.37 * number)) for number, name in enumerate("abcd")]
        await asyncio.sleep(100)
        # One drain of two calls (at most 8.22 s) and one swap for whoever was before it, then its own.
        assert await rig.call("wide") <= 100.0 + 1.0 + 2 * (8.22 + 1.0 + 20.0)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
