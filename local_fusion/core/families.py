"""Starting a program as the child of a warden, so that nothing of its family outlives us, however we end."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from local_fusion.core import warden

Stream = FileIO | int  # an int as in `asyncio.subprocess`: PIPE, DEVNULL


@dataclass(frozen=True, slots=True)
class Family:
    """A program and all that descend from it. Its `warden` leads their session and ends once all of them are gone."""

    warden: asyncio.subprocess.Process
    started: int
    _life: FileIO
    _status: FileIO

    async def program(self) -> int:
        """The program's pid, once it runs; to be called once.

        Raises `OSError` where it cannot be run.
        """
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._status
        )
        try:
            lines = (await reader.read()).splitlines()
        finally:
            transport.close()
        said: dict[str, int | str] = {}
        for line in lines:
            said |= json.loads(line)
        if "error" in said:
            raise OSError(said["errno"], said["error"])
        if "program" not in said:
            raise ChildProcessError("its warden ended before it could start it")
        return int(said["program"])

    def ask_to_end(self, grace: float) -> None:
        """Have all of them end, and killed after `grace` seconds; again with less grace insists."""
        if not self._life.closed:
            with suppress(BrokenPipeError):
                self._life.write(b"stop %.3f\n" % grace)

    def close(self) -> None:
        """Let go: what still runs is ended as if we were gone."""
        self._life.close()
        if not self._status.closed:
            self._status.close()

    def kill(self) -> list[int]:
        """Kill what is left where somebody killed the warden; blocks for some seconds at most. The pids killed."""
        return warden.kill_family(self.warden.pid, self.started)


async def start_family(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
    cwd: Path | None = None,
) -> Family:
    """Start a warden that starts `argv`. Raises `OSError` where no process can be started."""
    # Cancelled half-way, asyncio would kill the warden, and what it has started by then would have none.
    starting = asyncio.ensure_future(_start(argv, env, (stdin, stdout, stderr), cwd))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with suppress(OSError):
            family = await starting
            family.ask_to_end(0)
            family.close()
        raise


async def _start(
    argv: Sequence[str], env: Mapping[str, str], streams: tuple[Stream, Stream, Stream], cwd: Path | None
) -> Family:
    with ExitStack() as on_failure, ExitStack() as passed_on:
        life_read, life = _pipe()
        passed_on.enter_context(life_read)
        on_failure.enter_context(life)  # closing it tells a warden that runs already to end
        status_read, status = _pipe()
        passed_on.enter_context(status)
        on_failure.enter_context(status_read)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", warden.__file__, str(life_read.fileno()), str(status.fileno())),
            *("--", *argv),
            env=env,
            cwd=cwd,
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            pass_fds=(life_read.fileno(), status.fileno()),
            start_new_session=True,
        )
        on_failure.pop_all()
    leader = warden.read_process(process.pid)
    return Family(process, 0 if leader is None else leader.started, life, status_read)


def _pipe() -> tuple[FileIO, FileIO]:
    read, write = os.pipe()
    return FileIO(read, "r"), FileIO(write, "w")
