"""The first thing a new user runs, the second time: `scripts/demo` from command to the end of its answer."""

from __future__ import annotations

import asyncio
import time
from asyncio.subprocess import PIPE
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure, Tell
from benchmarks.serving import ROOT, started
from local_fusion.errors import SetupError

TARGET = 75.0


@dataclass(slots=True)
class _Course:
    """When things happened, in seconds since the command."""

    engine_began: float = 0.0
    engine_ready: float = 0.0
    answered: float = 0.0


async def measure_demo(folder: Path, repeat: int, tell: Tell) -> Figure:
    """Seconds of `scripts/demo`, after a first run that does not count."""
    await _demo(folder)
    courses = []
    for number in range(repeat):
        courses.append(await _demo(folder))
        tell(f"demo {number + 1}/{repeat}: {courses[-1].answered:.1f} s")
    return Figure(
        "demo: from command to the end of the answer",
        "s",
        tuple(course.answered for course in courses),
        TARGET,
        details={
            "before_vllm_starts_seconds": round(median(course.engine_began for course in courses), 2),
            "vllm_start_seconds": round(median(course.engine_ready - course.engine_began for course in courses), 2),
            "fusion_seconds": round(median(course.answered - course.engine_ready for course in courses), 2),
        },
    )


async def _demo(folder: Path) -> _Course:
    course = _Course()
    began = time.monotonic()
    said: list[str] = []

    async def read_board(board: asyncio.StreamReader) -> None:
        async for line in board:
            said.append(line.decode(errors="replace").rstrip())
            if said[-1].startswith("… engine "):
                course.engine_began = time.monotonic() - began
            elif said[-1].startswith("✓ engine "):
                course.engine_ready = time.monotonic() - began

    async def read_answer(answer: asyncio.StreamReader) -> None:
        while await answer.read(4096):
            course.answered = time.monotonic() - began

    async with started([str(ROOT / "scripts" / "demo")], runtime=folder, stdout=PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.TaskGroup() as group:
            group.create_task(read_board(process.stderr))
            group.create_task(read_answer(process.stdout))
        code = await process.wait()
    if code != 0 or not 0 < course.engine_began < course.engine_ready < course.answered:
        words = "\n".join(f"  | {line}" for line in said[-20:])
        raise SetupError(f"scripts/demo ended with exit code {code} and did not go as expected; it said:\n{words}")
    return course
