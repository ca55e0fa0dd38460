"""A server left running, with keys and limits: clients of every kind, for minutes, over fake engines. Is it flat?"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from asyncio.subprocess import DEVNULL
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

import aiohttp
import psutil

from benchmarks.figures import Figure, Tell
from benchmarks.serving import ROOT, Served, started
from benchmarks.soak_clients import KINDS, PATIENCE_SECONDS, Crowd, Kind, Wrong
from local_fusion.server.guard.keys import hash_of, new_key

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # where `tests` is found

from tests.fake_engine import Script
from tests.serving import tiny_checkpoint

GROWTH = 1.05  # of memory, from the end of the warm-up to the end
WARM_UP = 0.2  # of the time: caches and pools fill
_ENGINES = ("a", "b")
_FUSIONS: dict[str, Any] = {
    "one": {"strategy": "single", "panel": ["a"]},
    "three": {
        "strategy": "synthesize",
        "panel": [{"model": "a", "samples": 2}, {"model": "b", "temperature": 1}],
        "judge": "b",
        "analysis": False,
    },
    "vote": {"strategy": "vote", "panel": [{"model": "a", "samples": 3, "temperature": 1}, "b"], "extract": "text"},
}
_TOKEN_SECONDS = 0.002
_SETTLE_SECONDS = 20.0  # in which connections kept alive, and whatever else nobody needs, must be gone
_LOOK_SECONDS, _SAME = 0.5, 6  # looks alike: for longer than connections to engines are kept alive for nothing
_TOLD = 20


@dataclass(frozen=True, slots=True)
class Sample:
    """What the server's process held at a moment, `at` seconds after the beginning. Memory in bytes."""

    at: float
    rss: int
    descriptors: int
    tasks: int
    threads: int
    children: int


@dataclass(slots=True)
class Soak:
    """What became of everything; `faults` are what must never happen."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    before: Sample | None = None
    after: Sample | None = None
    unanswered: int = 0
    seconds: float = 0.0

    @property
    def requests(self) -> int:
        """All that were made."""
        return sum(counts.total() for counts in self.outcomes.values())

    @property
    def warm(self) -> list[Sample]:
        """Those after the warm-up."""
        return [each for each in self.samples if each.at >= WARM_UP * self.seconds]

    @property
    def growth(self) -> float:
        """Memory at the end over that at the end of the warm-up, as the line of best fit goes."""
        warm = self.warm
        slope, start = linear_regression([each.at for each in warm], [each.rss for each in warm])
        return (start + slope * self.seconds) / (start + slope * warm[0].at)

    def note(self, kind: str, outcome: str) -> None:
        """One request more is over."""
        self.outcomes.setdefault(kind, Counter())[outcome] += 1

    def left_over(self) -> dict[str, int]:
        """How many more of each there are at the end than before, where nothing is done."""
        assert self.before is not None
        assert self.after is not None
        return {
            "descriptors": self.after.descriptors - self.before.descriptors,
            "tasks": self.after.tasks - self.before.tasks,
            "child processes": self.after.children - self.before.children,
        }


async def measure_soak(
    folder: Path, seconds: float, tell: Tell, *, at_once: int = 24, plot: Path | None = None, seed: int = 0
) -> list[Figure]:
    """Have `at_once` clients at any time ask for so many seconds."""
    soak = await soaked(folder, seconds, tell, at_once=at_once, seed=seed)
    for fault in soak.faults[:_TOLD]:
        tell(f"soak: {fault}")
    if plot is not None:
        from benchmarks.soak_plot import save_plot

        save_plot(soak, plot)
        tell(f"soak: drawn into {plot}")
    return figures(soak)


async def soaked(folder: Path, seconds: float, tell: Tell, *, at_once: int, seed: int = 0) -> Soak:
    """What became of it."""
    soak = Soak(seconds=seconds)
    async with _server(folder, random.Random(seed)) as (process, tasks, crowd):
        async with crowd.connected():
            paths = {kind.path for kind in KINDS}
            crowd.paths = frozenset([path for path in sorted(paths) if await _is_there(crowd, path)])
            kinds = [kind for kind in KINDS if kind.path in crowd.paths]
            for kind in kinds:  # each once, so that what is only made once is there before the first look
                await _once(crowd, kind, soak)
        soak.before = await _settled(process, tasks)
        tell(f"soak: {len(kinds)} kinds of clients, {at_once} at once, for {seconds:g} s")
        async with crowd.connected():
            await _soak(soak, crowd, kinds, at_once, lambda at: _sample(process, tasks, at), tell)
        soak.after = await _settled(process, tasks, soak.before)
    return soak


async def _soak(
    soak: Soak, crowd: Crowd, kinds: list[Kind], at_once: int, look: Callable[[float], Sample], tell: Tell
) -> None:
    began = time.monotonic()
    until = began + soak.seconds
    clients = [asyncio.create_task(_client(crowd, kinds, soak, until)) for _ in range(at_once)]
    every = max(0.25, min(5.0, soak.seconds / 60))
    while time.monotonic() < until:
        await asyncio.sleep(every)
        soak.samples.append(look(time.monotonic() - began))
        if len(soak.samples) % 12 == 0:
            last = soak.samples[-1]
            tell(
                f"soak: {last.at:.0f} s, {soak.requests} requests, {last.rss / 2**20:.0f} MiB, "
                f"{last.descriptors} descriptors, {last.tasks} tasks, {len(soak.faults)} faults"
            )
    _, late = await asyncio.wait(clients, timeout=2 * PATIENCE_SECONDS)
    soak.unanswered += len(late)
    for client in late:
        client.cancel()


async def _client(crowd: Crowd, kinds: list[Kind], soak: Soak, until: float) -> None:
    weights = [kind.weight for kind in kinds]
    while time.monotonic() < until:
        (kind,) = crowd.chance.choices(kinds, weights)
        await _once(crowd, kind, soak)


async def _once(crowd: Crowd, kind: Kind, soak: Soak) -> None:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            outcome = await kind.act(crowd)
    except TimeoutError:
        soak.unanswered += 1
        outcome = "UNANSWERED"
        soak.faults.append(f"{kind.name}: no answer within {PATIENCE_SECONDS:g} s")
    except (Wrong, aiohttp.ClientError, OSError, ValueError) as error:
        outcome = "WRONG"
        soak.faults.append(f"{kind.name}: {error!r}")
    soak.note(kind.name, outcome)


def _sample(process: psutil.Process, tasks: Path, at: float) -> Sample:
    with process.oneshot():
        return Sample(
            at,
            process.memory_info().rss,
            process.num_fds(),
            int(tasks.read_text()),
            process.num_threads(),
            len(process.children(recursive=True)),
        )


async def _settled(process: psutil.Process, tasks: Path, like: Sample | None = None) -> Sample:
    """How things are once nothing is done: as `like` says, or as they stay for a while."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    same, last = 0, _sample(process, tasks, 0.0)
    while time.monotonic() < deadline:
        await asyncio.sleep(_LOOK_SECONDS)
        now = _sample(process, tasks, 0.0)
        if like is not None and now.descriptors <= like.descriptors and now.tasks <= like.tasks:
            return now
        same = same + 1 if (now.descriptors, now.tasks) == (last.descriptors, last.tasks) else 0
        last = now
        if like is None and same >= _SAME:
            return now
    return last


@asynccontextmanager
async def _server(folder: Path, chance: random.Random) -> AsyncIterator[tuple[psutil.Process, Path, Crowd]]:
    """The server's process, the file that counts its tasks, and clients that know it."""
    runtime, tasks, keys = folder / "run", folder / "tasks", folder / "keys.yaml"
    runtime.mkdir(mode=0o700, exist_ok=True)
    admin, user, limited = new_key(), new_key(), new_key()
    keys.write_text(
        json.dumps(
            {
                "keys": [
                    {"name": "admin", "sha256": hash_of(admin.encode()), "role": "admin"},
                    {"name": "user", "sha256": hash_of(user.encode()), "requests_per_minute": 1_000_000},
                    {
                        "name": "limited",
                        "sha256": hash_of(limited.encode()),
                        "requests_per_minute": 30,
                        "tokens_per_minute": 1000,
                        "concurrent_requests": 1,
                    },
                ]
            }
        )
    )
    keys.chmod(0o600)
    models = {
        name: {"source": str(tiny_checkpoint(folder / name)), "max_model_len": 1024, "kv_cache_bytes": "1MiB"}
        for name in _ENGINES
    }
    config = folder / "soak.yaml"
    server = {"api_keys_file": str(keys), "header_seconds": 2, "body_seconds": 2, "log_level": "warning"}
    config.write_text(json.dumps({"models": models, "fusions": _FUSIONS, "server": server}))
    script = Script(token_seconds=_TOKEN_SECONDS, rules=[("", " ".join(f"word{number}" for number in range(40)))])
    program = str(Path(__file__).with_name("serve_without_vllm.py"))
    environment = {"FAKE_ENGINE": script.dumps(), "LOCAL_FUSION_STATE": str(folder / "state")}
    command = [sys.executable, program, str(config), "fake", str(tasks)]
    async with started(command, runtime=runtime, stdout=DEVNULL, environment=environment) as running:
        served = Served(running, runtime)
        await served.wait_until_listening()
        reading = asyncio.create_task(served.keep_reading())
        await served.wait_until("/ready")
        match = re.fullmatch(r"http://(.+):(\d+)", served.url)
        assert match is not None
        crowd = Crowd(match[1], int(match[2]), admin, user, limited, tuple(_FUSIONS), _ENGINES, chance)
        yield psutil.Process(running.pid), tasks, crowd
        reading.cancel()


async def _is_there(crowd: Crowd, path: str) -> bool:
    status, answer, _ = await crowd.post(path, {})
    return status not in (404, 405) or (b"no such path" not in answer and b"Not Found" not in answer)


def figures(soak: Soak) -> list[Figure]:
    """What came out, next to what it must be."""
    warm, name = soak.warm, f"soak, {soak.seconds:g} s"
    slope = linear_regression([each.at for each in warm], [each.rss / 2**20 for each in warm]).slope
    left = soak.left_over()
    table = {
        kind: {outcome: counts.get(outcome, 0) for outcome in _all_outcomes(soak)}
        for kind, counts in sorted(soak.outcomes.items())
    }
    return [
        Figure(
            f"{name}: unanswered of {soak.requests} requests",
            "",
            (float(soak.unanswered),),
            0,
            details={f"{name}: requests": table},
        ),
        Figure(f"{name}: answers that must not be", "", (float(len(soak.faults)),), 0),
        Figure(
            f"{name}: memory at the end / after warm-up",
            "×",
            (soak.growth,),
            GROWTH,
            details={
                "MiB_median": round(median(each.rss for each in warm) / 2**20, 1),
                "MiB_per_hour": round(3600 * slope, 2),
                "most_descriptors": max(each.descriptors for each in soak.samples),
                "most_tasks": max(each.tasks for each in soak.samples),
                "most_threads": max(each.threads for each in soak.samples),
                "samples": [asdict(each) for each in soak.samples],
            },
        ),
        Figure(
            f"{name}: descriptors, tasks and processes left over at the end",
            "",
            (float(sum(max(0, count) for count in left.values())),),
            0,
            details=left,
        ),
    ]


def _all_outcomes(soak: Soak) -> list[str]:
    return sorted({outcome for counts in soak.outcomes.values() for outcome in counts})
