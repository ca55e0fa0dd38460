"""A policy that decides as another one does, and writes down what for: which engines drain, and why swaps are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from local_fusion.scheduler.policy import Policy
from local_fusion.scheduler.situation import Abandon, Action, Rest, Situation, Swap
from local_fusion.simulation.recording import Lane


@dataclass(frozen=True, slots=True)
class WatchedPolicy:
    """`inner` decides. `reasons` counts why engines were swapped in, without swaps that were abandoned."""

    inner: Policy
    lanes: Mapping[str, Lane]
    reasons: Counter[str] = field(default_factory=Counter)
    _draining: dict[str, Swap] = field(default_factory=dict)

    def decide(self, situation: Situation) -> tuple[Action, ...]:
        """See `Policy.decide`."""
        actions = self.inner.decide(situation)
        for action in actions:
            match action:
                case Swap():
                    self._draining[action.target] = action
                    self.reasons[action.because] += 1
                    for victim in action.victims:
                        self.lanes[victim.engine].drains()
                case Rest(victim):
                    self.lanes[victim.engine].drains()
                case Abandon(target):
                    swap = self._draining.pop(target)
                    self.reasons[swap.because] -= 1
                    for victim in swap.victims:
                        self.lanes[victim.engine].drains(no_longer=True)
                case _:
                    pass
        return actions

    def look_again(self, situation: Situation) -> float | None:
        """See `Policy.look_again`."""
        return self.inner.look_again(situation)
