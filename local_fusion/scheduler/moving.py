"""Carrying out what the policy decides: draining, resting, waking, never more memory than there is."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from local_fusion.core.concurrency import together
from local_fusion.errors import EngineError, LocalFusionError
from local_fusion.scheduler.line import Line, copy_of
from local_fusion.scheduler.managed import ManagedEngine
from local_fusion.scheduler.records import Moved
from local_fusion.scheduler.situation import Footprint, Swap, Victim

_logger = logging.getLogger(__name__)
_HOLDING_NOTHING = ("stopped", "broken")


@dataclass(slots=True)
class _Underway:
    swap: Swap
    for_good: bool = False
    resting: int = 0
    waking: bool = False
    abandoned: bool = False

    @property
    def waits(self) -> bool:
        """For calls to end, or for memory: it can be abandoned, and nothing has to be undone."""
        return not self.resting and not self.waking and not self.for_good


class Mover:
    """Swaps and rests under way. `changed` is called whenever one has come further, `tell` hears what was moved.

    `failed` hears why an engine did not wake.
    """

    def __init__(
        self,
        engines: Mapping[str, ManagedEngine],
        footprints: Mapping[str, Footprint],
        lines: Mapping[str, Line],
        usable: Mapping[int, int],
        *,
        changed: Callable[[], None],
        failed: Callable[[str, LocalFusionError], None],
        tell: Callable[[Moved], None],
        between_calls: Callable[[str, str], bool],
    ) -> None:
        self._engines = engines
        self._footprints = footprints
        self._lines = lines
        self._usable = usable
        self._changed = changed
        self._failed = failed
        self._tell = tell
        self._between_calls = between_calls
        self._finishing: dict[str, frozenset[str]] = {}
        self._underway: dict[str, _Underway] = {}
        self._waking: set[str] = set()
        self._looking: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: LocalFusionError | None = None
        self._occupying: Counter[str] = Counter()

    @property
    def swaps(self) -> tuple[Swap, ...]:
        """Those under way."""
        return tuple(each.swap for each in self._underway.values())

    @property
    def draining(self) -> frozenset[str]:
        """Targets of swaps that can be abandoned."""
        return frozenset(target for target, each in self._underway.items() if each.waits)

    @property
    def occupied(self) -> frozenset[str]:
        """Engines that somebody moves, or keeps as they are, for another reason than a swap."""
        return frozenset(self._occupying)

    @property
    def closed(self) -> frozenset[str]:
        """Engines that take no further calls, but of requests that finish there."""
        return frozenset(victim.engine for swap in self.swaps for victim in swap.victims) | self.occupied

    def still_let_in(self, name: str) -> frozenset[str] | None:
        """The requests of which an engine still takes calls while it makes room; None where it takes all calls.

        They had calls in flight when it closed. A judge's next call, or its synthesis, is not worth another turn.
        """
        return self._finishing.get(name, frozenset()) if name in self.closed else None

    def drained(self, name: str) -> bool:
        """Whether nothing is in flight, and nobody who still is let in comes back at once.

        Without a process nothing is, whatever of its answers is still being read.
        """
        if self._engines[name].snapshot.state in _HOLDING_NOTHING:
            return True
        finishing = self._finishing.get(name, ())
        return not self._lines[name].running and not any(self._between_calls(each, name) for each in finishing)

    def busy(self, name: str) -> bool:
        """Whether the engine takes part in something."""
        return name in self._underway or name in self.closed

    def alone(self, name: str) -> bool:
        """Whether nobody but one who occupies the engine has to do with it: no swap, and nobody who rests it."""
        swapping = name in self._underway or any(
            victim.engine == name for swap in self.swaps for victim in swap.victims
        )
        return not swapping and self._occupying[name] <= 1

    def holds(self, name: str) -> int:
        """Bytes that the engine has of each of its devices, or is about to take."""
        footprint, state = self._footprints[name], self._engines[name].snapshot.state
        if name not in self._waking:
            if state in _HOLDING_NOTHING:
                return 0
            if state == "asleep":
                return footprint.sleeping_bytes
        return footprint.awake_bytes

    def begin(self, swap: Swap, *, for_good: bool = False) -> None:
        """Start to carry out a swap; one that is `for_good` is never abandoned."""
        underway = self._underway[swap.target] = _Underway(swap, for_good)
        for victim in swap.victims:
            self._close(victim.engine)
        self._go(self._carry_out(underway), f"wake {swap.target}")

    def abandon(self, target: str) -> None:
        """Give up a swap that waits. It finds out by itself: cancelled, it might have begun to move just then."""
        self._underway.pop(target).abandoned = True
        self._changed()

    def give_up(self, target: str) -> None:
        """Do not wake an engine after all, unless it is waking up already. Whoever makes room for it does so still."""
        if (underway := self._underway.get(target)) is not None and not underway.waking:
            underway.abandoned = True
            self._changed()

    def forget(self, name: str) -> None:
        """The engine is not there any more."""
        self._finishing.pop(name, None)

    def rest(self, victim: Victim) -> None:
        """Start to put an engine to rest for nobody else's sake."""
        self._go(self.rest_now(victim), f"rest {victim.engine}")

    async def rest_now(self, victim: Victim) -> None:
        """Put an engine to rest once it has finished what it is doing."""
        with self.occupying(victim.engine):
            await self.until(lambda: self.drained(victim.engine))
            await self._rest(victim, None)

    @contextmanager
    def occupying(self, name: str) -> Iterator[None]:
        """Nobody else moves the engine, and it takes no further calls, while in this block."""
        self._occupying[name] += 1
        self._close(name)
        try:
            yield
        finally:
            self._occupying[name] -= 1
            if not self._occupying[name]:
                del self._occupying[name]
            self._changed()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at whenever something has changed.

        Raises what `aclose` was given, once that is called.
        """
        while self._over is None and not condition():
            look = asyncio.get_running_loop().create_future()
            self._looking.append(look)
            await look
        if self._over is not None:
            raise copy_of(self._over)

    def look(self) -> None:
        """Something has changed: whoever waits for a condition looks again."""
        looking, self._looking = self._looking, []
        for look in looking:
            if not look.done():
                look.set_result(None)

    async def aclose(self, error: LocalFusionError) -> None:
        """Leave everything as it is; whoever waits for a condition hears `error`."""
        self._over = error
        self.look()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _close(self, name: str) -> None:
        self._finishing[name] = self._lines[name].requests_inside()

    def _go(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, underway: _Underway) -> None:
        swap = underway.swap
        try:
            await together(self._drain_and_rest(underway, victim) for victim in swap.victims)
            await self.until(lambda: underway.abandoned or self._fits_now(swap.target))
            if not underway.abandoned:
                underway.waking = True
                await self._wake(swap.target)
        except LocalFusionError as error:
            self._failed(swap.target, error)
        except Exception as error:
            _logger.exception("waking %s failed", swap.target)
            self._failed(
                swap.target, EngineError(f"{swap.target}: {error!r}", hint="This is a defect of local-fusion.")
            )
        finally:
            if self._underway.get(swap.target) is underway:
                del self._underway[swap.target]
            self._changed()

    async def _drain_and_rest(self, underway: _Underway, victim: Victim) -> None:
        await self.until(lambda: underway.abandoned or self.drained(victim.engine))
        if underway.abandoned:
            return
        underway.resting += 1
        try:
            await self._rest(victim, underway.swap.target)
        finally:
            underway.resting -= 1

    async def _rest(self, victim: Victim, for_engine: str | None) -> None:
        engine = self._engines[victim.engine]
        began = asyncio.get_running_loop().time()
        to_sleep = victim.rest != "stopped" and engine.snapshot.state == "awake"
        try:
            if to_sleep:
                await engine.sleep(1 if victim.rest == "level 1" else 2)
            else:
                await engine.stop()
        except EngineError as error:  # the kernel does not end it: whoever wakes next is told that memory is missing
            _logger.warning("%s cannot make room: %s", victim.engine, error)
        seconds = asyncio.get_running_loop().time() - began
        self._tell(Moved(victim.engine, "sleep" if to_sleep else "stop", seconds, for_engine))
        self._changed()

    async def _wake(self, name: str) -> None:
        engine = self._engines[name]
        began = asyncio.get_running_loop().time()
        asleep = engine.snapshot.state == "asleep"
        self._waking.add(name)
        try:
            await engine.wake()
        finally:
            self._waking.discard(name)
        self._tell(Moved(name, "wake" if asleep else "start", asyncio.get_running_loop().time() - began))

    def _fits_now(self, target: str) -> bool:
        footprint = self._footprints[target]
        more = footprint.awake_bytes - self.holds(target)
        for device in footprint.devices:
            held = sum(self.holds(name) for name, each in self._footprints.items() if device in each.devices)
            if held + more > self._usable[device]:
                return False
        return True
