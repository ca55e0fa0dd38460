"""One process of an engine, from its start to its end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from local_fusion.config.schema import EngineSettings
from local_fusion.engines import moving
from local_fusion.engines.client import EngineClient
from local_fusion.engines.clock import Clock
from local_fusion.engines.command import EngineCommand
from local_fusion.engines.devices import Claim, DeviceGone
from local_fusion.engines.host import EngineHost, EngineProcess
from local_fusion.engines.log_causes import OUT_OF_RAM, Cause, likely_cause
from local_fusion.engines.moving import Level
from local_fusion.engines.pulse import until_lifeless
from local_fusion.engines.racing import Beaten, first, unless
from local_fusion.engines.recovery import Phase
from local_fusion.errors import EngineStartFailed, LocalFusionError, SetupError

Result = TypeVar("Result")

_LOG_TAIL_BYTES = 128 * 1024
_VMSTAT = Path("/proc/vmstat")
# Sleeping at level 1 is copying the weights to RAM that is pinned for them first (`CuMemAllocator.sleep` in
# vllm/device_allocator/cumem.py). The vLLM blog reports 3 s for 7.6 GiB; what takes three times as long is stuck.
# In bytes a second.
_SLOWEST_COPY = 7.6 * 1024**3 / 3 / 3


class Over(Exception):
    """A process is of no use any more, for that cause; None: its end was asked for."""

    def __init__(self, cause: Cause | None) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass(slots=True)
class Frame:
    """What all processes of one engine have in common. One step of it takes at most about `step_seconds`.

    Its settings may change while a process runs.
    """

    name: str
    socket: Path
    log: Path
    host: EngineHost
    settings: EngineSettings
    claim: Claim
    clock: Clock
    step_seconds: float


class Life:
    """A process that runs. `phase` is what it does, for whoever watches it and for the cause of its end."""

    def __init__(self, frame: Frame, process: EngineProcess, log_start: int, stop_asked: asyncio.Event) -> None:
        self.client = EngineClient(frame.socket, frame.name)
        self.pid = process.pid
        self.phase: Phase = "starting"
        self._frame = frame
        self._process = process
        self._log_start = log_start
        self._stop_asked = stop_asked
        self._oom_kills = _oom_kills()
        self._watching: asyncio.Task[str] | None = None
        self._unwilling = False
        self._ready_at: float | None = None

    @classmethod
    async def begin(cls, frame: Frame, command: EngineCommand, stop_asked: asyncio.Event) -> Life:
        """Start the process. Raises `Over` where that cannot be done."""
        log_start = _size(frame.log)
        frame.socket.unlink(missing_ok=True)
        try:
            process = await frame.host.start(command, name=frame.name, log=frame.log)
        except EngineStartFailed as error:
            raise Over(Cause("cannot_run", error.message, error.hint, error.permanent)) from error
        except SetupError as error:  # too many processes, a full disk: that may pass
            raise Over(Cause("cannot_run", error.message, error.hint)) from error
        return cls(frame, process, log_start, stop_asked)

    async def unless_over(self, work: Coroutine[Any, Any, Result]) -> Result:
        """What `work` gives. Raises `Over` if the process ends or hangs before, or its end is asked for."""
        try:
            return await unless(work, self._stop_asked.wait(), self._process.wait(), self._lifeless())
        except Beaten as beaten:
            if beaten.by == 0:
                raise Over(None) from None
            raise Over(await (self._why_it_exited() if beaten.by == 1 else self._found_dead())) from None

    def ready_for(self) -> float:
        """Seconds since it was first ready; 0 before."""
        return 0.0 if self._ready_at is None else self._frame.clock.now() - self._ready_at

    async def until_ready(self) -> float:
        """Wait until it has answered; the seconds since its start. Raises `Over`."""
        clock, limit = self._frame.clock, self._frame.settings.start_seconds
        began = clock.now()

        async def ready_in_time() -> bool:
            return await first(moving.become_ready(self.client), clock.sleep(limit)) == 0

        try:
            in_time = await self.unless_over(ready_in_time())
        except LocalFusionError as error:
            raise Over(await self._why_it_failed(error, "it answered its first request with an error")) from error
        if not in_time:
            said = likely_cause(await self.log_tail(), None).message
            message = f"it was not ready after {limit:g} s; {said}"
            raise Over(Cause("start_timeout", message, "Raise engines.start_seconds.", permanent=True))
        self._watching = asyncio.create_task(self._watch(), name=f"pulse of {self._frame.name}")
        self._ready_at = clock.now()
        return clock.now() - began

    async def fall_asleep(self, level: Level) -> float:
        """Sleep, and give the memory back; the seconds that took. Raises `Over`, also where it still holds memory."""
        claim, began = self._frame.claim, self._frame.clock.now()
        copying = claim.pooled_bytes * len(claim.devices) / _SLOWEST_COPY if level == 1 else 0.0
        before = await self.unless_over(self._free())
        await self._move(moving.fall_asleep(self.client, level, seconds=self._frame.settings.hang_seconds + copying))
        if not await self.unless_over(self._given_back(before)):
            self._unwilling = True
            raise Over(Cause("holds_memory", "it says that it sleeps but still holds its memory"))
        return self._frame.clock.now() - began

    async def wake_up(self, level: Level) -> float:
        """Wake from `level` until it has answered; the seconds that it took. Raises `Over`."""
        settings, began = self._frame.settings, self._frame.clock.now()
        seconds, reload_seconds = settings.hang_seconds, settings.start_seconds
        await self._move(moving.wake_up(self.client, level, seconds=seconds, reload_seconds=reload_seconds))
        return self._frame.clock.now() - began

    async def end(self, because: str | None = None) -> None:
        """End the process and all its helpers: with grace, unless it was found dead or unwilling. GPUs are free then.

        `because` is what calls in flight are told. Raises `EngineError` if the kernel does not end it.
        """
        if self._watching is not None:
            self._watching.cancel()
        await self.client.aclose(because)
        # RAM is free as soon as its process is gone; a GPU's memory comes back later.
        late = self._frame.claim.kind == "cuda" and self.phase == "awake" and self._stop_asked.is_set()
        before = await self._free() if late else ()
        await self._process.stop(0.0 if self._unwilling else self._frame.settings.stop_seconds)
        if before:
            await self._given_back(before)

    async def log_tail(self, start: int | None = None) -> str:
        """The last of what was logged since `start`, by default since the process began."""
        return await asyncio.to_thread(_tail, self._frame.log, self._log_start if start is None else start)

    async def _move(self, work: Coroutine[Any, Any, None]) -> None:
        """Raises `Over` where `work` fails: an engine that is half asleep is of no use, and gets no grace."""
        log_start = _size(self._frame.log)
        try:
            await self.unless_over(work)
        except moving.TooSlow as slow:
            self._unwilling = True
            option = "start_seconds" if slow.path == moving.RELOAD else "hang_seconds"
            raise Over(Cause("too_slow", str(slow), f"Raise engines.{option} if it is that slow.")) from None
        except LocalFusionError as error:
            self._unwilling = True
            raise Over(await self._why_it_failed(error, "it answered with an error", log_start)) from error

    def _lifeless(self) -> Coroutine[Any, Any, object]:
        return asyncio.Event().wait() if self._watching is None else asyncio.wait({self._watching})

    def _watch(self) -> Coroutine[Any, Any, str]:
        frame = self._frame
        return until_lifeless(
            self.client,
            frame.settings.hang_seconds,
            frame.clock,
            working=lambda: self.phase == "awake",
            step_seconds=frame.step_seconds,
        )

    async def _found_dead(self) -> Cause:
        assert self._watching is not None
        sign, seconds = self._watching.result(), f"{self._frame.settings.hang_seconds:g} s"
        self._unwilling = True
        await self.client.aclose(f"was killed: it gave no sign of life for {seconds}")
        hint = "Raise engines.hang_seconds if it is that slow."
        return Cause("hung", f"no sign of life for {seconds}: it {sign}", hint)

    async def _why_it_exited(self) -> Cause:
        said, code = await self.log_tail(), await self._process.wait()
        cause = likely_cause(said, code)
        if cause.code == "killed" and self._oom_kills is not None and _oom_kills() != self._oom_kills:
            return OUT_OF_RAM
        return cause

    async def _why_it_failed(self, error: LocalFusionError, otherwise: str, log_start: int | None = None) -> Cause:
        """A dying engine first stops answering; what it logged and how it ended say more than that."""
        if log_start is not None:
            cause = likely_cause(await self.log_tail(log_start), None)
            if cause.code != "unknown":
                return cause
        patience = self._frame.clock.sleep(self._frame.settings.stop_seconds)
        ended = await first(self._stop_asked.wait(), self._process.wait(), patience)
        if ended == 0:
            raise Over(None)
        return await self._why_it_exited() if ended == 1 else Cause("failed", f"{otherwise}: {error.message}")

    async def _free(self) -> tuple[int | None, ...]:
        try:
            return await self._frame.claim.free()
        except DeviceGone:
            return ()

    async def _given_back(self, before: tuple[int | None, ...]) -> bool:
        try:
            return not before or await self._frame.claim.given_back(before, clock=self._frame.clock)
        except DeviceGone:
            return True


def _oom_kills() -> int | None:
    """Processes that the kernel has killed for lack of memory since it runs; None where it does not count them."""
    try:
        found = re.search(r"^oom_kill (\d+)$", _VMSTAT.read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found[1])


def _size(log: Path) -> int:
    try:
        return log.stat().st_size
    except OSError:
        return 0


def _tail(log: Path, start: int) -> str:
    """What was logged since `start`, at most the last of it."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, _size(log) - _LOG_TAIL_BYTES))
            return file.read(_LOG_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return ""
