"""What standing between a client and an engine costs: ours and the LiteLLM proxy, against the engine's own socket.

One run, sides in turns. The server under test, ours or theirs, has a core to itself where there are two; client and
engine share the others, the same for all sides.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil

from benchmarks.figures import Figure, Tell
from benchmarks.litellm_proxy import LITELLM, MODEL, free_port, litellm_proxy
from benchmarks.relay import relayed
from benchmarks.serving import ENGINE, ROOT, Served, serving, started
from benchmarks.streaming import Burst, Way, streams

FIRST_MS = 5.0
THROUGHPUT = 0.95
TIMES_LESS = 5.0
_REST_SECONDS, _LOOK_SECONDS = 20.0, 0.25
DIRECT, OURS, THEIRS = "direct", "local-fusion", "LiteLLM proxy"


@dataclass(frozen=True, slots=True)
class Level:
    """So many streams at once, `requests` in all, of so many tokens each."""

    name: str
    at_once: int
    requests: int
    tokens: int
    paced: bool = True


LEVELS = (
    Level("1 stream", 1, 40, 8),
    Level("32 streams", 32, 96, 64),
    Level("256 streams", 256, 512, 64),
    Level("32 streams, as fast as they are taken", 32, 96, 64, paced=False),
)
REAL_LEVELS = (Level("1 stream", 1, 20, 8), Level("32 streams", 32, 64, 32))


@dataclass(slots=True)
class Side:
    """One way to the engine, the process in between (None for the direct way), and what it showed at each level."""

    way: Way
    process: psutil.Process | None
    bursts: dict[Level, list[Burst]] = field(default_factory=dict)
    cpu: dict[Level, list[float]] = field(default_factory=dict)  # seconds of the process in between, for each burst

    async def measure(self, level: Level, body: Callable[[int], dict[str, Any]], mark: bytes) -> None:
        """One burst more."""
        bodies = [body(number) | {"max_tokens": level.tokens} for number in range(level.requests)]
        if not level.paced:
            bodies = [each | {"user": "unpaced"} for each in bodies]
        before = self.cpu_seconds()
        burst = await streams(self.way, bodies, level.at_once, mark=mark, tokens=level.tokens)
        self.bursts.setdefault(level, []).append(burst)
        self.cpu.setdefault(level, []).append(self.cpu_seconds() - before)

    def first_ms(self, level: Level, share: float = 0.5) -> float:
        """Milliseconds to the first token, over all bursts: the median, or so high a quantile."""
        all_first = [seconds for burst in self.bursts[level] for seconds in burst.first]
        return 1000 * quantiles(all_first, n=100, method="inclusive")[round(100 * share) - 1]

    def tokens_per_second(self, level: Level) -> float:
        """The median over bursts."""
        return median(burst.tokens_per_second for burst in self.bursts[level])

    def cpu_us(self, level: Level) -> float:
        """Microseconds of processor time for each token, of the process in between."""
        used = zip(self.cpu[level], self.bursts[level], strict=True)
        return 1e6 * median(seconds / burst.tokens for seconds, burst in used)

    def cpu_seconds(self) -> float:
        """Processor time of the process in between so far."""
        if self.process is None:
            return 0.0
        times = self.process.cpu_times()
        return float(times.user + times.system)


async def measure_overhead(folder: Path, repeat: int, tell: Tell, *, real: bool = False) -> list[Figure]:
    """Added time to the first token, throughput and processor time, each level `repeat` times for every side."""
    async with (_real if real else _paced)(folder, tell) as sides:
        levels = REAL_LEVELS if real else LEVELS
        body, mark = (_prompt, b'"content":"') if real else (_short, b'"content":"first"')
        for side in sides:  # the first time is slow everywhere
            await side.measure(Level("warm-up", 4, 8, 8), body, mark)
        for number in range(repeat):
            for level in levels:
                turned = number % len(sides)
                for side in (*sides[turned:], *sides[:turned]):
                    await _at_rest(sides)
                    await side.measure(level, body, mark)
                told = ", ".join(
                    f"{side.way.name} {1000 * median(side.bursts[level][-1].first):.2f} ms"
                    f" {side.bursts[level][-1].tokens_per_second:.0f} tokens/s"
                    for side in sides
                )
                tell(f"overhead {number + 1}/{repeat}, {level.name}: {told}")
        return _figures(sides, levels, "SmolLM2 on vLLM" if real else "a paced engine")


async def _at_rest(sides: list[Side]) -> None:
    """Wait until no server works any more on what it was asked before: they share a core."""
    deadline = asyncio.get_running_loop().time() + _REST_SECONDS
    before: list[float] = []
    while (now := [side.cpu_seconds() for side in sides]) != before:
        if asyncio.get_running_loop().time() > deadline:
            return
        before = now
        await asyncio.sleep(_LOOK_SECONDS)


def _figures(sides: list[Side], levels: tuple[Level, ...], over: str) -> list[Figure]:
    direct, ours, *others = sides
    alone, crowd = levels[0], levels[1]
    tables = {f"{level.name}, over {over}": _table(sides, level) for level in levels}
    figures = [
        Figure(
            f"overhead: added time to the first token at {alone.name}, over {over}",
            "ms",
            tuple(_added(ours, direct, alone)),
            FIRST_MS,
            details=tables,
        ),
        Figure(
            f"overhead: tokens/s at {crowd.name}, ours / directly, over {over}",
            "×",
            tuple(_ratios(ours, direct, crowd)),
            THROUGHPUT,
            at_least=True,
        ),
    ]
    for other in others:
        added = [
            theirs / max(mine, 1e-3)
            for theirs, mine in zip(_added(other, direct, alone), _added(ours, direct, alone), strict=True)
        ]
        used = zip(other.cpu[crowd], ours.cpu[crowd], strict=True)
        figures += [
            Figure(
                f"overhead: added time to the first token at {alone.name}, {other.way.name} / ours, over {over}",
                "×",
                tuple(added),
                TIMES_LESS,
                at_least=True,
            ),
            Figure(
                f"overhead: processor time at {crowd.name}, {other.way.name} / ours, over {over}",
                "×",
                tuple(theirs / max(mine, 1e-3) for theirs, mine in used),
                TIMES_LESS,
                at_least=True,
            ),
        ]
    return figures


def _added(side: Side, direct: Side, level: Level) -> list[float]:
    """Milliseconds added to the median first token, for each burst."""
    both = zip(side.bursts[level], direct.bursts[level], strict=True)
    return [1000 * (median(burst.first) - median(bare.first)) for burst, bare in both]


def _ratios(side: Side, direct: Side, level: Level) -> list[float]:
    both = zip(side.bursts[level], direct.bursts[level], strict=True)
    return [burst.tokens_per_second / bare.tokens_per_second for burst, bare in both]


def _table(sides: list[Side], level: Level) -> dict[str, dict[str, Any]]:
    """A row for each side."""
    direct = sides[0]
    return {
        side.way.name: {
            "first token p50, ms": round(side.first_ms(level), 2),
            "p99, ms": round(side.first_ms(level, 0.99), 2),
            "added p50, ms": round(side.first_ms(level) - direct.first_ms(level), 2),
            "added p99, ms": round(side.first_ms(level, 0.99) - direct.first_ms(level, 0.99), 2),
            "tokens/s": round(side.tokens_per_second(level)),
            "of direct": round(median(_ratios(side, direct, level)), 3),
            "cpu per token, µs": round(side.cpu_us(level), 1),
            "reconnects": sum(burst.reconnects for burst in side.bursts[level]),
        }
        for side in sides
    }


def _short(number: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"Tell me about the number {number}."}]}


def _prompt(number: int) -> dict[str, Any]:
    return {**_short(number), "temperature": 0, "ignore_eos": True}


@asynccontextmanager
async def _paced(folder: Path, tell: Tell) -> AsyncIterator[list[Side]]:
    """All sides over one paced engine, each server on a core of its own where there are two."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # where `tests` is found
    from tests.serving import tiny_checkpoint

    runtime, engine_port = folder / "run", free_port()
    runtime.mkdir(mode=0o700, exist_ok=True)
    most = max(level.at_once for level in LEVELS)
    model = {"source": str(tiny_checkpoint(folder / ENGINE)), "max_model_len": 4096, "max_num_seqs": most}
    config = folder / "overhead.yaml"
    config.write_text(json.dumps({"models": {ENGINE: model}}))
    command = [
        sys.executable,
        str(Path(__file__).with_name("serve_without_vllm.py")),
        str(config),
        "paced",
        str(engine_port),
    ]
    cores = sorted(os.sched_getaffinity(0))
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(started(command, runtime=runtime, stdout=DEVNULL))
        served = Served(process, runtime)
        await served.wait_until_listening()
        reading = asyncio.create_task(served.keep_reading())
        stack.callback(reading.cancel)
        await served.wait_until("/ready")
        sides = await _sides(stack, served, engine_port, folder, tell)
        if len(cores) > 1:
            stack.callback(os.sched_setaffinity, 0, cores)
            os.sched_setaffinity(0, cores[:-1])
            for each in psutil.Process(process.pid).children(recursive=True):
                each.cpu_affinity(cores[:-1])
            for side in sides:
                if side.process is not None:
                    side.process.cpu_affinity(cores[-1:])
        yield sides


@asynccontextmanager
async def _real(folder: Path, tell: Tell) -> AsyncIterator[list[Side]]:
    """All sides over vLLM, which has a Unix socket only: LiteLLM comes to it through a relay."""
    tell("starting the engine, without a prefix cache")
    async with serving({}, folder, prefix_cache=False) as served, AsyncExitStack() as stack:
        await served.wait_until("/ready")
        engine_port = await stack.enter_async_context(relayed(served.engine_socket))
        yield await _sides(stack, served, engine_port, folder, tell)


async def _sides(stack: AsyncExitStack, served: Served, engine_port: int, folder: Path, tell: Tell) -> list[Side]:
    port = re.search(r":(\d+)$", served.url)
    assert port is not None
    sides = [
        Side(Way(DIRECT, served.engine_socket, ENGINE), None),
        Side(Way(OURS, int(port[1]), ENGINE), psutil.Process(served.process.pid)),
    ]
    if not LITELLM.python.is_file():
        where = LITELLM.python.parents[1]
        tell(f"LiteLLM is not installed: python3 -m venv {where} && {where}/bin/pip install {LITELLM.install}")
        return sides
    tell("starting the LiteLLM proxy")
    theirs, process = await stack.enter_async_context(litellm_proxy(engine_port, ENGINE, folder))
    return [*sides, Side(Way(THEIRS, theirs, MODEL), process)]
