"""One engine and its single owner: a task that alone starts, watches, moves, restarts and stops the process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from local_fusion.config.schema import EngineSettings
from local_fusion.engines.client import EngineClient
from local_fusion.engines.clock import REAL_TIME, Clock
from local_fusion.engines.command import EngineCommand, SmallerCache
from local_fusion.engines.devices import Claim, DeviceGone
from local_fusion.engines.host import EngineHost
from local_fusion.engines.life import Frame, Life, Over
from local_fusion.engines.log_causes import Cause
from local_fusion.engines.moving import Level
from local_fusion.engines.orders import Run, Stopped
from local_fusion.engines.racing import first
from local_fusion.engines.recovery import Again, End, GivenUp, Record, after
from local_fusion.errors import (
    EngineError,
    EngineStartFailed,
    EngineUnavailable,
    LocalFusionError,
    MemoryTaken,
)

State = Literal[
    "stopped", "starting", "awake", "falling_asleep", "asleep", "waking", "backing_off", "broken", "stopping"
]

_logger = logging.getLogger(__name__)

_LINES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """An engine at one moment. `since` is when it took this state (seconds since the epoch).

    `level` is how deep it sleeps, on the way there and back too. The seconds are those of its last start, sleep and
    wake. `restarts` after failures are counted over all runs. `hint` is the way out of the last error. `note` says what
    is not as planned; `log_tail` are its last lines where it failed.
    """

    name: str
    state: State
    since: float
    devices: tuple[int, ...] = ()
    pid: int | None = None
    restarts: int = 0
    last_error: str | None = None
    hint: str = ""
    seconds_to_ready: float | None = None
    level: Level | None = None
    note: str | None = None
    seconds_to_sleep: float | None = None
    seconds_to_wake: float | None = None
    log_tail: str | None = None

    @property
    def trouble(self) -> str | None:
        """The last error with the way out, for people."""
        return f"{self.last_error} → {self.hint}" if self.last_error and self.hint else self.last_error


Listener = Callable[[EngineSnapshot], None]


class Engine:
    """One model's engine. Nobody reads a state and acts on it: `start`, then `await ensure_awake()`."""

    def __init__(
        self,
        name: str,
        command: EngineCommand,
        *,
        socket: Path,
        log: Path,
        host: EngineHost,
        settings: EngineSettings,
        claim: Claim = Claim(),  # noqa: B008 - frozen
        smaller: SmallerCache | None = None,
        step_seconds: float = 0.0,
        clock: Clock = REAL_TIME,
    ) -> None:
        self.name = name
        self._command = command
        self._smaller = smaller
        self._frame = Frame(name, socket, log, host, settings, claim, clock, step_seconds)
        self._snapshot = EngineSnapshot(name, "stopped", time.time(), claim.devices)
        self._listeners: list[Listener] = []
        self._failure: EngineError | None = None
        self._run = Run()

    @property
    def snapshot(self) -> EngineSnapshot:
        """The engine as it is now, for display."""
        return self._snapshot

    @property
    def can_sleep(self) -> bool:
        """Whether it can sleep at all; else it can only be stopped."""
        return self._command.sleeps

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` at every change from now on; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def start(self) -> None:
        """Begin to become awake, without waiting. Nothing if that has begun; a broken engine gets another chance."""
        if not self._run.goes_on():
            before, self._run = self._run.owner, Run()
            self._run.owner = asyncio.create_task(self._own(self._run, before), name=f"engine {self.name}")
        elif not self._run.is_wanted():
            self._run.order("awake")

    async def ensure_awake(self) -> EngineClient:
        """Wait until the engine is awake, through starts, restarts, sleep and waking; asks for none of these.

        Raises `EngineStartFailed` if it cannot start, `EngineUnavailable` if it is stopped or keeps crashing,
        `MemoryTaken` if others hold what it needs.
        """
        run = self._run
        if not run.goes_on():
            raise self._why_not()
        return run.taking_calls or await run.wait_awake()

    async def wake(self) -> None:
        """Start it if it is stopped, wake it if it sleeps; returns when it is awake. Raises as `ensure_awake` does."""
        self.start()
        await self.ensure_awake()

    async def sleep(self, level: Level) -> None:
        """Finish the calls in flight and sleep; returns when the memory is free again.

        An engine that fails to sleep is killed, one that is not running is left as it is: their memory is free, too.
        Raises `EngineError` if the kernel does not end its processes, `ValueError` if it cannot sleep.
        """
        if not self.can_sleep:
            raise ValueError(f"{self.name} was started without vLLM's sleep mode")
        if self._run.goes_on():
            await self._run.order("asleep", level)
        elif self._run.owner is not None:
            await asyncio.wait({self._run.owner})

    async def stop(self, because: str | None = None) -> None:
        """Stop the engine and wait until none of its processes is left. Any number of callers, any state.

        `because` is what calls in flight are told: `was taken away`.
        """
        run = self._run
        run.because = run.because or because
        run.stop_asked.set()
        if run.owner is not None:
            await asyncio.wait({run.owner})

    def adopt(self, settings: EngineSettings) -> None:
        """Go by other settings, as far as they are looked at from now on: what is watched keeps its bounds."""
        self._frame.settings = settings

    def become(
        self,
        command: EngineCommand,
        *,
        settings: EngineSettings,
        claim: Claim,
        smaller: SmallerCache | None,
        step_seconds: float,
    ) -> None:
        """Run something else from the next start on, under the same name. It must have been stopped.

        Raises `ValueError` where it runs.
        """
        if self._run.goes_on() or (self._run.owner is not None and not self._run.owner.done()):
            raise ValueError(f"{self.name} runs, and cannot become another")
        self._command, self._smaller, self._failure = command, smaller, None
        self._frame = replace(self._frame, settings=settings, claim=claim, step_seconds=step_seconds)
        self._snapshot = EngineSnapshot(self.name, self._snapshot.state, self._snapshot.since, claim.devices)
        self._become("stopped")

    def _why_not(self) -> EngineError:
        """A new error for each waiter: what a shared one is given on its way up would show up elsewhere."""
        if self._failure is None:
            return EngineUnavailable(f"{self.name} is stopped", hint="It must be started first.")
        return _copy(self._failure)

    def _become(self, state: State, **changes: Any) -> None:
        self._snapshot = replace(self._snapshot, state=state, since=time.time(), **changes)
        for listener in tuple(self._listeners):
            try:
                listener(self._snapshot)
            except Exception:  # one that prints to a terminal that is gone must not take the engine with it
                _logger.exception("%s: a listener failed at the state %s", self.name, state)

    async def _own(self, run: Run, before: asyncio.Task[None] | None) -> None:
        """Everything that happens to the engine in one run; nobody else changes its state."""
        outcome: GivenUp | None = None
        freed = True
        try:
            if before is not None:
                await asyncio.wait({before})
            self._failure = None
            self._become("starting", last_error=None, hint="", log_tail=None)
            outcome = await self._keep_going(run)
        except MemoryTaken as taken:
            outcome = GivenUp("stopped", taken)
        except LocalFusionError as error:  # a process cannot be ended
            outcome, freed = GivenUp("broken", EngineUnavailable(error.message, hint=error.hint)), False
        except Exception as error:
            _logger.exception("%s: its owner failed", self.name)
            hint = "This is a defect of local-fusion."
            outcome = GivenUp("broken", EngineUnavailable(f"{self.name}: {error!r}", hint=hint))
        finally:
            run.over = True
            if outcome is None:
                self._become("stopped", pid=None, level=None, log_tail=None)
            else:
                self._failure = outcome.failure
                self._become(outcome.state, pid=None, level=None, **_told(outcome.failure))
            run.close(self._why_not, freed=freed)

    async def _keep_going(self, run: Run) -> GivenUp | None:
        """Start, and start again after failures, until nobody wants that (None: it was stopped) or it is hopeless."""
        record = Record()
        while not run.stop_asked.is_set():
            end = await self._live(run)
            if end is None or run.stop_asked.is_set():
                break
            run.is_gone()
            next_step = after(
                end,
                record,
                name=self.name,
                wanted=run.is_wanted(),
                restarts=self._frame.settings.restarts,
                can_lower=self._smaller is not None,
                note=self._snapshot.note,
            )
            if isinstance(next_step, GivenUp):
                self._snapshot = replace(self._snapshot, log_tail=end.log_tail)
                return next_step
            record = next_step.record
            if next_step.lowered:
                self._lower()
            if next_step.delay:
                self._become("backing_off", pid=None, **_told(next_step), log_tail=end.log_tail)
                pause = self._frame.clock.sleep(next_step.delay)
                await first(run.stop_asked.wait(), run.next_order("asleep"), pause)
                if run.stop_asked.is_set():
                    break
                run.is_gone()
                if not run.is_wanted():
                    failure = EngineUnavailable(next_step.message, hint=next_step.hint)
                    return GivenUp("stopped", failure)
            restarts = self._snapshot.restarts + 1
            self._become("starting", pid=None, level=None, **_told(next_step), restarts=restarts, log_tail=None)
        return None

    async def _live(self, run: Run) -> End | None:
        """One process from start to end (None: it was stopped). Raises `MemoryTaken` where there is no room for it."""
        life: Life | None = None
        try:
            async with self._alone(run.unless_stopped):
                await run.unless_stopped(self._check_memory(asleep=False))
                life = await Life.begin(self._frame, self._command, run.stop_asked)
                self._become("starting", pid=life.pid)
                seconds = await life.until_ready()
            self._is_awake(run, life, seconds_to_ready=seconds)
            while True:
                level = await self._until_asleep(run, life)
                await self._until_awake(run, life, level)
        except Stopped:
            return None
        except Over as over:
            if life is None or over.cause is None:
                return None if over.cause is None else End(over.cause)
            said = (await life.log_tail()).splitlines()[-_LINES_SHOWN:]
            return End(over.cause, life.phase, life.ready_for(), "\n".join(said))
        finally:
            run.client = None
            if life is not None:
                if run.stop_asked.is_set():
                    self._become("stopping")
                    run.turn_away(self._why_not)
                await life.end(run.because)

    def _is_awake(self, run: Run, life: Life, **changes: Any) -> None:
        life.phase = "awake"
        run.client = life.client
        self._become("awake", level=None, **changes)
        run.answer(life.client)

    async def _until_asleep(self, run: Run, life: Life) -> Level:
        """Be awake until told to sleep; how deep it sleeps then."""
        order = await life.unless_over(run.next_order("asleep"))
        run.client = None
        self._become("falling_asleep", level=order.level)
        await life.unless_over(life.client.idle())
        async with self._alone(life.unless_over):
            life.phase = "falling_asleep"
            seconds = await life.fall_asleep(order.level)
        life.phase = "asleep"
        self._become("asleep", seconds_to_sleep=seconds)
        run.fulfilled(order)
        return order.level

    async def _until_awake(self, run: Run, life: Life, level: Level) -> None:
        """Sleep until told to wake, and memory allows it."""
        while True:
            order = await life.unless_over(run.next_order("awake"))
            life.phase = "waking"
            try:
                async with self._alone(life.unless_over):
                    await life.unless_over(self._check_memory(asleep=True))
                    self._become("waking", last_error=None, hint="")
                    seconds = await life.wake_up(level)
            except MemoryTaken as taken:
                life.phase = "asleep"
                self._become("asleep", **_told(taken))
                run.turn_away(partial(_copy, taken))
                continue
            run.fulfilled(order)
            self._is_awake(run, life, seconds_to_wake=seconds)
            return

    @asynccontextmanager
    async def _alone(self, unless: _Unless) -> AsyncIterator[None]:
        """No other engine moves on our GPUs meanwhile. Raises what `unless` raises while that has to be waited for."""
        async with AsyncExitStack() as stack:
            await unless(stack.enter_async_context(self._frame.claim.alone()))
            yield

    async def _check_memory(self, *, asleep: bool) -> None:
        """Raises `MemoryTaken`, or `Over` for a GPU that is gone."""
        claim = self._frame.claim
        try:
            await claim.check(self.name, asleep=asleep, clock=self._frame.clock)
        except DeviceGone as gone:
            hint = "`nvidia-smi` and `dmesg` say more; restarting the machine may bring it back."
            raise Over(Cause("gpu_gone", str(gone), hint, permanent=True)) from gone

    def _lower(self) -> None:
        """The KV cache is smaller from now on."""
        smaller, claim = self._smaller, self._frame.claim
        assert smaller is not None
        smaller_claim = replace(
            claim,
            awake_bytes=claim.awake_bytes - smaller.saved_bytes,
            pooled_bytes=claim.pooled_bytes - smaller.saved_bytes,
        )
        self._command, self._smaller = smaller.command, None
        self._frame = replace(self._frame, claim=smaller_claim)
        self._snapshot = replace(self._snapshot, note=smaller.note)


class _Unless(Protocol):
    async def __call__(self, work: Coroutine[Any, Any, None], /) -> None: ...


def _told(error: EngineError | Again) -> dict[str, str]:
    return {"last_error": error.message, "hint": error.hint}


def _copy(failure: EngineError) -> EngineError:
    if isinstance(failure, EngineStartFailed):
        return EngineStartFailed(failure.message, hint=failure.hint, permanent=failure.permanent)
    return type(failure)(failure.message, hint=failure.hint)
