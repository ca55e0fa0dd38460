"""What has happened to each engine, for whoever looks at them all."""

from __future__ import annotations

from collections import Counter

from local_fusion.engines.engine import EngineSnapshot
from local_fusion.scheduler.policy import never
from local_fusion.scheduler.records import EngineOverview, Moved
from local_fusion.scheduler.situation import EngineView, Situation
from local_fusion.scheduler.words import reason


class History:
    """How often each engine was woken, how long that took, and whether its weights are in RAM."""

    def __init__(self) -> None:
        self._in_ram: set[str] = set()
        self._moves: Counter[str] = Counter()
        self._seconds: dict[tuple[str, bool], float] = {}

    def heard(self, snapshot: EngineSnapshot) -> None:
        """An engine has changed."""
        if snapshot.state == "asleep" and snapshot.level == 1:
            self._in_ram.add(snapshot.name)
        elif snapshot.state in ("stopped", "broken", "backing_off"):
            self._in_ram.discard(snapshot.name)

    def moved(self, moved: Moved) -> None:
        """An engine was woken or put to rest."""
        up = moved.kind in ("start", "wake")
        self._moves[moved.engine] += up
        self._seconds[moved.engine, up] = moved.seconds

    def forget(self, name: str) -> None:
        """The engine is not there any more."""
        self._in_ram.discard(name)
        self._moves.pop(name, None)
        for up in (True, False):
            self._seconds.pop((name, up), None)

    def overview(
        self, situation: Situation, view: EngineView, snapshot: EngineSnapshot, *, bound: float | None
    ) -> EngineOverview:
        """The engine of `view` as it is now. `bound`: see `reason`."""
        name, oldest = view.name, [load.oldest for load in view.loads.values() if load.oldest is not None]
        refusal = never(situation, view) if view.state == "down" else None
        return EngineOverview(
            name=name,
            snapshot=snapshot,
            devices=view.footprint.devices,
            held_bytes=view.holds,
            host_bytes=view.footprint.host_bytes if name in self._in_ram else 0,
            rest=view.footprint.rest,
            running=view.running,
            waiting=view.waiting,
            waiting_batch=view.load("batch").waiting,
            oldest_wait=situation.now - min(oldest) if oldest else None,
            pinned=view.pinned,
            reason=reason(situation, name, bound=bound) if view.waiting else "",
            swaps=self._moves[name],
            seconds_to_wake=self._seconds.get((name, True)),
            seconds_to_rest=self._seconds.get((name, False)),
            unreachable=None if refusal is None else refusal.reason,
        )
