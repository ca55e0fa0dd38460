"""The placement problem in numbers alone: engines with ways to run them, devices with room, fusions of engines.

Devices are positions in `Problem.room`, engines positions in `Problem.engines`; sizes are bytes. Whatever decides about
a placement, greedy or solver, works on this and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from local_fusion.planner.memory.need import Need


@dataclass(frozen=True, slots=True)
class Appetite:
    """KV cache bytes as a function of a level of concurrency: a line, kept between `least` and `most`.

    Level 1 is one request of the fusion that asks most of the engine, in contexts of the wanted length. `slope` is 0
    where the size is fixed.
    """

    least: int
    base: int
    slope: int
    most: int

    def at(self, level: float) -> int:
        """Bytes for this level."""
        return min(max(self.base + int(level * self.slope), self.least), self.most)

    @property
    def floor(self) -> float:
        """The level that `least` bytes give."""
        return (self.least - self.base) / self.slope if self.slope else 0.0

    @property
    def cap(self) -> float:
        """The level that `most` bytes give; more would be of no use."""
        return (self.most - self.base) / self.slope if self.slope else 0.0


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run an engine: over `devices`, with what it needs on each of them."""

    devices: tuple[int, ...]
    need: Need

    def appetite(self, load: int) -> Appetite:
        """KV cache by concurrency, with `load` sequences for each request."""
        need = self.need
        if need.kv_most <= need.kv_least:
            return Appetite(need.kv_least, need.kv_least, 0, need.kv_least)
        request = need.pool.bytes_for(need.context, 2) - need.kv_wanted
        return Appetite(need.kv_least, need.kv_wanted - request, load * request, need.kv_most)


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine and its options. `load`: sequences that one request of the fusion that asks most of it puts on it."""

    name: str
    options: tuple[Option, ...]
    load: int = 1


@dataclass(frozen=True, slots=True)
class FusionNeeds:
    """A fusion by its engines; those of the `panel` are asked at the same time."""

    name: str
    engines: frozenset[int]
    panel: frozenset[int]


@dataclass(frozen=True)
class Problem:
    """What is to be placed where. `room` is what may be planned of each device."""

    room: tuple[int, ...]
    engines: tuple[EngineChoice, ...]
    fusions: tuple[FusionNeeds, ...] = ()

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Each engine's position."""
        return {engine.name: position for position, engine in enumerate(self.engines)}


@dataclass(frozen=True, slots=True)
class Home:
    """Where an engine goes: one of its options; `resident` or in turns with others."""

    option: Option
    resident: bool = True


Assignment = Mapping[int, Home]
"""A home for some of the engines, by position; the others have none."""


def residents(assignment: Assignment) -> Iterator[tuple[int, Option]]:
    """The engines that are awake at the same time."""
    return ((engine, home.option) for engine, home in assignment.items() if home.resident)


def collisions(problem: Problem, awake: Mapping[int, Option]) -> int:
    """Pairs of a panel's engines that share a device, counted for each fusion and device."""
    crowd = Counter(
        (position, device)
        for position, fusion in enumerate(problem.fusions)
        for engine in fusion.panel & awake.keys()
        for device in awake[engine].devices
    )
    return sum(count * (count - 1) // 2 for count in crowd.values())


def is_feasible(problem: Problem, assignment: Assignment) -> bool:
    """Whether all residents fit at once with their least, and every other engine fits while all others are asleep."""
    left = list(problem.room)
    asleep = [0] * len(problem.room)
    for home in assignment.values():
        for device in home.option.devices:
            asleep[device] += home.option.need.sleeping_bytes
            left[device] -= home.option.need.least_bytes if home.resident else home.option.need.sleeping_bytes
    if any(size < 0 for size in left):
        return False
    return all(
        home.option.need.least_bytes + asleep[device] - home.option.need.sleeping_bytes <= problem.room[device]
        for home in assignment.values()
        if not home.resident
        for device in home.option.devices
    )


def fit_together(problem: Problem, assignment: Assignment, engines: frozenset[int]) -> bool:
    """Whether `engines` all have homes and can be awake at once while all others are asleep."""
    if not engines <= assignment.keys():
        return False
    left = list(problem.room)
    for engine, home in assignment.items():
        need = home.option.need
        for device in home.option.devices:
            left[device] -= need.least_bytes if engine in engines else need.sleeping_bytes
    return all(size >= 0 for size in left)
