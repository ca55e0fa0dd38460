"""Many requests to a fleet in trouble, and whether each of them came to a good end."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import psutil

from tests.engines.waiting import alive
from tests.fleet.fleet import NAMES, Fleet, fleet, fleet_config
from tests.fleet.monkey import Defects, Monkey

PATIENCE = 600.0  # seconds; whoever is not answered by then never will be
_FORGOTTEN_AFTER = 20.0  # seconds; by then nothing is done any more for those who gave up, the monkey among them
_KINDS = ("whole",) * 7 + ("stream", "direct", "gives up")


@dataclass(frozen=True, slots=True)
class Weather:
    """How many requests, at the same time, to a panel of how many; seconds between two faults on average."""

    requests: int
    at_once: int
    members: int
    every: float
    seed: int = 0


@dataclass(slots=True)
class Story:
    """What became of everything. `faults` are what must never happen; memory is in bytes, taken as requests ended."""

    answered: int = 0
    partial: int = 0
    gave_up: int = 0
    calls: int = 0
    failed_calls: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    happened: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    swaps: int = 0
    starts: int = 0
    seconds: float = 0.0

    @property
    def ended(self) -> int:
        """Requests that came to an end."""
        return self.answered + self.gave_up + self.errors.total()

    def thirds(self) -> tuple[float, ...]:
        """The memory in the first, second and last third of the requests, as medians."""
        third = max(1, len(self.memory) // 3)
        return tuple(median(self.memory[part * third : (part + 1) * third]) for part in range(3))


async def storm(weather: Weather, folder: Path) -> Story:
    """Have all requests made while engines are in trouble. Leaves nothing behind, or says so among the faults."""
    story = Story()
    source = random.Random(weather.seed)
    config = fleet_config(weather.members)
    async with _nothing_left_behind(story):
        defects = Defects(random.Random(source.random()), story.happened)
        async with fleet(config, folder, defects) as served:
            defects.sizes |= {name: served.runtime.placement(name).awake_bytes for name in NAMES}
            began = time.monotonic()
            monkey = asyncio.create_task(
                Monkey(served, random.Random(source.random()), story.happened, weather.every).run()
            )
            try:
                await everybody(weather, served, story, lambda: source.choice(_KINDS))
            finally:
                monkey.cancel()
                await asyncio.wait({monkey})
            if not monkey.cancelled() and (error := monkey.exception()) is not None:
                story.faults.append(f"the monkey fell off its tree: {error!r}")
            story.seconds = time.monotonic() - began
            await look_at(served, story)
        pids = [pid for pids in served.host.pids.values() for pid in pids]
        story.faults += [f"process {pid} is left" for pid in pids if alive(pid)]
    return story


async def look_at(served: Fleet, story: Story) -> None:
    """Add what the scheduler and the ledger tell."""
    deadline = time.monotonic() + _FORGOTTEN_AFTER
    while True:
        overview = served.runtime.scheduler.overview()
        if not any(each.running or each.waiting for each in overview) or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.05)
    story.swaps = sum(each.swaps for each in overview)
    story.starts = sum(served.host.starts.values())
    story.faults += served.ledger.overdrafts()
    story.faults += [f"{each.name} still has calls" for each in overview if each.running or each.waiting]


async def everybody(weather: Weather, served: Fleet, story: Story, kind: Callable[[], str]) -> None:
    """Have all requests made, as many at the same time as `weather` says, each of a `kind`."""
    process = psutil.Process()
    numbers = iter(range(weather.requests))
    # Everybody's own connection, as with so many clients.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(
        served.url, connector=connector, timeout=aiohttp.ClientTimeout(PATIENCE)
    ) as session:

        async def client() -> None:
            for number in numbers:
                await _Client(session, weather.members, story, number).ask(kind())
                story.memory.append(process.memory_info().rss)

        await asyncio.gather(*(client() for _ in range(weather.at_once)))


@dataclass(slots=True)
class _Client:
    """One request, whose number is the mark that its answer must bear, and no other."""

    session: aiohttp.ClientSession
    members: int
    story: Story
    number: int

    async def ask(self, kind: str) -> None:
        mark, writer = f"«{self.number}»", NAMES[self.number % len(NAMES)]
        messages = [{"role": "user", "content": f"Sign this: {mark}"}]
        body: dict[str, Any] = {"model": f"by-{writer}", "messages": messages}
        try:
            match kind:
                case "whole":
                    await self._whole(body, mark, writer)
                case "stream":
                    await self._stream(body, mark, writer)
                case "direct":
                    await self._stream({**body, "model": writer}, mark, writer)
                case _:
                    await self._give_up(body, mark, writer)
        except TimeoutError:
            self._wrong("was not answered")
        except (aiohttp.ClientError, ValueError, KeyError) as error:
            self._wrong(f"({kind}) got no answer that can be read: {error!r}")

    async def _whole(self, body: dict[str, Any], mark: str, writer: str) -> None:
        body = {**body, "fusion": {"include": ["candidates"]}}
        async with self.session.post("/v1/chat/completions", json=body) as response:
            answer = await response.json()
        if response.status != 200:
            self._failed(response.status, answer)
            return
        told = answer["fusion"]
        candidates, failed = told["candidates"], told["failed"]
        absent = [each for each in failed if each["stage"] == "panel"]
        self.story.answered += 1
        self.story.partial += told["partial"]
        self.story.calls += self.members
        self.story.failed_calls += len(absent)
        if told["partial"] != bool(failed) or not all(each["code"] and each["message"] for each in failed):
            self._wrong(f"is not told honestly who failed: {failed}")
        seats = {each["member"] for each in (*candidates, *absent)}
        if len(seats) != self.members or len(candidates) + len(absent) != self.members:
            self._wrong(f"misses members: {len(candidates)} answered, {len(absent)} failed")
        for each in candidates:
            if each["text"] != f"{each['model']} {mark}" or not each["member"].startswith(f"{each['model']} #"):
                self._wrong(f"has a candidate of {each['member']} that says: {each['text']}")
        self._check(answer["choices"][0]["message"]["content"], mark, writer, told["notes"])

    async def _stream(self, body: dict[str, Any], mark: str, writer: str) -> None:
        text, error, done, notes = "", None, False, []
        async with self.session.post("/v1/chat/completions", json={**body, "stream": True}) as response:
            if response.status != 200:
                self._failed(response.status, await response.json())
                return
            async for line in response.content:
                if line.startswith(b"data: [DONE]"):
                    done = True
                elif line.startswith(b"data: "):
                    piece = json.loads(line[6:])
                    error = piece.get("error", error)
                    notes += piece.get("fusion", {}).get("notes", [])
                    text += "".join(choice["delta"].get("content") or "" for choice in piece.get("choices", ()))
        if error is not None:
            self._failed(200, {"error": error})
        elif not done:
            self._wrong(f"has a stream that just ends, after: {text}")
        else:
            self.story.answered += 1
            self._check(text, mark, writer, notes)

    def _check(self, text: str, mark: str, writer: str, notes: list[str]) -> None:
        """Where the writer failed before its first word the first candidate stands in, and notes say so."""
        if text not in ([f"{name} {mark}" for name in NAMES] if notes else [f"{writer} {mark}"]):
            self._wrong(f"has the answer: {text}")

    async def _give_up(self, body: dict[str, Any], mark: str, writer: str) -> None:
        try:
            async with asyncio.timeout(0.3 + self.number % 10 / 3):
                await self._whole(body, mark, writer)
        except TimeoutError:
            self.story.gave_up += 1

    def _failed(self, status: int, answer: dict[str, Any]) -> None:
        error = answer.get("error", {})
        self.story.errors[f"{status} {error.get('code')}"] += 1
        if not error.get("message") or not error.get("code") or status == 500 or error.get("code") == "internal_error":
            self._wrong(f"failed without a cause: {status} {answer}")
        others = set(re.findall("«([^»]*)»", json.dumps(answer, ensure_ascii=False))) - {str(self.number)}
        if others:
            self._wrong(f"is told of others: {others}")

    def _wrong(self, what: str) -> None:
        self.story.faults.append(f"request {self.number} {what}")


@asynccontextmanager
async def _nothing_left_behind(story: Story) -> AsyncIterator[None]:
    """Tasks, open files (sockets are such) and child processes are as before, or a fault says which are not."""
    # With the first listener, uvloop's libuv opens /dev/null for good: a file to close where there are too many.
    (await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)).close()
    tasks, files, children = asyncio.all_tasks(), _open_files(), set(psutil.Process().children(recursive=True))
    yield
    for _ in range(50):  # transports close in the next few turns of the loop, and what the kernel closes takes a while
        gc.collect()
        left = _open_files() - files
        if not left and asyncio.all_tasks() <= tasks:
            break
        await asyncio.sleep(0.05)
    story.faults += [f"a task is left: {task.get_name()}" for task in asyncio.all_tasks() - tasks]
    story.faults += [f"a file is left open: {each}" for each in left.elements()]
    story.faults += [f"a child is left: {each}" for each in set(psutil.Process().children(recursive=True)) - children]


def _open_files() -> Counter[str]:
    """What is open, without the numbers that make each socket and pipe another."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            found[re.sub(r":\[\d+\]", "", os.readlink(f"/proc/self/fd/{number}"))] += 1
        except OSError:  # the folder itself, as it was read
            continue
    return found
