"""What no placement can exceed, without looking for one."""

from __future__ import annotations

from dataclasses import replace

from local_fusion.planner.placement.problem import Problem

_ROUNDS = 60  # of halving: more than a float can tell apart


def level_bound(problem: Problem, *, all_resident: bool) -> float:
    """A bound for the concurrency of the weakest.

    If all engines are resident, all room is taken as one, and every engine as run in the way that takes least of it.
    If not, one of them may have it all.
    """
    appetites = [
        [
            (len(option.devices), option.need.fixed_bytes, option.appetite(engine.load))
            for option in engine.options
            if all(option.need.least_bytes <= problem.room[device] for device in option.devices)
        ]
        for engine in problem.engines
    ]
    appetites = [each for each in appetites if each]
    if not all_resident:
        return max(
            (level_bound(replace(problem, engines=(engine,)), all_resident=True) for engine in problem.engines),
            default=0.0,
        )
    room = sum(problem.room)

    def fits(level: float) -> bool:
        taken = (min(ranks * (fixed + kv.at(level)) for ranks, fixed, kv in each) for each in appetites)
        return sum(taken) <= room

    low, high = 0.0, max((kv.cap for each in appetites for _, _, kv in each), default=0.0)
    if fits(high):
        return high
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return high
