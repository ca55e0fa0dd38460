"""Engines that share devices: one moves at a time, none moves without a look at what is free."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local_fusion.config.schema import EngineSettings
from local_fusion.engines import devices
from local_fusion.engines.devices import Claim, DeviceLocks
from local_fusion.engines.engine import Engine
from local_fusion.errors import EngineStartFailed, MemoryTaken
from local_fusion.planner.memory.need import Overhead
from local_fusion.planner.plan import Placement
from tests.conftest import MakeEngine, placement
from tests.engines.states import asked, states
from tests.engines.waiting import alive, eventually
from tests.fake_engine import FakeHost, Script
from tests.ledger import Ledger

MIB = 1024**2
AWAKE, ASLEEP = 700 * MIB, 100 * MIB
SETTINGS = EngineSettings(stop_seconds=0.5)


def on_gpu(name: str, *gpus: int, **changes: Any) -> Placement:
    """A placement that takes 700 MiB of each GPU awake and 100 MiB asleep."""
    sizes = {"weights_bytes": 400 * MIB, "kv_cache_bytes": 200 * MIB, "overhead": Overhead(process=100 * MIB)}
    more = {"asleep": "level 1", "sleeping_bytes": ASLEEP, "tensor_parallel": len(gpus), **changes}
    return placement(name, kind="cuda", devices=gpus, **sizes, **more)


def script(**changes: Any) -> Script:
    """A fake engine that holds what the placement says."""
    return Script(**{"awake_bytes": AWAKE, "sleeping_bytes": ASLEEP, **changes})


@pytest.fixture
def ledger(tmp_path: Path, fake_host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Two GPUs of 1000 MiB each, and little patience."""
    monkeypatch.setattr(devices, "_PATIENCE", 0.5)
    fake_host.ledger = Ledger.create(tmp_path / "ledger", {0: 1000 * MIB, 1: 1000 * MIB})
    return fake_host.ledger


@pytest.fixture
def stranger(ledger: Ledger) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of ours, and ends with the test."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


Make = Any


@pytest.fixture
def make(make_engine: MakeEngine, ledger: Ledger) -> Make:
    """`make("qwen", 0, script=…)`: an engine on these GPUs that shares locks and probe with the others."""
    locks = DeviceLocks()

    def made(name: str, *gpus: int, script: Script | list[Script] = script(), **changes: Any) -> Engine:  # noqa: B008
        placed = on_gpu(name, *gpus, **changes)
        scripts = script if isinstance(script, list) else [script]
        return make_engine(name, *scripts, placed=placed, claim=Claim.of(placed, locks, ledger), settings=SETTINGS)

    return made


# --- one at a time ---


async def test_engines_on_one_gpu_start_one_after_the_other(make: Make, fake_host: FakeHost) -> None:
    first, second = make("a", 0, script=script(awake_bytes=1, sick_polls=3)), make("b", 0, script=script(awake_bytes=1))
    first.start()
    await eventually(lambda: first.snapshot.pid is not None)
    second.start()
    seen: list[tuple[str, bool]] = []
    second.subscribe(lambda now: seen.append((first.snapshot.state, now.pid is not None)))
    await asyncio.gather(first.ensure_awake(), second.ensure_awake())
    assert ("awake", True) in seen
    assert ("starting", True) not in seen


async def test_engines_on_different_gpus_start_at_the_same_time(make: Make) -> None:
    slow = script(never_healthy=True)
    first, second = make("a", 0, script=slow), make("b", 1, script=slow)
    first.start()
    second.start()
    await eventually(lambda: first.snapshot.pid is not None and second.snapshot.pid is not None)


async def test_engines_on_the_cpu_start_at_the_same_time() -> None:
    locks = DeviceLocks()

    async def both() -> None:
        async with Claim.of(placement("a"), locks).alone(), Claim.of(placement("b"), locks).alone():
            await asyncio.sleep(0)

    await asyncio.wait_for(both(), 1)


async def test_nobody_waits_in_a_circle_for_gpus_named_in_different_orders() -> None:
    locks = DeviceLocks()

    async def move(gpus: tuple[int, ...]) -> None:
        for _ in range(20):
            async with locks.hold(gpus):
                await asyncio.sleep(0)

    async with asyncio.timeout(5):
        await asyncio.gather(*(move(gpus) for gpus in ((0, 1, 2), (2, 1, 0), (1, 0), (2, 0))))


async def test_an_engine_that_waits_for_its_gpu_is_stopped_at_once(make: Make) -> None:
    first, second = make("a", 0, script=script(never_healthy=True)), make("b", 0)
    first.start()
    await eventually(lambda: first.snapshot.pid is not None)
    second.start()
    await eventually(lambda: second.snapshot.state == "starting")
    async with asyncio.timeout(2):
        await second.stop()
    assert second.snapshot.pid is None


async def test_two_engines_that_do_not_fit_together_take_turns_without_an_overdraft(make: Make, ledger: Ledger) -> None:
    first, second = make("a", 0), make("b", 0)
    for turn in range(2):
        for this, other in ((first, second), (second, first)):
            if turn or this is second:
                await other.sleep(1)
            await this.wake()
            assert await asked(this, "one") == "echo: one"
    assert ledger.overdrafts() == []
    assert ledger.held() == {0: AWAKE + ASLEEP, 1: 0}


# --- the look ---


async def test_memory_that_others_took_is_noticed_before_a_start_and_said_with_who_has_it(
    make: Make, ledger: Ledger, fake_host: FakeHost, stranger: subprocess.Popen[bytes]
) -> None:
    ledger.book({0: 900 * MIB}, pid=stranger.pid, name="python")
    engine = make("qwen", 0)
    with pytest.raises(MemoryTaken) as raised:
        await engine.wake()
    assert raised.value.message == (
        "GPU 0 has 100 MiB free of the 700 MiB that qwen needs: 900 MiB are held by others "
        f"(process {stranger.pid} python 900 MiB)"
    )
    assert raised.value.hint.startswith("End what else runs there, or leave it room in the plan (engines.gpu_reserve")
    assert engine.snapshot.state == "stopped"
    assert (engine.snapshot.last_error, engine.snapshot.hint) == (raised.value.message, raised.value.hint)
    assert fake_host.starts == {}

    stranger.kill()
    stranger.wait()
    await engine.wake()
    assert (engine.snapshot.last_error, engine.snapshot.hint) == (None, "")


async def test_this_servers_other_engines_are_not_named_as_those_who_took_the_memory(
    make: Make, ledger: Ledger, stranger: subprocess.Popen[bytes]
) -> None:
    await make("a", 0).wake()
    ledger.book({0: 50 * MIB}, pid=stranger.pid, name="python")
    with pytest.raises(MemoryTaken, match=r"needs: 50 MiB are held by others \(process \d+ python 50 MiB\)"):
        await make("b", 0).wake()
    ledger.book({}, pid=stranger.pid)
    with pytest.raises(MemoryTaken, match="nobody but this server's engines holds any of it") as raised:
        await make("c", 0).wake()
    assert raised.value.hint.startswith("They take more than was planned")


async def test_memory_that_others_took_is_noticed_before_a_wake_and_the_engine_sleeps_on(
    make: Make, ledger: Ledger, fake_host: FakeHost, stranger: subprocess.Popen[bytes]
) -> None:
    engine = make("qwen", 0)
    await engine.wake()
    await engine.sleep(1)
    ledger.book({0: 400 * MIB}, pid=stranger.pid, name="python")
    waiter = asyncio.create_task(engine.ensure_awake())
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(MemoryTaken, match=r"500 MiB free of the 600 MiB that qwen needs: 400 MiB are held by oth"):
            await engine.wake()
        assert engine.snapshot.state == "asleep"
    with pytest.raises(MemoryTaken):
        await waiter

    stranger.kill()
    stranger.wait()
    await engine.wake()
    assert engine.snapshot.last_error is None
    assert fake_host.starts["qwen"] == 1


async def test_memory_that_comes_back_late_is_waited_for(
    make: Make, ledger: Ledger, stranger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_PATIENCE", 30.0)
    ledger.book({0: 900 * MIB}, pid=stranger.pid)
    looks: list[int] = []
    free_bytes = ledger.free_bytes

    def look(device: int) -> int | None:
        looks.append(device)
        if len(looks) == 3:
            stranger.kill()
            stranger.wait()
        return free_bytes(device)

    monkeypatch.setattr(ledger, "free_bytes", look)
    engine = make("qwen", 0)
    await engine.wake()
    assert len(looks) >= 3


async def test_a_sleeper_that_keeps_its_memory_is_killed(make: Make, ledger: Ledger, fake_host: FakeHost) -> None:
    engine = make("qwen", 0, script=script(fail_sleep="hold"))
    await engine.wake()
    await engine.sleep(1)
    assert engine.snapshot.state == "stopped"
    assert engine.snapshot.last_error == ("qwen did not fall asleep: it says that it sleeps but still holds its memory")
    assert ledger.held() == {0: 0, 1: 0}


async def test_a_gpu_that_has_vanished_is_named_and_its_engine_not_started_again_and_again(
    make: Make, ledger: Ledger, fake_host: FakeHost
) -> None:
    engine = make("qwen", 0, 1)
    await engine.wake()
    ledger.gone.add(1)
    os.kill(fake_host.pids["qwen"][0], 9)
    await eventually(lambda: engine.snapshot.state == "broken")
    with pytest.raises(
        EngineStartFailed, match="qwen did not start: GPU 1 has vanished: NVML says Not Found"
    ) as raised:
        await engine.ensure_awake()
    assert raised.value.permanent
    assert fake_host.starts["qwen"] == 1


async def test_a_gpu_that_vanishes_while_its_engine_sleeps_ends_that_engine(
    make: Make, ledger: Ledger, fake_host: FakeHost
) -> None:
    engine = make("qwen", 0)
    await engine.wake()
    await engine.sleep(1)
    ledger.gone.add(0)
    with pytest.raises(EngineStartFailed, match="GPU 0 has vanished"):
        await engine.wake()
    assert engine.snapshot.state == "broken"
    assert not alive(fake_host.pids["qwen"][0])


async def test_a_driver_that_hangs_keeps_no_engine_from_being_stopped(
    make: Make, ledger: Ledger, fake_host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make("qwen", 0)
    await engine.wake()
    answers = threading.Event()
    monkeypatch.setattr(devices, "_DRIVER_SECONDS", 0.1)
    monkeypatch.setattr(ledger, "free_bytes", lambda device: answers.wait() and None)
    try:
        async with asyncio.timeout(5):
            await engine.stop()
    finally:
        answers.set()
    assert not alive(fake_host.pids["qwen"][0])


async def test_an_engine_that_is_lowered_needs_less_from_then_on(
    make: Make, ledger: Ledger, stranger: subprocess.Popen[bytes]
) -> None:
    out_of_memory = Script(crash_log="torch.OutOfMemoryError: CUDA out of memory.")
    engine = make(
        "qwen", 0, script=[out_of_memory, out_of_memory, script(awake_bytes=650 * MIB)], max_concurrent_requests=8.0
    )
    engine.start()
    await eventually(lambda: engine.snapshot.note is not None)
    ledger.book({0: 340 * MIB}, pid=stranger.pid)
    await engine.ensure_awake()
    assert ledger.held()[0] == (650 + 340) * MIB


async def test_while_it_waits_for_memory_the_states_tell_no_lies(
    make: Make, ledger: Ledger, stranger: subprocess.Popen[bytes]
) -> None:
    engine = make("qwen", 0)
    await engine.wake()
    await engine.sleep(1)
    ledger.book({0: 500 * MIB}, pid=stranger.pid)
    seen = states(engine)
    with pytest.raises(MemoryTaken):
        await engine.wake()
    assert seen == ["asleep"]


# --- the ledger itself ---


async def test_whoever_takes_more_than_there_is_is_killed_and_written_down(
    make_engine: MakeEngine, ledger: Ledger, fake_host: FakeHost
) -> None:
    placed = on_gpu("b", 0)
    first = make_engine("a", script(), placed=on_gpu("a", 0))
    second = make_engine("b", script(), placed=placed, settings=EngineSettings(stop_seconds=0.5, restarts=0))
    await first.wake()
    with pytest.raises(EngineStartFailed, match="was killed"):
        await second.wake()
    assert ledger.overdrafts() == [f"b took {AWAKE} of device 0: {2 * AWAKE} of {1000 * MIB} bytes were taken then"]
    assert ledger.held() == {0: AWAKE, 1: 0}
    assert await asked(first, "one") == "echo: one"
