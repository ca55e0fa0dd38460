"""What was measured, next to what was hoped for."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeVar

Side = TypeVar("Side")

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure, measured several times; its median counts. `target` is the most it may be, or the least.

    `unit` is "s" for seconds, "×" for a ratio, "%" for a share, or nothing for a count. `details` explain it and have
    no target.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    target: float
    at_least: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The median."""
        return median(self.values)

    @property
    def met(self) -> bool:
        """Whether the median is on the right side of the target."""
        return self._meets(self.value)

    @property
    def clear(self) -> bool:
        """Whether all values are on the same side of the target; where not, something else may have kept the machine
        busy, and only a repetition tells."""
        return len({self._meets(value) for value in self.values}) == 1

    def _meets(self, value: float) -> bool:
        return value >= self.target if self.at_least else value <= self.target

    def to_json(self) -> dict[str, Any]:
        """The figure as plain values."""
        return {
            "name": self.name,
            "unit": self.unit,
            "median": round(self.value, 4),
            "min": round(min(self.values), 4),
            "max": round(max(self.values), 4),
            "values": [round(value, 4) for value in self.values],
            "target": {"at_least" if self.at_least else "at_most": self.target},
            "met": self.met,
            "clear": self.clear,
            "details": dict(self.details),
        }


async def pair(
    number: int, ours: Callable[[], Awaitable[Side]], direct: Callable[[], Awaitable[Side]]
) -> tuple[Side, Side]:
    """Both sides, one right after the other; every other pair begins with the direct one, so that drift cancels out."""
    if number % 2:
        second = await direct()
        return await ours(), second
    return await ours(), await direct()


def load() -> float:
    """How busy the machine is: its load average over one minute."""
    return round(os.getloadavg()[0], 2)
