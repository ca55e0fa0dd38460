"""How long our own programs take to start. Engines are left out: they start after the server listens."""

from __future__ import annotations

import resource
import sys
import time
from asyncio.subprocess import DEVNULL
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure, Tell
from benchmarks.serving import PROGRAM, serving, started
from local_fusion.errors import SetupError

TARGET = 1.5
FUSIONS = {"plain": {"strategy": "single", "panel": ["smollm2"]}}


Times = tuple[float, float]  # seconds of wall time and of the program's own CPU time


async def measure_startup(folder: Path, repeat: int, tell: Tell) -> list[Figure]:
    """Seconds from starting a program to its end, or (serve) to its first answer; once more before that, to warm up."""
    import_app = [sys.executable, "-c", "import local_fusion.server.app"]
    programs: list[tuple[str, Callable[[], Awaitable[Times]]]] = [
        ("startup: local-fusion --help", lambda: _to_its_end([PROGRAM, "--help"], folder)),
        ("startup: import local_fusion.server.app", lambda: _to_its_end(import_app, folder)),
        ("startup: local-fusion serve to its first answer", lambda: _to_first_answer(folder)),
    ]
    figures = []
    for name, time_it in programs:
        await time_it()
        values = []
        for number in range(repeat):
            values.append(await time_it())
            tell(f"{name} {number + 1}/{repeat}: {values[-1][0]:.2f} s")
        wall, cpu = zip(*values, strict=True)
        figures.append(Figure(name, "s", wall, TARGET, details={"cpu_seconds": round(median(cpu), 2)}))
    return figures


async def _to_its_end(command: list[str], folder: Path) -> Times:
    before, began = _cpu_of_children(), time.monotonic()
    async with started(command, runtime=folder, stdout=DEVNULL) as process:
        _, said = await process.communicate()
        seconds = time.monotonic() - began
    if process.returncode != 0:
        raise SetupError(f"{' '.join(command)} ended with exit code {process.returncode}: {said.decode()[-500:]}")
    return seconds, _cpu_of_children() - before


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def _to_first_answer(folder: Path) -> Times:
    began = time.monotonic()
    async with serving(FUSIONS, folder) as served:
        await served.wait_until("/health", poll=0.005)
        return time.monotonic() - began, served.cpu_seconds()
