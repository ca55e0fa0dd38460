"""What the scheduler needs of an engine; `engines.engine.Engine` fulfils it, and so does a simulated one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from local_fusion.engines.engine import EngineSnapshot
from local_fusion.planner.plan import Asleep
from local_fusion.scheduler.costs import Costs
from local_fusion.scheduler.situation import Footprint, State


class ManagedEngine(Protocol):
    """An engine that does as it is told, one order after the other."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def snapshot(self) -> EngineSnapshot:
        """The engine as it is now."""
        ...

    def subscribe(self, listener: Callable[[EngineSnapshot], None]) -> Callable[[], None]:
        """Call `listener` at every change from now on; returns what ends that."""
        ...

    async def wake(self) -> None:
        """Start it if it is stopped, wake it if it is asleep; return once it is awake.

        Raises `EngineError` where it does not wake up; then it holds no more memory than before.
        """
        ...

    async def sleep(self, level: Literal[1, 2]) -> None:
        """Put it to sleep; return once its memory is free, for which it is killed if nothing else helps."""
        ...

    async def stop(self) -> None:
        """Stop it; return once its memory is free."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms an engine is managed: what it holds, what waking it costs, how many sequences it takes."""

    footprint: Footprint
    costs: Costs
    capacity: int


STATES: Mapping[str, State] = {"awake": "awake", "asleep": "down", "stopped": "down", "broken": "lost"}
"""How engines' states look to the policy; all others are `moving`."""


def resting(snapshot: EngineSnapshot) -> Asleep:
    """Where an engine that is down is."""
    if snapshot.state != "asleep":
        return "stopped"
    return "level 2" if snapshot.level == 2 else "level 1"
