"""Engines that are to be replaced or taken away: held until nobody needs them, so that nobody fails who can wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from local_fusion.scheduler.line import Line
from local_fusion.scheduler.moving import Mover


class Holding:
    """Knows who may still call which engine. `changed` is called whenever somebody has gone."""

    def __init__(self, lines: Mapping[str, Line], mover: Mover, changed: Callable[[], None]) -> None:
        self._lines = lines
        self._mover = mover
        self._changed = changed
        self._users: Counter[str] = Counter()
        self._held: Counter[str] = Counter()

    def __contains__(self, name: str) -> bool:
        return self._held[name] > 0

    @contextmanager
    def using(self, names: Iterable[str]) -> Iterator[None]:
        """While in this block, a request may call these engines, which stay there for it."""
        names = tuple(names)
        self._users.update(names)
        try:
            yield
        finally:
            self._users.subtract(names)
            for name in names:
                if not self._users[name]:
                    del self._users[name]
            self._changed()

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """While in this block the engine is moved by nobody else, and takes no calls but of requests that finish there.

        All others wait.
        """
        self._held[name] += 1
        self._mover.give_up(name)
        try:
            with self._mover.occupying(name):
                yield
        finally:
            self._held[name] -= 1

    async def unused(self, name: str, seconds: float) -> bool:
        """Wait until no request can call the engine any more; False if `seconds` do not suffice."""
        line = self._lines[name]
        return await self._within(seconds, lambda: not (line.running or line.waiting or self._users[name]))

    async def drained(self, name: str, seconds: float) -> bool:
        """Wait until nothing is in flight with an engine that is held; False if `seconds` do not suffice."""
        return await self._within(seconds, lambda: self._mover.drained(name))

    async def left_alone(self, name: str) -> None:
        """Wait until nobody else moves an engine that is held and stopped: each hears of that and ends."""
        await self._mover.until(lambda: self._mover.alone(name))

    async def _within(self, seconds: float, condition: Callable[[], bool]) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._mover.until(condition)
        except TimeoutError:
            return False
        return True
