"""Telling calls that wait what they wait for, often enough to be of use and no more."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from local_fusion.core.events import without_numbers
from local_fusion.engines.gate import unheard
from local_fusion.scheduler.line import Line
from local_fusion.scheduler.situation import Situation
from local_fusion.scheduler.words import reason

_logger = logging.getLogger(__name__)
_TELL_SECONDS = 1.0  # between two positions told to one call


class Telling:
    """Remembers what was told to those in which line, and when."""

    def __init__(self, lines: Mapping[str, Line]) -> None:
        self._lines = lines
        self._reasons: dict[str, tuple[str, float]] = {}

    def tell(self, situation: Situation, *, bound: float | None) -> float | None:
        """Tell waiting calls what they wait for; when there will be more to tell. `bound`: see `reason`."""
        again: list[float] = []
        for name, line in self._lines.items():
            if not line.heard:
                self._reasons.pop(name, None)
                continue
            why = reason(situation, name, bound=bound)
            before, at = self._reasons.get(name, ("", 0.0))
            # Counts change with every call that ends: told each time, a long line would take more time than its calls.
            if without_numbers(why) != without_numbers(before) or situation.now >= at + _TELL_SECONDS:
                self._reasons[name] = why, at = why, situation.now
                for ahead, ticket in enumerate(line.tickets()):
                    if ticket.tell is not unheard and ticket.told != (ahead, why):
                        ticket.told = ahead, why
                        unfailing(ticket.tell, ahead, why)
            again.append(at + _TELL_SECONDS)  # words change with the clock, too
        return min(again, default=None)

    def forget(self, name: str) -> None:
        """The engine is not there any more."""
        self._reasons.pop(name, None)


def unfailing(listener: Callable[..., None], *news: object) -> None:
    """Whoever listens must not take the calls with it."""
    try:
        listener(*news)
    except Exception:
        _logger.exception("a listener failed at %s", news)
