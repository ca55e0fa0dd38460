"""An answer that grows by segments: where a draft of the next one is cut, and what scores of it are worth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_LAST_GAP = re.compile(r"\s+\S*\Z")


@dataclass(frozen=True, slots=True)
class Draft:
    """What a member would have the answer go on with: its text then would be `whole`, of which `added` is new.

    `tokens` were generated for `added`. `ended`: nothing is to follow.
    """

    member: str
    model: str
    whole: str
    added: str
    tokens: int
    ended: bool

    @property
    def empty(self) -> bool:
        """Whether it adds nothing to be read."""
        return not self.added.strip()


def to_last_word(text: str) -> str:
    """`text` up to its last white space, because its last word may not be whole; all of it where it is one word.

    What follows begins with that white space: tokenizers expect it there, and chat templates strip it at an end.
    """
    gap = _LAST_GAP.search(text)
    head = text[: gap.start()] if gap is not None else ""
    return head if head.strip() else text


def stop_in(text: str, stops: Sequence[str], begun: int) -> int | None:
    """Where the first of `stops` begins of those that end after character `begun` (engines see none across it)."""
    places = [text.find(stop, max(0, begun - len(stop) + 1)) for stop in stops]
    return min((place for place in places if place >= 0), default=None)


def unsure_end(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of one of `stops`."""
    return max((size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)


class Scale:
    """What the scores of one model are worth: how far each is from the mean of all it has given, in deviations.

    So a model that finds everything likely has no more say than one that finds nothing so. Running over the whole
    answer instead of one segment, because two models that do not score their own drafts give one score a segment each.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = 0.0
        self._squares = 0.0

    def add(self, score: float) -> None:
        """One more score (Welford's update)."""
        self._count += 1
        distance = score - self._mean
        self._mean += distance / self._count
        self._squares += distance * (score - self._mean)

    def place(self, score: float) -> float:
        """Where `score` stands among those added: 0 is their mean, 1 a standard deviation above it."""
        deviation = (self._squares / self._count) ** 0.5 if self._count else 0.0
        # Sums of equal numbers are not quite equal.
        return (score - self._mean) / deviation if deviation > 1e-9 else 0.0
