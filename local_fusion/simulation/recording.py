"""What happens to an engine in a simulation, moment by moment: the raw material of the report and of its picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from local_fusion.engines.engine import State

Phase = State | Literal["draining"]
"""A state, or awake while it takes no more calls, because it is to make room."""

Kind = Literal["start", "wake", "sleep", "stop"]


@dataclass(frozen=True, slots=True)
class Move:
    """An engine was on its way from `began` to `ended`, in virtual seconds."""

    kind: Kind
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it took, waiting for its devices included."""
        return self.ended - self.began


@dataclass(slots=True)
class Curve:
    """A number that changes in steps: (second, value from then on)."""

    points: list[tuple[float, int]] = field(default_factory=lambda: [(0.0, 0)])

    def put(self, at: float, value: int) -> None:
        """It is `value` from `at` on."""
        if self.points[-1][1] == value:
            return
        if self.points[-1][0] == at:
            self.points.pop()
        self.points.append((at, value))

    @property
    def last(self) -> int:
        """Its value now."""
        return self.points[-1][1]


@dataclass(slots=True)
class Lane:
    """One engine: its states, moves, sequences in its batch, and calls that wait for their turn.

    `waits` are the seconds that each call waited whose turn came, `busy_seconds` those in which it computed.
    """

    name: str
    now: Callable[[], float]
    states: list[tuple[float, Phase]] = field(default_factory=lambda: [(0.0, "stopped")])
    moves: list[Move] = field(default_factory=list)
    running: Curve = field(default_factory=Curve)
    queued: Curve = field(default_factory=Curve)
    waits: list[float] = field(default_factory=list)
    busy_seconds: float = 0.0

    def entered(self, state: Phase) -> None:
        """It took this state now."""
        self.states.append((self.now(), state))

    def drains(self, *, no_longer: bool = False) -> None:
        """It is awake and takes no more calls from now on, or does again."""
        if self.states[-1][1] == ("draining" if no_longer else "awake"):
            self.entered("awake" if no_longer else "draining")

    def intervals(self, end: float) -> Iterator[tuple[Phase, float, float]]:
        """Each state from when to when, until `end`."""
        ends = [at for at, _ in self.states[1:]] + [end]
        for (began, state), ended in zip(self.states, ends, strict=True):
            if ended > began:
                yield state, began, ended
