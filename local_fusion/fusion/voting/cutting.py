"""Cutting candidates that are less sure than most others were, while they are written (DeepConf, arXiv 2508.15260)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from local_fusion.core.events import TextDelta
from local_fusion.core.records import Candidate, Certainty
from local_fusion.fusion.panel.seats import Seat

LEAST = 2  # candidates of a model that say how sure its answers usually are


def bars(warmup: Sequence[Candidate], keep: float) -> dict[str, float]:
    """For each model the certainty of which the share `keep` of its warm-up candidates never fell short.

    Models are not compared with each other: their scales differ. One of which fewer than `LEAST` candidates tell how
    sure they were has no bar.
    """
    lowest: dict[str, list[float]] = {}
    for candidate in warmup:
        if candidate.certainty is not None:
            lowest.setdefault(candidate.model, []).append(candidate.certainty.lowest)
    return {model: _quantile(values, 1 - keep) for model, values in lowest.items() if len(values) >= LEAST}


class Cutter:
    """A `Put.watch`: compares each candidate's last `Certainty.WINDOW` tokens with its model's bar.

    `may` says whether one more may be cut at all.
    """

    def __init__(self, bars: dict[str, float], may: Callable[[], bool]) -> None:
        self._bars = bars
        self._may = may
        self._windows: dict[int, deque[float]] = {}

    def __call__(self, seat: Seat, delta: TextDelta) -> str | None:
        """Why this candidate is cut, where it is."""
        bar = self._bars.get(seat.member.model)
        if bar is None:
            return None
        window = self._windows.setdefault(seat.first, deque(maxlen=Certainty.WINDOW))
        for certainty in delta.certainties:
            window.append(certainty)
            if len(window) < Certainty.WINDOW:
                continue
            mean = sum(window) / Certainty.WINDOW
            if mean < bar and self._may():
                return (
                    f"c{seat.first} of {seat.label} became unsure: {mean:.2f} over {Certainty.WINDOW} tokens, where "
                    f"the bar is {bar:.2f}"
                )
        return None


def _quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of `values` lie, between neighbours in proportion."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
