"""`local-fusion serve` as it is, over programs that stand in for vLLM.

Run as `python serve_without_vllm.py CONFIG paced PORT` (paced engines; they listen on that port of loopback, beside
their sockets) or `… CONFIG fake TASKS` (the tests' fake engines, which do as `FAKE_ENGINE` says; how many asyncio tasks
there are in the server is written to the file TASKS, again and again).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where `local_fusion` and `tests` are found

from local_fusion.cli import serve
from local_fusion.engines.command import EngineCommand
from local_fusion.engines.host import EngineProcess, LocalHost
from local_fusion.engines.runtime_folder import RuntimeFolder
from local_fusion.runtime import Runtime, open_runtime

PACED_ENGINE = Path(__file__).with_name("paced_engine.py")
FAKE_ENGINE = Path(__file__).resolve().parents[2] / "tests" / "fake_engine.py"
_COUNT_SECONDS = 0.25


class StandInHost:
    """Starts `program` wherever vLLM is asked for."""

    def __init__(self, program: tuple[str, ...], folder: RuntimeFolder) -> None:
        self._program = program
        self._host = LocalHost(folder)

    async def start(self, command: EngineCommand, *, name: str, log: Path) -> EngineProcess:
        """See `EngineHost.start`."""
        argv = (sys.executable, *self._program, *command.argv[3:])  # after `python -m MODULE`
        env = {**command.env, "FAKE_ENGINE": os.environ.get("FAKE_ENGINE", "{}")}
        return await self._host.start(EngineCommand(argv, env), name=name, log=log)


@asynccontextmanager
async def counting(tasks: Path, opened: Any, *args: Any, **options: Any) -> AsyncIterator[Runtime]:
    """A runtime, and the tasks counted while it is open; by a timer, which is no task itself."""
    loop = asyncio.get_running_loop()
    timer: asyncio.Handle
    part = tasks.with_suffix(".part")

    def count() -> None:
        nonlocal timer
        part.write_text(f"{len(asyncio.all_tasks(loop))}\n")
        part.replace(tasks)
        timer = loop.call_later(_COUNT_SECONDS, count)

    timer = loop.call_soon(count)
    try:
        async with opened(*args, **options) as runtime:
            yield runtime
    finally:
        timer.cancel()


def main() -> None:
    config, kind, argument = sys.argv[1:]
    program = (str(PACED_ENGINE), "--tcp", argument) if kind == "paced" else (str(FAKE_ENGINE),)
    opened: Any = partial(open_runtime, make_host=partial(StandInHost, program))
    if kind == "fake":
        opened = partial(counting, Path(argument), opened)
    setattr(serve, "open_runtime", opened)  # noqa: B010 - it is the one that `serve` calls
    serve.run_serve(Path(config), None, 0)


if __name__ == "__main__":
    main()
