from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from local_fusion.engines.command import EngineCommand
from local_fusion.engines.host import EngineProcess, LocalHost
from local_fusion.engines.runtime_folder import RuntimeFolder, clean_up_leftovers
from local_fusion.errors import EngineStartFailed, SetupError
from tests.engines.waiting import alive, eventually

# A family as vLLM's: a server, its engine core, and a worker that left the group; all but the first ignore SIGTERM.
FAMILY = """
import os, signal, subprocess, sys, time
depth = int(sys.argv[1])
if depth < 3:
    child = [sys.executable, "-I", "-S", __file__, str(depth + 1), sys.argv[2]]
    subprocess.Popen(child, start_new_session=depth == 2, stdout=subprocess.PIPE).stdout.readline()
if depth > int(os.environ.get("POLITE", "1")):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[2], "a") as file:
    file.write(f"{os.getpid()}\\n")
print("ready", flush=True)
time.sleep(600)
"""


class Family:
    def __init__(self, folder: Path) -> None:
        self.program = folder / "family.py"
        self.program.write_text(FAMILY)
        self.notes = folder / "pids"

    def command(self, **env: str) -> EngineCommand:
        argv = (sys.executable, "-I", "-S", str(self.program), "1", str(self.notes))
        return EngineCommand(argv, {**os.environ, **env})

    def pids(self) -> list[int]:
        """Worker, core, server; the last to be complete."""
        return [int(line) for line in self.notes.read_text().split()] if self.notes.exists() else []

    async def complete(self) -> list[int]:
        await eventually(lambda: len(self.pids()) == 3)
        return self.pids()

    async def gone(self, seconds: float) -> None:
        await eventually(lambda: not any(alive(pid) for pid in self.pids()), seconds)


@pytest.fixture
async def family(tmp_path: Path) -> AsyncIterator[Family]:
    made = Family(tmp_path)
    yield made
    for pid in filter(alive, made.pids()):  # only after a failed test
        os.kill(pid, signal.SIGKILL)


async def start(folder: RuntimeFolder, command: EngineCommand, name: str = "qwen") -> EngineProcess:
    return await LocalHost(folder).start(command, name=name, log=folder.log(name))


async def test_output_goes_to_the_log_and_the_exit_status_is_reported(runtime_folder: RuntimeFolder) -> None:
    script = "import sys; print('to stdout', flush=True); print('to stderr', file=sys.stderr); sys.exit(7)"
    command = EngineCommand((sys.executable, "-c", script), os.environ)
    for _ in range(2):
        assert await (await start(runtime_folder, command)).wait() == 7
    assert runtime_folder.log("qwen").read_text() == "to stdout\nto stderr\n" * 2


async def test_an_end_by_signal_is_reported_as_a_shell_does(runtime_folder: RuntimeFolder) -> None:
    command = EngineCommand((sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"), os.environ)
    assert await (await start(runtime_folder, command)).wait() == 128 + 11


async def test_the_environment_is_exactly_what_was_asked_for(runtime_folder: RuntimeFolder) -> None:
    command = EngineCommand(("/usr/bin/env",), {"ONLY": "this", "LC_ALL": "C.UTF-8"})
    await (await start(runtime_folder, command)).wait()
    assert runtime_folder.log("qwen").read_text() == "ONLY=this\nLC_ALL=C.UTF-8\n"


async def test_the_engine_inherits_no_descriptor_of_ours(runtime_folder: RuntimeFolder) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    command = EngineCommand((sys.executable, "-c", "import os; print(sorted(os.listdir('/proc/self/fd')))"), os.environ)
    await (await start(runtime_folder, command)).wait()
    os.close(read)
    os.close(write)
    assert runtime_folder.log("qwen").read_text() == "['0', '1', '2', '3']\n"  # 3 is the listing itself


async def test_a_missing_program_is_a_permanent_failure(runtime_folder: RuntimeFolder) -> None:
    with pytest.raises(EngineStartFailed, match="cannot run /nowhere/python: No such file or directory") as raised:
        await start(runtime_folder, EngineCommand(("/nowhere/python", "-m", "x"), os.environ))
    assert raised.value.permanent
    assert not list(runtime_folder.path.glob("*.family"))


async def test_a_log_that_cannot_be_written_is_a_setup_error(runtime_folder: RuntimeFolder) -> None:
    with pytest.raises(SetupError, match="cannot start a process for qwen"):
        await LocalHost(runtime_folder).start(
            EngineCommand(("/bin/true",), {}), name="qwen", log=runtime_folder.path / "missing" / "log"
        )


async def test_a_family_that_ends_politely_needs_no_grace(runtime_folder: RuntimeFolder, family: Family) -> None:
    process = await start(runtime_folder, family.command(POLITE="3"))
    await family.complete()
    began = time.monotonic()
    await process.stop(30)
    assert time.monotonic() - began < 10
    await family.gone(0)
    assert await process.wait() == 128 + signal.SIGTERM


async def test_a_family_that_ignores_sigterm_is_gone_after_the_grace(
    runtime_folder: RuntimeFolder, family: Family
) -> None:
    process = await start(runtime_folder, family.command(POLITE="0"))
    await family.complete()
    await process.stop(0.3)
    await family.gone(0)
    assert await process.wait() == 128 + signal.SIGKILL
    await process.stop(0.3)


KEEPS_SHARED_MEMORY = """
import signal, time
from multiprocessing.shared_memory import SharedMemory
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(SharedMemory(create=True, size=4096).name, flush=True)
time.sleep(600)
"""


async def test_an_engine_that_must_be_killed_leaves_no_shared_memory(runtime_folder: RuntimeFolder) -> None:
    process = await start(runtime_folder, EngineCommand((sys.executable, "-c", KEEPS_SHARED_MEMORY), os.environ))
    log = runtime_folder.log("qwen")
    await eventually(lambda: log.read_text().endswith("\n"))
    segment = Path("/dev/shm") / log.read_text().strip()
    assert segment.exists()
    try:
        await process.stop(0.1)
        assert not segment.exists()
    finally:
        segment.unlink(missing_ok=True)


async def test_what_only_looks_like_pythons_cleaner_is_killed_a_little_later(runtime_folder: RuntimeFolder) -> None:
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    argv = (sys.executable, "-c", f"{script} # multiprocessing.resource_tracker")
    process = await start(runtime_folder, EngineCommand(argv, os.environ))
    await eventually(lambda: runtime_folder.log("qwen").read_text() == "up\n")
    began = time.monotonic()
    await process.stop(0.1)
    assert 1 <= time.monotonic() - began < 7
    assert not alive(process.pid)


async def test_asking_again_with_less_grace_insists(runtime_folder: RuntimeFolder, family: Family) -> None:
    process = await start(runtime_folder, family.command(POLITE="0"))
    await family.complete()
    patient = asyncio.create_task(process.stop(300))
    await asyncio.sleep(0)
    await process.stop(0.1)
    await patient
    await family.gone(0)


async def test_when_the_main_process_dies_the_rest_of_its_family_is_killed(
    runtime_folder: RuntimeFolder, family: Family
) -> None:
    process = await start(runtime_folder, family.command())
    await family.complete()
    os.kill(process.pid, signal.SIGKILL)
    assert await process.wait() == 128 + signal.SIGKILL
    await family.gone(0)


async def test_when_the_warden_is_killed_the_family_dies_with_it(runtime_folder: RuntimeFolder, family: Family) -> None:
    process = await start(runtime_folder, family.command())
    worker, core, server = await family.complete()
    note = json.loads((runtime_folder.path / "qwen.family").read_text())
    os.kill(note["warden"], signal.SIGKILL)
    assert await process.wait() == 128 + signal.SIGKILL
    await eventually(lambda: not alive(server) and not alive(core))
    assert not list(runtime_folder.path.glob("*.family"))
    os.kill(worker, signal.SIGKILL)  # it had left the session, and its way back was lost with the warden


SERVER = """
    import asyncio, os, sys
    from local_fusion.engines.command import EngineCommand
    from local_fusion.engines.host import LocalHost
    from local_fusion.engines.runtime_folder import RuntimeFolder

    async def main():
        folder = RuntimeFolder.open()
        command = EngineCommand(tuple(sys.argv[1:]), os.environ)
        await LocalHost(folder).start(command, name="qwen", log=folder.log("qwen"))
        print("started", flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())
"""


def start_server(command: EngineCommand) -> subprocess.Popen[bytes]:
    """Another process that started an engine, as our server does."""
    argv = [sys.executable, "-c", textwrap.dedent(SERVER), *command.argv]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, env=command.env)
    assert server.stdout is not None
    assert server.stdout.readline() == b"started\n"
    return server


async def test_when_our_server_is_killed_nothing_of_the_engine_survives(
    runtime_folder: RuntimeFolder, family: Family
) -> None:
    server = await asyncio.to_thread(start_server, family.command(POLITE="0"))
    await family.complete()
    server.kill()
    server.wait()
    await family.gone(10)


async def test_the_next_start_cleans_up_after_a_server_and_a_warden_that_were_killed(
    runtime_folder: RuntimeFolder, family: Family
) -> None:
    server = await asyncio.to_thread(start_server, family.command(POLITE="0"))
    worker, core, main = await family.complete()
    (note,) = runtime_folder.path.parent.glob(f"{server.pid}-*/qwen.family")
    os.kill(server.pid, signal.SIGSTOP)  # so that it cannot look after the family once the warden is gone
    os.kill(json.loads(note.read_text())["warden"], signal.SIGKILL)
    await eventually(lambda: not alive(main))
    assert alive(core)
    server.kill()
    server.wait()

    (leftover,) = await asyncio.to_thread(clean_up_leftovers)

    assert leftover.server == server.pid
    assert core in leftover.killed
    assert not alive(core)
    assert not note.parent.exists()
    assert runtime_folder.path.exists(), "our own folder is in use"
    os.kill(worker, signal.SIGKILL)
