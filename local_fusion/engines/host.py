"""Whoever starts engine processes: a small interface, so that a cluster can stand behind it, and this machine."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Protocol

from local_fusion.core.families import Family, start_family
from local_fusion.engines.command import EngineCommand
from local_fusion.engines.runtime_folder import RuntimeFolder
from local_fusion.errors import EngineError, EngineStartFailed, SetupError

# After its grace has run out a family is killed; more than this means the kernel cannot end a process.
_KILL_SECONDS = 10.0


class EngineProcess(Protocol):
    """A running engine with all its helpers."""

    @property
    def pid(self) -> int:
        """The engine's main process."""
        ...

    async def wait(self) -> int:
        """Wait until the whole family is gone; the main process's exit status (128 + n where signal n ended it)."""
        ...

    async def stop(self, grace: float) -> None:
        """Ask the family to end, kill it after `grace` seconds, return when it is gone.

        May be called again, also meanwhile with less grace. Raises `EngineError` if the kernel does not end it.
        """
        ...


class EngineHost(Protocol):
    """Starts engine processes."""

    async def start(self, command: EngineCommand, *, name: str, log: Path) -> EngineProcess:
        """Start `command` as the engine `name`, its output appended to `log`.

        Raises `EngineStartFailed` where the program cannot be run, `SetupError` where this machine lacks something.
        """
        ...


class LocalHost:
    """Starts engines on this machine, each as the child of a warden that outlives us."""

    def __init__(self, folder: RuntimeFolder) -> None:
        self._folder = folder

    async def start(self, command: EngineCommand, *, name: str, log: Path) -> EngineProcess:
        """See `EngineHost.start`."""
        try:
            with FileIO(log, "a", opener=_open_private) as output:
                family = await start_family(
                    command.argv, env=command.env, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
                )
        except OSError as error:
            raise SetupError(f"cannot start a process for {name}: {error}", hint=_hint(error)) from error
        with ExitStack() as on_failure:
            on_failure.callback(family.close)
            try:
                self._folder.remember(name, family.warden.pid)
                engine = await family.program()
            except (OSError, SetupError) as error:
                family.close()
                await family.warden.wait()
                self._folder.forget(name)
                if isinstance(error, OSError):
                    raise _not_run(name, command, error) from None
                raise
            on_failure.pop_all()
        return LocalProcess(family, engine, name, self._folder)


class LocalProcess:
    """An engine on this machine; its warden carries out what is asked."""

    def __init__(self, family: Family, engine: int, name: str, folder: RuntimeFolder) -> None:
        self.pid = engine
        self._family = family
        self._name = name
        self._folder = folder
        self._ended = asyncio.create_task(self._see_to_the_end(), name=f"process of {name}")

    async def wait(self) -> int:
        """See `EngineProcess.wait`."""
        return await asyncio.shield(self._ended)

    async def stop(self, grace: float) -> None:
        """See `EngineProcess.stop`."""
        self._family.ask_to_end(grace)
        done, _ = await asyncio.wait({self._ended}, timeout=grace + _KILL_SECONDS)
        if not done:
            raise EngineError(
                f"the processes of {self._name} (main process {self.pid}) do not end, not even when killed",
                hint="The kernel or a driver holds them: `ps -o pid,stat,wchan:30,cmd -s "
                f"{self._family.warden.pid}` shows where. Restarting the machine helps.",
            )

    async def _see_to_the_end(self) -> int:
        code = await self._family.warden.wait()
        self._family.close()
        if code < 0:
            # Somebody killed the warden, so nobody has looked after the family.
            await asyncio.to_thread(self._family.kill)
            code = 128 - code
        self._folder.forget(self._name)
        return code


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _not_run(name: str, command: EngineCommand, error: OSError) -> EngineStartFailed:
    missing = error.errno in (errno.ENOENT, errno.EACCES, errno.ENOEXEC)
    return EngineStartFailed(
        f"{name}: cannot run {command.argv[0]}: {error.strerror or error}",
        hint="Run the set-up again: the Python that has vLLM is not there." if missing else "",
        permanent=missing,
    )


def _hint(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full: free some space, or set LOCAL_FUSION_RUNTIME to a folder elsewhere."
    if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return "A limit on processes, memory or open files is reached; see `ulimit -a`."
    return ""
