"""How every request stands: which engines its calls are with, and which it will call later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from local_fusion.core.chat import Priority
from local_fusion.scheduler.situation import Course


@dataclass(slots=True)
class _Standing:
    priority: Priority
    outstanding: Counter[str] = field(default_factory=Counter)
    announced: Counter[str] = field(default_factory=Counter)
    course: Course | None = None


class Courses:
    """Requests by how they stand. Counted alike, so that a thousand of them cost no more than one to look at."""

    def __init__(self) -> None:
        self._standing: dict[Hashable, _Standing] = {}
        self._counts: Counter[Course] = Counter()
        self._announced: Counter[str] = Counter()

    @property
    def counts(self) -> Mapping[Course, int]:
        """How many requests stand like that."""
        return dict(self._counts)

    def announced(self, engine: str) -> int:
        """Requests that will call `engine` later."""
        return self._announced[engine]

    def between_calls(self, request: Hashable, engine: str) -> bool:
        """Whether the request has no call anywhere, and will make one to `engine`."""
        standing = self._standing.get(request)
        return standing is not None and not standing.outstanding and standing.announced[engine] > 0

    def add(self, request: Hashable, engine: str, priority: Priority, *, announced: bool) -> None:
        """The request has one call more with `engine`, or will have."""
        standing = self._standing.get(request)
        if standing is None:
            standing = self._standing[request] = _Standing(priority)
        counter = standing.announced if announced else standing.outstanding
        counter[engine] += 1
        if counter[engine] == 1:
            self._announced[engine] += announced
            self._recount(request, standing)

    def remove(self, request: Hashable, engine: str, *, announced: bool) -> None:
        """That call is over, or will not come any more."""
        standing = self._standing[request]
        counter = standing.announced if announced else standing.outstanding
        counter[engine] -= 1
        if not counter[engine]:
            del counter[engine]
            self._announced[engine] -= announced
            self._recount(request, standing)

    def _recount(self, request: Hashable, standing: _Standing) -> None:
        if standing.course is not None:
            self._counts[standing.course] -= 1
            if not self._counts[standing.course]:
                del self._counts[standing.course]
        if not standing.outstanding and not standing.announced:
            del self._standing[request]
            return
        standing.course = Course(standing.priority, frozenset(standing.outstanding), frozenset(standing.announced))
        self._counts[standing.course] += 1
