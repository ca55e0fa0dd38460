"""What the policy sees and what it may decide: values only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from local_fusion.core.chat import Priority
from local_fusion.planner.plan import Asleep, Placement

State = Literal["awake", "down", "moving", "lost"]
"""`awake`: it takes calls. `down`: asleep or stopped, it can be woken. `moving`: on its way between these, or
restarting after a crash. `lost`: broken, it cannot be woken."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one engine holds: bytes on each of `devices` while it is awake and while it sleeps (0 once stopped).

    `rest` is what it does when it makes room: the plan's choice. `host_bytes` of RAM it holds from its first sleep at
    level 1 until its process ends (vLLM does not give them back when it wakes).
    """

    devices: tuple[int, ...]
    awake_bytes: int
    sleeping_bytes: int = 0
    host_bytes: int = 0
    rest: Asleep = "stopped"

    @classmethod
    def of(cls, placement: Placement) -> Footprint:
        """What the plan says of it."""
        return cls(
            placement.devices,
            placement.awake_bytes,
            placement.sleeping_bytes,
            placement.host_bytes * placement.tensor_parallel,
            placement.asleep or "stopped",
        )

    def left_bytes(self, rest: Asleep) -> int:
        """What stays on each device when it rests in that way."""
        return 0 if rest == "stopped" else self.sleeping_bytes


@dataclass(frozen=True, slots=True)
class Load:
    """The calls of one engine and one priority: in flight, waiting, and since when the first of these waits."""

    running: int = 0
    waiting: int = 0
    oldest: float | None = None


@dataclass(frozen=True, slots=True)
class EngineView:
    """One engine as the policy sees it; times are seconds of the scheduler's clock.

    `holds` are bytes on each of its devices now, or those it is on its way to. `resting` is where it is while it is
    down. `owed` calls waited when it last woke and have not begun: it stays awake until they have. `drained_since` is
    when its last call ended (None while it has some). `recent` is about how many calls came in the last half minute.
    `return_seconds` is what bringing it back from its `rest` takes.
    """

    name: str
    state: State
    footprint: Footprint
    holds: int
    resting: Asleep = "stopped"
    loads: Mapping[Priority, Load] = field(default_factory=dict)
    owed: int = 0
    pinned: bool = False
    drained_since: float | None = None
    return_seconds: float = 1.0
    recent: float = 0.0

    def load(self, priority: Priority) -> Load:
        """Its calls of that priority."""
        return self.loads.get(priority, _NOTHING)

    @property
    def waiting(self) -> int:
        """Calls that wait, of either priority."""
        return sum(load.waiting for load in self.loads.values())

    @property
    def running(self) -> int:
        """Calls in flight, of either priority."""
        return sum(load.running for load in self.loads.values())


_NOTHING = Load()


@dataclass(frozen=True, slots=True)
class Course:
    """How some requests stand: engines with calls of theirs outstanding, and engines that they will call later."""

    priority: Priority
    outstanding: frozenset[str]
    announced: frozenset[str]


@dataclass(frozen=True, slots=True)
class Victim:
    """An engine that makes room, and how it rests then."""

    engine: str
    rest: Asleep


@dataclass(frozen=True, slots=True)
class Swap:
    """`target` is to be awake instead of `victims` (none of them: beside all others).

    The victims take no further calls, finish those in flight and rest; then the target wakes, as soon as what it needs
    is free. Interactive requests that had calls in flight there may make their next ones, too. `because` is a phrase
    for people.
    """

    target: str
    victims: tuple[Victim, ...] = ()
    because: str = ""


@dataclass(frozen=True, slots=True)
class Rest:
    """An engine that nobody has asked for long gives its memory back."""

    victim: Victim


@dataclass(frozen=True, slots=True)
class Abandon:
    """A swap that has not begun to move anything is no longer wanted."""

    target: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """`target` can never be woken as things are, so its calls are turned away; `reason` and `hint` are for people."""

    target: str
    reason: str
    hint: str = ""


Action = Swap | Rest | Abandon | Refuse


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that a decision rests on. `usable` bytes of each device; `courses` counts requests that stand alike.

    `draining` are targets of swaps that can be abandoned, `occupied` engines that are being moved for another reason
    than a swap.
    """

    now: float
    usable: Mapping[int, int]
    engines: Mapping[str, EngineView]
    swaps: tuple[Swap, ...] = ()
    draining: frozenset[str] = frozenset()
    occupied: frozenset[str] = frozenset()
    courses: Mapping[Course, int] = field(default_factory=dict)

    def ordered(self) -> Iterator[EngineView]:
        """The engines in the order of the configuration."""
        yield from self.engines.values()
