"""Whoever starts engine processes: a small interface, so that a cluster can stand behind it, and this machine."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
from contextlib import ExitStack, suppress
from io import FileIO
from pathlib import Path
from typing import Protocol

from local_fusion.engines import warden
from local_fusion.engines.command import EngineCommand
from local_fusion.engines.runtime_folder import RuntimeFolder, kill_family
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
        with ExitStack() as on_failure, ExitStack() as passed_on:
            try:
                life_read, life = _pipe()
                passed_on.enter_context(life_read)
                on_failure.enter_context(life)  # closing it tells a warden that runs already to end
                status_read, status = _pipe()
                passed_on.enter_context(status)
                on_failure.enter_context(status_read)
                output = passed_on.enter_context(FileIO(log, "a", opener=_open_private))
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", warden.__file__, str(life_read.fileno()), str(status.fileno())),
                    *("--", *command.argv),
                    env=command.env,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(life_read.fileno(), status.fileno()),
                    start_new_session=True,
                )
            except OSError as error:
                raise SetupError(f"cannot start a process for {name}: {error}", hint=_hint(error)) from error
            passed_on.close()
            try:
                self._folder.remember(name, process.pid)
                engine = await _read_engine_pid(status_read, command, name)
            except (EngineStartFailed, SetupError):
                life.close()
                await process.wait()
                self._folder.forget(name)
                raise
            on_failure.pop_all()
        return LocalProcess(process, engine, life, name, self._folder)


class LocalProcess:
    """An engine on this machine; its warden carries out what is asked."""

    def __init__(
        self, process: asyncio.subprocess.Process, engine: int, life: FileIO, name: str, folder: RuntimeFolder
    ) -> None:
        self.pid = engine
        leader = warden.read_process(process.pid)
        self._started = 0 if leader is None else leader.started
        self._process = process
        self._life = life
        self._name = name
        self._folder = folder
        self._ended = asyncio.create_task(self._see_to_the_end(), name=f"process of {name}")

    async def wait(self) -> int:
        """See `EngineProcess.wait`."""
        return await asyncio.shield(self._ended)

    async def stop(self, grace: float) -> None:
        """See `EngineProcess.stop`."""
        if not self._life.closed:
            with suppress(BrokenPipeError):
                self._life.write(b"stop %.3f\n" % grace)
        done, _ = await asyncio.wait({self._ended}, timeout=grace + _KILL_SECONDS)
        if not done:
            raise EngineError(
                f"the processes of {self._name} (main process {self.pid}) do not end, not even when killed",
                hint="The kernel or a driver holds them: `ps -o pid,stat,wchan:30,cmd -s "
                f"{self._process.pid}` shows where. Restarting the machine helps.",
            )

    async def _see_to_the_end(self) -> int:
        code = await self._process.wait()
        self._life.close()
        if code < 0:
            # Somebody killed the warden, so nobody has looked after the family.
            await asyncio.to_thread(kill_family, self._process.pid, self._started)
            code = 128 - code
        self._folder.forget(self._name)
        return code


def _pipe() -> tuple[FileIO, FileIO]:
    read, write = os.pipe()
    return FileIO(read, "r"), FileIO(write, "w")


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


async def _read_engine_pid(status: FileIO, command: EngineCommand, name: str) -> int:
    """The engine's pid as its warden reports it. Closes `status`."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), status
    )
    try:
        lines = (await reader.read()).splitlines()
    finally:
        transport.close()
    said: dict[str, int | str] = {}
    for line in lines:
        said |= json.loads(line)
    if "error" in said:
        missing = said["errno"] in (errno.ENOENT, errno.EACCES, errno.ENOEXEC)
        raise EngineStartFailed(
            f"{name}: cannot run {command.argv[0]}: {said['error']}",
            hint="Run the set-up again: the Python that has vLLM is not there." if missing else "",
            permanent=missing,
        )
    if "engine" not in said:
        raise EngineStartFailed(f"{name}: its warden ended before it could start the engine")
    return int(said["engine"])


def _hint(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full: free some space, or set LOCAL_FUSION_RUNTIME to a folder elsewhere."
    if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return "A limit on processes, memory or open files is reached; see `ulimit -a`."
    return ""
