"""The calls to one engine: those in flight and those that wait, interactive before batch."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import exp

from local_fusion.core.chat import Priority
from local_fusion.engines.gate import Call, Tell, unheard
from local_fusion.errors import LocalFusionError
from local_fusion.scheduler.situation import Load

PRIORITIES: tuple[Priority, ...] = ("interactive", "batch")
_REMEMBERED = 64
_RECENT_SECONDS = 30.0


@dataclass(eq=False, slots=True)
class Ticket:
    """One call on its way: `turn` is done when it may begin. `inside`: it is in flight."""

    call: Call
    tell: Tell
    since: float
    turn: asyncio.Future[None]
    inside: bool = False
    told: tuple[int, str] | None = None


@dataclass(slots=True)
class Line:
    """`capacity` sequences may be in flight. `owed` waiting calls are let in before the engine may make room.

    `heard` of those that wait want to be told for what.
    """

    name: str
    capacity: int
    owed: int = 0
    heard: int = 0
    drained_since: float | None = None
    _waiting: dict[Priority, dict[Ticket, None]] = field(default_factory=lambda: {each: {} for each in PRIORITIES})
    _running: Counter[Priority] = field(default_factory=Counter)
    _inside: set[Ticket] = field(default_factory=set)
    _sequences: int = 0
    _came: float = 0.0
    _came_at: float = 0.0
    _idle_seconds: float = 0.0
    _ended: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    @property
    def running(self) -> int:
        """Calls in flight."""
        return self._running.total()

    @property
    def waiting(self) -> int:
        """Calls that wait."""
        return sum(len(tickets) for tickets in self._waiting.values())

    def recent(self, now: float) -> float:
        """About how many calls came in the last half minute; those before fade away."""
        return self._came * exp((self._came_at - now) / _RECENT_SECONDS)

    def load(self, priority: Priority) -> Load:
        """The calls of one priority."""
        tickets = self._waiting[priority]
        oldest = next(iter(tickets)).since if tickets else None
        return Load(self._running[priority], len(tickets), oldest)

    def requests_inside(self) -> frozenset[str]:
        """Interactive requests that have calls in flight."""
        calls = (ticket.call for ticket in self._inside)
        return frozenset(call.request_id for call in calls if call.request_id and call.priority == "interactive")

    def tickets(self) -> Iterator[Ticket]:
        """Those that wait, in the order of their turns."""
        for priority in PRIORITIES:
            yield from self._waiting[priority]

    def join(self, ticket: Ticket) -> None:
        """A call begins to wait."""
        self._waiting[ticket.call.priority][ticket] = None
        self._came, self._came_at = self.recent(ticket.since) + 1, ticket.since
        self.heard += ticket.tell is not unheard

    def leave(self, ticket: Ticket, now: float) -> None:
        """A call is over, was turned away, or does not want to wait any longer."""
        priority = ticket.call.priority
        if not ticket.inside:
            if ticket in self._waiting[priority]:
                self._forget(ticket)
                self.owed = min(self.owed, len(self._waiting["interactive"]))
            return
        self._inside.discard(ticket)
        self._running[priority] -= 1
        self._sequences -= ticket.call.samples
        if ticket.call.samples:
            self._ended.append(now - self._idle_seconds)
        if not self.running:
            self.drained_since = now

    def let_in(self, now: float, only: frozenset[str] | None = None) -> Iterator[Ticket]:
        """Those whose turn has come, as far as there is room; a call larger than all room gets it alone.

        `only` calls of these requests, where not those of all.
        """
        for priority in PRIORITIES:
            while (ticket := self._next(priority, only)) is not None:
                if self._sequences and self._sequences + ticket.call.samples > self.capacity:
                    return
                self._forget(ticket)
                self._running[priority] += 1
                self._sequences += ticket.call.samples
                self.owed = max(0, self.owed - 1)
                self._idle_seconds += 0.0 if self.drained_since is None else now - self.drained_since
                self.drained_since = None
                ticket.inside = True
                self._inside.add(ticket)
                yield ticket

    def turn_away(self, error: LocalFusionError) -> None:
        """Nobody needs to wait any longer. Each gets an error of its own: a shared one would gather tracebacks."""
        for tickets in self._waiting.values():
            for ticket in tickets:
                if not ticket.turn.done():
                    ticket.turn.set_exception(copy_of(error))
            tickets.clear()
        self.owed = self.heard = 0

    def _next(self, priority: Priority, only: frozenset[str] | None) -> Ticket | None:
        tickets = self._waiting[priority]
        return next((each for each in tickets if only is None or each.call.request_id in only), None)

    def _forget(self, ticket: Ticket) -> None:
        del self._waiting[ticket.call.priority][ticket]
        self.heard -= ticket.tell is not unheard

    def seconds_for(self, calls: int) -> float | None:
        """How long `calls` take at the pace of the last ones, while there was work; None where no pace is known."""
        if len(self._ended) < 2 or self._ended[-1] <= self._ended[0]:
            return None
        return calls * (self._ended[-1] - self._ended[0]) / (len(self._ended) - 1)


def copy_of(error: LocalFusionError) -> LocalFusionError:
    """The same error, not yet raised."""
    copied = error.__class__.__new__(error.__class__, *error.args)
    copied.__dict__.update(error.__dict__)
    return copied
