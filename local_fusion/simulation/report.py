"""What a simulation found: who was answered how fast, who waited how long, what was swapped, what was busy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from local_fusion.core.chat import Priority
from local_fusion.simulation.recording import Kind, Lane, Move
from local_fusion.simulation.rig import Overdraft


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds, most of all: of all values the mean, the nearest-rank percentiles, and the largest."""

    mean: float
    p50: float
    p95: float
    p99: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """None of nothing."""
        ordered = sorted(values)
        if not ordered:
            return None

        def rank(share: float) -> float:
            return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

        return cls(sum(ordered) / len(ordered), rank(0.5), rank(0.95), rank(0.99), ordered[-1])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request: answered after so many seconds, in part or whole, or failed with `error`, a code."""

    model: str
    priority: Priority
    at: float
    seconds: float
    error: str | None = None
    message: str = ""
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Served:
    """The requests to one fusion or model. `partial` were answered without some of the panel.

    `failed` counts codes of errors. `causes` has one message for each of these, and one for "partial" where some are.
    `latency` is of those answered.
    """

    model: str
    requests: int
    answered: int
    partial: int
    failed: Mapping[str, int]
    causes: Mapping[str, str]
    latency: Spread | None


@dataclass(frozen=True, slots=True)
class EngineReport:
    """One engine. `swaps`: how often it was started or woken after the beginning; `moving_seconds` all moves since.

    `waits` are seconds until a call's turn. Shares are of the time from the beginning to the last answer.
    """

    model: str
    devices: tuple[int, ...]
    calls: int
    waits: Spread | None
    swaps: int
    moves: Mapping[Kind, int]
    moving_seconds: float
    awake_share: float
    busy_share: float


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """One device: the share of the time in which some engine computed on it, and its fullest moment."""

    index: int
    name: str
    busy_share: float
    peak_bytes: int
    usable_bytes: int
    kind: Literal["cuda", "cpu"] = "cuda"


@dataclass(frozen=True, slots=True)
class Report:
    """A whole simulation, in virtual seconds. Requests began at `ready_seconds`, when all residents were awake, and the
    last was done `drain_seconds` later.

    `reasons` counts why engines were swapped in. `overdrafts` are moments in which more memory was taken than there is;
    there must be none. `lanes` are what the picture is drawn of.
    """

    workload: str
    ready_seconds: float
    drain_seconds: float
    served: tuple[Served, ...]
    engines: tuple[EngineReport, ...]
    devices: tuple[DeviceReport, ...]
    swaps: int
    swap_seconds: float
    reasons: Mapping[str, int]
    overdrafts: tuple[Overdraft, ...]
    assumptions: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    lanes: tuple[Lane, ...]

    @property
    def end(self) -> float:
        """The second of the last answer."""
        return self.ready_seconds + self.drain_seconds

    @property
    def on_cpu(self) -> bool:
        """The CPU is the only device."""
        return self.devices[0].kind == "cpu"

    @property
    def flawless(self) -> bool:
        """Every request was answered, and memory sufficed."""
        return not self.overdrafts and all(not served.failed for served in self.served)


def served(outcomes: Sequence[Outcome]) -> tuple[Served, ...]:
    """The outcomes by who was asked, in order of the first request."""
    by_model: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_model.setdefault(outcome.model, []).append(outcome)
    return tuple(_served(model, mine) for model, mine in by_model.items())


def _served(model: str, outcomes: Sequence[Outcome]) -> Served:
    good = [outcome for outcome in outcomes if outcome.error is None]
    failed = Counter(outcome.error for outcome in outcomes if outcome.error is not None)
    causes: dict[str, str] = {}
    for outcome in outcomes:
        if outcome.error is not None or outcome.partial:
            causes.setdefault(outcome.error or "partial", outcome.message)
    partial = sum(outcome.partial for outcome in good)
    latency = Spread.of(outcome.seconds for outcome in good)
    return Served(model, len(outcomes), len(good), partial, dict(failed), causes, latency)


def engine_report(lane: Lane, devices: tuple[int, ...], ready: float, end: float) -> EngineReport:
    """One lane in numbers, of the time between `ready` and `end`."""
    moves = [move for move in lane.moves if move.ended > ready and move.began < end]
    kinds: Counter[Kind] = Counter(move.kind for move in moves)
    awake = sum(
        min(ended, end) - max(began, ready)
        for state, began, ended in lane.intervals(end)
        if state in ("awake", "draining") and ended > ready
    )
    span = end - ready
    return EngineReport(
        model=lane.name,
        devices=devices,
        calls=len(lane.waits),
        waits=Spread.of(lane.waits),
        swaps=kinds["start"] + kinds["wake"],
        moves=dict(kinds),
        moving_seconds=sum(_seconds_after(ready, move) for move in moves),
        awake_share=awake / span if span else 0.0,
        busy_share=lane.busy_seconds / span if span else 0.0,
    )


def _seconds_after(ready: float, move: Move) -> float:
    return move.ended - max(move.began, ready)
