"""What the scheduler tells of itself: to metrics, to the administrator, to the simulator's report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from local_fusion.core.chat import Priority
from local_fusion.engines.engine import EngineSnapshot
from local_fusion.planner.plan import Asleep


@dataclass(frozen=True, slots=True)
class Waited:
    """A call's turn has come after so many seconds."""

    engine: str
    priority: Priority
    seconds: float


@dataclass(frozen=True, slots=True)
class Moved:
    """An engine was started, woken, put to sleep or stopped, in so many seconds, to make room `for_engine`."""

    engine: str
    kind: Literal["start", "wake", "sleep", "stop"]
    seconds: float
    for_engine: str | None = None


Listener = Callable[[Waited | Moved], None]


@dataclass(frozen=True, slots=True)
class EngineOverview:
    """One engine at one moment. Bytes are on each of its devices, `host_bytes` of RAM in all; times are seconds.

    `waiting` counts calls of both priorities, `waiting_batch` those of them that are batch. `reason` says what calls
    wait for, where some do, `unreachable` why no call can wake it as things are. `swaps` counts how often it was woken
    or started. `oldest_wait` is None where nobody waits.
    """

    name: str
    snapshot: EngineSnapshot
    devices: tuple[int, ...]
    held_bytes: int
    host_bytes: int
    rest: Asleep
    running: int
    waiting: int
    waiting_batch: int
    oldest_wait: float | None
    pinned: bool
    reason: str
    swaps: int
    seconds_to_wake: float | None
    seconds_to_rest: float | None
    unreachable: str | None = None
