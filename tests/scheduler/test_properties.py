"""Whatever the machine, the requests and the troubles: memory holds, every call is answered, nobody starves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from local_fusion.scheduler.policy import FairPolicy
from local_fusion.scheduler.situation import Abandon, Swap
from local_fusion.simulation.clock import run
from tests.scheduler.checked import Checked
from tests.scheduler.machine import machine
from tests.scheduler.workloads import BY_HAND, BY_ITSELF, NO_WAKE, Play, Rig, requests, rigs, streams, troubles

many = settings(max_examples=300, suppress_health_check=list(HealthCheck))
bounds = some.sampled_from([None, 5.0, 30.0])


@asynccontextmanager
async def playing(rig: Rig, policy: Checked, **options: Any) -> AsyncIterator[Play]:
    """A machine that must be in order, and quiet, once everything was played."""
    told = policy.policy
    options |= {"fairness_seconds": told.fairness_seconds, "idle_sleep_seconds": told.idle_sleep_seconds}
    async with machine(rig.footprints, usable=rig.usable, seconds=rig.seconds, policy=policy, **options) as staged:
        staged.scheduler.start(rig.residents)
        play = Play(staged)
        yield play
        assert policy.faults == []
        assert staged.is_at_rest()
        assert all(call.answer is None or "the scheduler failed" not in str(call.answer) for call in play.calls)


@many
@given(
    some.data(),
    rigs(),
    some.sampled_from([None, 5.0, 30.0]),
    some.sampled_from([None, 2.0]),
    some.sampled_from([1, 4, 99]),
)
def test_memory_holds_and_every_call_is_answered(
    data: some.DataObject, rig: Rig, bound: float | None, idle: float | None, capacity: int
) -> None:
    wanted = data.draw(requests(rig), "requests")
    happening = data.draw(troubles(rig, (*BY_ITSELF, *BY_HAND)), "troubles")
    policy = Checked(FairPolicy(bound, idle))

    async def main() -> None:
        async with playing(rig, policy, capacities=dict.fromkeys(rig.footprints, capacity)) as play:
            await play.through(wanted, happening)
            by_hand = sum(each.kind in BY_HAND for each in happening)
            for_calls = len(policy.swaps()) - len(policy.early)
            assert for_calls <= len(play.calls) + by_hand + len(policy.times_of(Abandon))
            assert len(policy.early) <= sum(each.announced for each in wanted) * (1 + for_calls)

    run(main())


@many
@given(some.data(), rigs(quick=True), some.sampled_from([5.0, 12.0]), some.sampled_from([None, 2.0]))
def test_no_interactive_call_waits_beyond_its_bound_and_the_turns_before_its_own(
    data: some.DataObject, rig: Rig, bound: float, idle: float | None
) -> None:
    """A turn is one drain and one swap: the longest call, the longest rest, the longest wake.

    A call waits at most for the bound, then for the turns (served, failed or called off) that end before its own on
    devices that have to do with its own, and for its own; and for each interactive call that comes back meanwhile to
    an engine that its request has called before, which may hold up a drain by its own length. Here engines take any
    number of calls at the same time, and none crashes.
    """
    wanted = data.draw(requests(rig, quick=True), "requests") + data.draw(streams(rig), "streams")
    happening = data.draw(troubles(rig, NO_WAKE), "troubles")
    policy = Checked(FairPolicy(bound, idle))

    async def main() -> None:
        async with playing(rig, policy) as play:
            await play.through(wanted, happening)
            longest = max(task.seconds for request in wanted for task in request.tasks)
            for call in play.calls:
                if call.priority == "batch" or call.answered_at is None:
                    continue
                due, answered = call.made_at + bound, call.answered_at
                related = rig.related(call.task.engine)
                turns = [target for at, target in policy.ended if due < at < answered and target in related]
                late = [
                    other
                    for other in play.calls
                    if other.comes_back
                    and other.task.engine in related
                    and other.answered_at is not None
                    and due < other.answered_at < answered
                ]
                assert answered <= due + (len(turns) + 1) * (longest + rig.longest_move) + len(late) * longest

    run(main())


@many
@given(some.data(), rigs(all_fit=True), bounds)
def test_where_all_fit_nobody_rests_and_each_wakes_once(data: some.DataObject, rig: Rig, bound: float | None) -> None:
    wanted = data.draw(requests(rig), "requests")
    policy = Checked(FairPolicy(bound))

    async def main() -> None:
        async with playing(rig, policy) as play:
            await play.through(wanted)
            for name, engine in play.machine.engines.items():
                called = any(call.task.engine == name and call.answer is not None for call in play.calls)
                states = [state for _, state in engine.states]
                assert states in ([], ["starting"], ["starting", "awake"])
                assert ("awake" in states) >= called

    run(main())


@many
@given(some.data(), rigs())
def test_without_a_bound_engines_in_use_are_never_disturbed(data: some.DataObject, rig: Rig) -> None:
    wanted = [replace(each, priority="batch") for each in data.draw(requests(rig, patient=True), "requests")]
    policy = Checked(FairPolicy(None))

    async def main() -> None:
        async with playing(rig, policy) as play:
            await play.through(wanted)
            assert all(isinstance(call.answer, float) for call in play.calls)
            for _, action in policy.taken:
                assert isinstance(action, Swap)
                assert action.because in ("there is room", "the others have run dry", "its calls will come")

    run(main())
