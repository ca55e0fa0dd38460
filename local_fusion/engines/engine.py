"""One engine and its single owner: a task that alone starts, watches, restarts and stops the process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from local_fusion.config.schema import EngineSettings
from local_fusion.engines.client import EngineClient
from local_fusion.engines.command import EngineCommand
from local_fusion.engines.host import EngineHost, EngineProcess
from local_fusion.engines.log_causes import Cause, likely_cause
from local_fusion.errors import (
    EngineError,
    EngineRejected,
    EngineStartFailed,
    EngineUnavailable,
    LocalFusionError,
    RequestError,
    SetupError,
)

State = Literal["stopped", "starting", "awake", "backing_off", "broken", "stopping"]

_logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_LOG_TAIL_BYTES = 128 * 1024
_LONGEST_BACKOFF = 60.0
# An engine that has been awake for so long starts again with a clean record.
_FORGIVEN_AFTER = 300.0


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """An engine at one moment. `since` is when it took this state (seconds since the epoch)."""

    name: str
    state: State
    since: float
    devices: tuple[int, ...] = ()
    pid: int | None = None
    restarts: int = 0
    last_error: str | None = None
    seconds_to_ready: float | None = None


Listener = Callable[[EngineSnapshot], None]


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as an engine sees it, replaceable in tests: seconds, monotonic; and sleeping."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


REAL_TIME = Clock()


@dataclass(slots=True)
class _Run:
    """What lies between a `start` and its `stop`: who waits for the engine, and whether the end was asked for."""

    stop_asked: asyncio.Event = field(default_factory=asyncio.Event)
    waiters: set[asyncio.Future[EngineClient]] = field(default_factory=set)
    owner: asyncio.Task[None] | None = None
    client: EngineClient | None = None

    def goes_on(self) -> bool:
        return not self.stop_asked.is_set() and self.owner is not None and not self.owner.done()


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
        devices: tuple[int, ...] = (),
        clock: Clock = REAL_TIME,
    ) -> None:
        self.name = name
        self._command = command
        self._socket = socket
        self._log = log
        self._host = host
        self._settings = settings
        self._clock = clock
        self._snapshot = EngineSnapshot(name, "stopped", time.time(), devices)
        self._listeners: list[Listener] = []
        self._failure: EngineError | None = None
        self._run = _Run()

    @property
    def snapshot(self) -> EngineSnapshot:
        """The engine as it is now, for display."""
        return self._snapshot

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` at every change from now on; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def start(self) -> None:
        """Begin to wake up, without waiting. Nothing to do if that has begun; a broken engine gets another chance."""
        if self._run.goes_on():
            return
        before, self._run = self._run.owner, _Run()
        self._run.owner = asyncio.create_task(self._own(self._run, before), name=f"engine {self.name}")

    async def ensure_awake(self) -> EngineClient:
        """Wait until the engine is awake, through starts and restarts.

        Raises `EngineStartFailed` if it cannot start, `EngineUnavailable` if it is stopped or keeps crashing.
        """
        run = self._run
        if not run.goes_on():
            raise self._why_not()
        if run.client is not None:
            return run.client
        waiter: asyncio.Future[EngineClient] = asyncio.get_running_loop().create_future()
        run.waiters.add(waiter)
        try:
            return await waiter
        finally:
            run.waiters.discard(waiter)

    async def stop(self) -> None:
        """Stop the engine and wait until none of its processes is left. Any number of callers, any state."""
        run = self._run
        run.stop_asked.set()
        if run.owner is not None:
            await asyncio.wait({run.owner})

    def _why_not(self) -> EngineError:
        """A new error for each waiter: what a shared one is given on its way up would show up elsewhere."""
        if self._failure is None:
            return EngineUnavailable(f"{self.name} is stopped", hint="It must be started first.")
        if isinstance(self._failure, EngineStartFailed):
            failed = self._failure
            return EngineStartFailed(failed.message, hint=failed.hint, permanent=failed.permanent)
        return EngineUnavailable(self._failure.message, hint=self._failure.hint)

    def _become(self, state: State, **changes: Any) -> None:
        self._snapshot = replace(self._snapshot, state=state, since=time.time(), **changes)
        for listener in tuple(self._listeners):
            try:
                listener(self._snapshot)
            except Exception:  # one that prints to a terminal that is gone must not take the engine with it
                _logger.exception("%s: a listener failed at the state %s", self.name, state)

    async def _own(self, run: _Run, before: asyncio.Task[None] | None) -> None:
        """Everything that happens to the engine in one run; nobody else changes its state."""
        try:
            if before is not None:
                await asyncio.wait({before})
            self._failure = None
            self._become("starting", restarts=0, last_error=None, seconds_to_ready=None)
            self._failure = await self._keep_awake(run)
        except LocalFusionError as error:  # a process cannot be ended
            self._failure = EngineUnavailable(error.message, hint=error.hint)
        except Exception as error:
            _logger.exception("%s: its owner failed", self.name)
            self._failure = EngineUnavailable(f"{self.name}: {error!r}", hint="This is a defect of local-fusion.")
        finally:
            if self._failure is None:
                self._become("stopped", pid=None)
            else:
                self._become("broken", pid=None, last_error=self._failure.message)
            self._turn_away(run)

    async def _keep_awake(self, run: _Run) -> EngineError | None:
        """Start, and start again after crashes: None once stop was asked for, else why it is broken."""
        crashes = 0
        while not run.stop_asked.is_set():
            cause, awake_for = await self._live(run)
            if cause is None:
                break
            crashes = 1 if awake_for >= _FORGIVEN_AFTER else crashes + 1
            message = f"{self.name} {'crashed' if awake_for else 'did not start'}: {cause.message}"
            if cause.permanent and not awake_for:
                return EngineStartFailed(message, hint=cause.hint, permanent=True)
            if crashes > self._settings.restarts:
                message += f" ({crashes} times in a row)" if crashes > 1 else ""
                kind = EngineUnavailable if awake_for else EngineStartFailed
                return kind(message, hint=cause.hint)
            self._become("backing_off", pid=None, last_error=message)
            delay = min(_LONGEST_BACKOFF, 2.0 ** (crashes - 1))
            await _first(run.stop_asked.wait(), self._clock.sleep(delay))
            self._become("starting", restarts=self._snapshot.restarts + 1)
        return None

    async def _live(self, run: _Run) -> tuple[Cause | None, float]:
        """One process from start to end: why it ended (None if stop was asked for), and seconds it was awake."""
        log_start = _size(self._log)
        self._socket.unlink(missing_ok=True)
        try:
            process = await self._host.start(self._command, name=self.name, log=self._log)
        except EngineStartFailed as error:
            return Cause("cannot_run", error.message, error.hint, error.permanent), 0.0
        except SetupError as error:  # too many processes, a full disk: that may pass
            return Cause("cannot_run", error.message, error.hint), 0.0
        self._become("starting", pid=process.pid)
        client = EngineClient(self._socket, self.name)
        awake_for = 0.0
        try:
            cause = await self._until_ready(run, process, client, log_start)
            if cause is None and not run.stop_asked.is_set():
                awake_since = self._clock.now()
                await _first(run.stop_asked.wait(), process.wait())
                awake_for = max(self._clock.now() - awake_since, 1e-9)
                cause = None if run.stop_asked.is_set() else _EXITED
        finally:
            run.client = None
            if run.stop_asked.is_set():
                self._become("stopping")
                self._turn_away(run)
            await client.aclose()
            await process.stop(self._settings.stop_seconds)
        if cause is _EXITED:
            said = await asyncio.to_thread(_tail, self._log, log_start)
            cause = likely_cause(said, await process.wait())
        return cause, awake_for

    async def _until_ready(
        self, run: _Run, process: EngineProcess, client: EngineClient, log_start: int
    ) -> Cause | None:
        """Wait until the process is awake, or stop is asked for (None), or it is clear that it will not wake up."""
        began = self._clock.now()
        limit = self._settings.start_seconds
        ready = asyncio.create_task(_become_ready(client))
        try:
            first = await _first(run.stop_asked.wait(), process.wait(), asyncio.wait({ready}), self._clock.sleep(limit))
            if first == 2 and (error := ready.exception()) is not None:
                # A dying engine first stops answering; how it ended says more than that.
                if await _first(process.wait(), self._clock.sleep(self._settings.stop_seconds)) == 0:
                    return _EXITED
                return Cause("warm_up_failed", f"it answered its first request with an error: {error}")
        finally:
            ready.cancel()
            await asyncio.wait({ready})
        if first == 1:
            return _EXITED
        if first == 3:
            said = likely_cause(await asyncio.to_thread(_tail, self._log, log_start), None).message
            message = f"it was not ready after {limit:g} s; {said}"
            return Cause("start_timeout", message, "Raise engines.start_seconds.", permanent=True)
        if first == 2:
            run.client = client
            self._become("awake", seconds_to_ready=self._clock.now() - began)
            for waiter in run.waiters:
                if not waiter.done():
                    waiter.set_result(client)
        return None

    def _turn_away(self, run: _Run) -> None:
        for waiter in run.waiters:
            if not waiter.done():
                waiter.set_exception(self._why_not())


_EXITED = Cause("exited", "")


async def _become_ready(client: EngineClient) -> None:
    """Wait until the engine says it is healthy, then have it generate one token: ready means it answered."""
    while not await client.healthy():
        await asyncio.sleep(_POLL_SECONDS)
    try:
        await client.complete({"model": client.name, "prompt": "Hello", "max_tokens": 1}, "/v1/completions")
    except RequestError:
        pass  # it answers, but not with text: an embedding model
    except EngineRejected as error:
        if error.engine_status not in (404, 405, 501):
            raise


async def _first(*works: Awaitable[Any]) -> int:
    """Which of `works` is done first (the earliest in the list, of several); the others are cancelled."""
    tasks = [asyncio.ensure_future(_awaited(work)) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        first = next(index for index, task in enumerate(tasks) if task.done())
        tasks[first].result()
        return first
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _awaited(work: Awaitable[Any]) -> None:
    await work


def _size(log: Path) -> int:
    try:
        return log.stat().st_size
    except FileNotFoundError:
        return 0


def _tail(log: Path, start: int) -> str:
    """What was logged since `start`, at most the last of it."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, _size(log) - _LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
