"""Fusions that cannot be awake as a whole: sizes with which any few of their engines can be awake together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from local_fusion.planner.placement.problem import Assignment, Problem, fit_together, residents

_KEPT = 2
"""An engine keeps this part of its KV cache at least: two that are awake at once do more than one with a larger batch,
but not where there is hardly any batch left."""


@dataclass(frozen=True, slots=True)
class _Size:
    """Bytes on each device: without KV cache, with the least cache that is tolerable, as it is, and asleep."""

    fixed: int
    least: int
    most: int
    asleep: int

    def within(self, place: int) -> int:
        return max(self.least, min(self.most, place))


def share_places(problem: Problem, assignment: Assignment, kv: Mapping[int, int]) -> dict[int, int]:
    """KV cache bytes with which engines of one fusion on the same devices can take each other's places.

    Any as many of them as are resident there can then be awake together, not only those that the plan has so. An engine
    too large for that keeps its cache, and others may have to wait for it alone.
    """
    shared = dict(kv)
    for fusion in problem.fusions:
        awake = frozenset(dict(residents(assignment)))
        if fusion.engines <= awake or fit_together(problem, assignment, fusion.engines):
            continue
        on_same: dict[tuple[int, ...], set[int]] = {}
        for engine in fusion.engines & assignment.keys():
            on_same.setdefault(assignment[engine].option.devices, set()).add(engine)
        for devices, group in on_same.items():
            room = min(_room(problem, assignment, device, group) for device in devices)
            shared |= _even(assignment, shared, group, count=max(2, len(group & awake)), room=room)
    return shared


def _room(problem: Problem, assignment: Assignment, device: int, group: Collection[int]) -> int:
    """What the engines of `group` have of a device while all others sleep."""
    return problem.room[device] - sum(
        home.option.need.sleeping_bytes
        for engine, home in assignment.items()
        if engine not in group and device in home.option.devices
    )


def _even(
    assignment: Assignment, kv: Mapping[int, int], group: Collection[int], *, count: int, room: int
) -> dict[int, int]:
    """The KV cache of those of `group` of whom any `count` fit into `room` while the others sleep.

    The largest are left out where they must be.
    """
    sizes = {}
    for engine in group:
        need, cache = assignment[engine].option.need, kv[engine]
        tolerable = max(min(need.kv_wanted, cache), cache // _KEPT)
        fixed = need.fixed_bytes
        sizes[engine] = _Size(fixed, fixed + tolerable, fixed + cache, need.sleeping_bytes)
    while len(sizes) > count:
        place = _largest_place(list(sizes.values()), count, room)
        if place is not None:
            return {engine: size.within(place) - size.fixed for engine, size in sizes.items()}
        left_out = max(sizes, key=lambda engine: (sizes[engine].least, engine))
        room -= sizes.pop(left_out).asleep
    return {}


def _largest_place(sizes: list[_Size], count: int, room: int) -> int | None:
    """The most bytes that each may take, so that any `count` of them fit; None where not even the least do."""

    def fits(place: int) -> bool:
        awake = sorted((size.within(place) - size.asleep for size in sizes), reverse=True)
        return sum(awake[:count]) + sum(size.asleep for size in sizes) <= room

    low, high = 0, max(size.most for size in sizes)
    if not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
