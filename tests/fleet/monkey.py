"""Whatever may happen to engines, at random: killed, frozen, out of memory, deaf, half closed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from tests.engines.waiting import alive
from tests.fake_engine import Script
from tests.fleet.fleet import LEFT, NAMES, Fleet

ANALYSIS = {
    "consensus": ["they all sign"],
    "contradictions": [],
    "partial_coverage": [],
    "unique_insights": [],
    "blind_spots": [],
}
_OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 MiB.\n"
# How many of a hundred processes have which defect from their birth.
_DEFECTS: tuple[tuple[int, str, dict[str, Any]], ...] = (
    (8, "out of memory at the start", {"crash_log": _OUT_OF_MEMORY}),
    (6, "out of memory on waking, and alive", {"fail_wake": "error"}),
    (6, "out of memory on waking, and gone", {"fail_wake": "exit"}),
    (4, "does not fall asleep", {"fail_sleep": "error"}),
    (4, "keeps its memory asleep", {"fail_sleep": "hold"}),
    (4, "dies asleep", {"die_asleep": True}),
    (4, "dies in the middle of an answer", {"die_after_tokens": 1}),
    (4, "half closes its answers", {"half_close_after_tokens": 1}),
    (4, "breaks off its answers", {"cut_after_tokens": 1}),
    (4, "errs in the middle of its answers", {"error_after_tokens": 1}),
)


@dataclass
class Defects(dict[str, Script | list[Script]]):
    """The script of each process that is started, by lot; while it is `calm`, all are well."""

    source: random.Random
    counts: Counter[str]
    token_seconds: float = 0.02
    calm: bool = False
    sizes: dict[str, int] = field(default_factory=dict)

    def get(self, name: str, default: Any = None) -> Script:
        well = Script(
            signed=True,
            json_reply=ANALYSIS,
            token_seconds=self.token_seconds,
            awake_bytes=self.sizes[name],
            sleeping_bytes=LEFT,
            sleep_seconds=0.02,
            wake_seconds=0.02,
            reload_seconds=0.02,
        )
        lot = self.source.randrange(100)
        for share, what, changes in () if self.calm else _DEFECTS:
            if lot < share:
                self.counts[what] += 1
                return replace(well, **changes)
            lot -= share
        return well


@dataclass
class Monkey:
    """Kills and freezes engines of a fleet, one every so many seconds on average, and has broken ones restarted."""

    fleet: Fleet
    source: random.Random
    counts: Counter[str]
    every: float

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._harm())
            both.create_task(self._mend())

    async def _harm(self) -> None:
        while True:
            await asyncio.sleep(self.source.expovariate(1 / self.every))
            # Whoever is frozen already is let alone: found and killed is what it is to be.
            running = [name for name in NAMES if self._pid(name) is not None]
            if not running:
                continue
            name = self.source.choice(running)
            what = self.source.choice((signal.SIGKILL, signal.SIGSTOP))
            with self.fleet.ledger.untouched():  # half a line in it would be nobody's fault
                pid = self._pid(name)
                if pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(pid, what)
                        self.counts["killed" if what is signal.SIGKILL else "frozen"] += 1

    async def _mend(self) -> None:
        """As somebody would who looks at `/admin/engines` now and then."""
        async with aiohttp.ClientSession(self.fleet.url) as session, asyncio.TaskGroup() as restarts:
            under_way: set[str] = set()

            async def restart(name: str) -> None:
                async with session.post(f"/admin/engines/{name}/restart") as response:
                    await response.read()
                under_way.remove(name)

            while True:
                await asyncio.sleep(0.5)
                for name, engine in self.fleet.runtime.engines.items():
                    if engine.snapshot.state == "broken" and name not in under_way:
                        self.counts["broken, and restarted by hand"] += 1
                        under_way.add(name)
                        restarts.create_task(restart(name))

    def _pid(self, name: str) -> int | None:
        pid = self.fleet.runtime.engines[name].snapshot.pid
        return pid if pid is not None and alive(pid) and not _frozen(pid) else None


def _frozen(pid: int) -> bool:
    from local_fusion.core.warden import read_process

    process = read_process(pid)
    return process is not None and process.state in "tT"
