"""Token buckets: how much of something a minute allows. Pure: whoever asks says what time it is, in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Bucket:
    """Holds what `per_minute` allows in one minute at most, and fills up evenly.

    What was taken after the fact may leave it below nothing; then it takes its time to come back.
    """

    per_minute: float
    level: float
    at: float

    @classmethod
    def full(cls, per_minute: float, now: float) -> Bucket:
        """One of which nothing was taken yet."""
        return cls(per_minute, per_minute, now)

    def left(self, now: float) -> float:
        """What may be taken now; below 0 where more was taken than there was."""
        return min(self.per_minute, self.level + max(0.0, now - self.at) * self.per_minute / 60)

    def take(self, amount: float, now: float) -> None:
        """Take something out, whether or not it is there."""
        self.level, self.at = self.left(now) - amount, max(now, self.at)

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` is there; 0 where it is already."""
        return max(0.0, amount - self.left(now)) * 60 / self.per_minute

    def allow(self, per_minute: float, now: float) -> None:
        """From now on another amount a minute; what was left of the old one stays, as far as there is room."""
        self.level, self.at = self.left(now), max(now, self.at)
        self.per_minute = per_minute
