"""What a request waits for, as its events tell it."""

from __future__ import annotations

from local_fusion.core.events import (
    Event,
    Failed,
    MemberFinished,
    MemberProgress,
    Queued,
    StageStarted,
    TextDelta,
    VerdictReached,
    origin,
)


class Waits:
    """Hears all events of one request."""

    def __init__(self) -> None:
        self._queued: dict[tuple[str, ...], Queued] = {}

    @property
    def latest(self) -> str | None:
        """What was last told to be waited for, unless that has begun to answer."""
        return next(reversed(self._queued.values())).text if self._queued else None

    def hear(self, event: Event) -> bool:
        """Take in an event; False for one that only changes numbers of what was told before."""
        source, happened = origin(event)
        match happened:
            case Queued():
                before = self._queued.pop(source, None)
                self._queued[source] = happened
                return before is None or not happened.counts_on(before)
            case MemberProgress(member) | MemberFinished(member):
                self._forget((*source, member))
            case Failed(failure):
                self._forget((*source, failure.member))
            case TextDelta() | StageStarted() | VerdictReached():
                self._forget(source)
            case _:
                pass
        return True

    def _forget(self, source: tuple[str, ...]) -> None:
        """Whatever `source` waited for has come, or is wanted no more."""
        for waiting in [each for each in self._queued if each[: len(source)] == source]:
            del self._queued[waiting]
