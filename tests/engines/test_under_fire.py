"""Engines that crash, freeze and run out of memory: calls end at once with a cause, and the engine comes back."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from local_fusion.config.schema import EngineSettings
from local_fusion.core.warden import all_processes
from local_fusion.engines import life
from local_fusion.engines.clock import Clock
from local_fusion.engines.engine import Engine
from local_fusion.errors import EngineDied, EngineStartFailed, EngineUnavailable
from tests.conftest import MakeEngine, placement
from tests.engines.states import asked, states
from tests.engines.waiting import alive, eventually, recorded
from tests.fake_engine import FakeHost, Script

OUT_OF_MEMORY = Script(crash_log="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
ROOMY = placement("qwen", kind="cuda", kv_cache_bytes=2**30, max_concurrent_requests=8.0, asleep="level 1")


def quick(**changes: Any) -> EngineSettings:
    return EngineSettings(**{"stop_seconds": 0.5, **changes})


def happened(record: Path, event: str) -> Callable[[], bool]:
    return lambda: any(entry["event"] == event for entry in recorded(record))


# --- crash ---


async def test_calls_in_flight_end_at_once_when_the_engine_is_killed(
    make_engine: MakeEngine, fake_host: FakeHost, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    engine = make_engine("qwen", Script(hold_after_tokens=1, record=str(record)))
    await engine.wake()
    answer = asyncio.create_task(asked(engine, "one two"))
    await eventually(happened(record, "holding"))
    os.kill(fake_host.pids["qwen"][0], signal.SIGKILL)
    with pytest.raises(EngineDied, match="qwen went away in the middle of a call"):
        async with asyncio.timeout(2):
            await answer


async def test_a_socket_that_is_closed_halfway_ends_the_call_at_once(make_engine: MakeEngine, tmp_path: Path) -> None:
    record = tmp_path / "record"
    engine = make_engine("qwen", Script(half_close_after_tokens=2, record=str(record)))
    await engine.wake()
    with pytest.raises(EngineDied, match="qwen"):
        async with asyncio.timeout(2):
            await asked(engine, "one two three")
    assert happened(record, "half closed")()
    assert engine.snapshot.state == "awake"


async def test_what_an_engine_said_last_is_shown_while_it_is_down(make_engine: MakeEngine) -> None:
    log = "\n".join(f"line {number}" for number in range(30))
    engine = make_engine("qwen", Script(crash_log=log), Script(), settings=quick(restarts=1))
    engine.start()
    await eventually(lambda: engine.snapshot.state == "backing_off")
    assert (engine.snapshot.log_tail or "").splitlines() == [f"line {number}" for number in range(10, 30)]
    await engine.ensure_awake()
    assert engine.snapshot.log_tail is None


async def test_a_streamed_answer_ends_when_the_engine_is_stopped(make_engine: MakeEngine, tmp_path: Path) -> None:
    record = tmp_path / "record"
    engine = make_engine("qwen", Script(hold_after_tokens=1, record=str(record)))
    await engine.wake()
    answer = asyncio.create_task(asked(engine, "one two"))
    await eventually(happened(record, "holding"))
    await engine.stop()
    with pytest.raises(EngineDied, match="qwen went away"):
        async with asyncio.timeout(2):
            await answer


async def test_once_its_socket_is_dead_calls_wait_for_the_new_process_and_not_for_an_error(
    make_engine: MakeEngine, fake_host: FakeHost, tmp_path: Path
) -> None:
    """A helper that will not end keeps the family of the dead process for three seconds."""
    engine = make_engine("qwen", Script(grandchild=str(tmp_path / "helper")), Script(), settings=quick())
    await engine.wake()
    os.kill(fake_host.pids["qwen"][0], signal.SIGKILL)
    await eventually(lambda: not alive(fake_host.pids["qwen"][0]))

    async def ask_until_refused() -> None:
        with suppress(EngineDied):  # over a kept connection, whose end may not have been noticed yet
            await asked(engine, "nothing")
        await asked(engine, "one")

    with pytest.raises(EngineUnavailable, match="does not accept connections"):
        await ask_until_refused()
    assert engine.snapshot.state == "awake", "its family was gone too soon for this test"
    assert await asked(engine, "two") == "echo: two"
    assert fake_host.starts["qwen"] == 2


# --- hang ---


async def test_a_frozen_engine_is_killed_and_comes_back_and_its_calls_are_told(
    make_engine: MakeEngine, fake_host: FakeHost, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    scripts = (Script(hold_after_tokens=1, record=str(record)), Script())
    engine = make_engine("qwen", *scripts, settings=quick(hang_seconds=0.4))
    await engine.wake()
    answer = asyncio.create_task(asked(engine, "one two"))
    await eventually(happened(record, "holding"))
    os.kill(fake_host.pids["qwen"][0], signal.SIGSTOP)
    with pytest.raises(EngineDied, match=r"qwen was killed: it gave no sign of life for 0\.4 s"):
        await answer
    await eventually(lambda: engine.snapshot.state == "backing_off")
    assert engine.snapshot.last_error == (
        "qwen hung: no sign of life for 0.4 s: it neither said that it is well nor gave a piece of an answer"
    )
    assert engine.snapshot.hint == "Raise engines.hang_seconds if it is that slow."
    assert not alive(fake_host.pids["qwen"][0])
    assert await asked(engine, "one") == "echo: one"


async def test_a_frozen_core_behind_a_healthy_server_is_found_by_its_steps(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    scripts = (Script(hold_after_tokens=2, record=str(record)), Script())
    engine = make_engine("qwen", *scripts, settings=quick(hang_seconds=0.4))
    await engine.wake()
    with pytest.raises(EngineDied, match="was killed: it gave no sign of life"):
        await asked(engine, "one two three")
    await eventually(lambda: engine.snapshot.state == "backing_off")
    assert "did not take a step although 1 calls were in flight" in (engine.snapshot.last_error or "")
    assert await asked(engine, "one") == "echo: one"


async def test_an_engine_that_takes_steps_is_not_killed_however_long_it_says_nothing(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    script = Script(hold_after_tokens=2, steps_while_silent=True, record=str(record))
    engine = make_engine("qwen", script, settings=quick(hang_seconds=0.4))
    await engine.wake()
    answer = asyncio.create_task(asked(engine, "one two three"))
    await asyncio.wait({answer}, timeout=1.5)
    assert not answer.done()
    assert engine.snapshot.state == "awake"
    answer.cancel()


async def test_an_engine_is_not_killed_for_a_client_that_is_slow_to_read(make_engine: MakeEngine) -> None:
    engine = make_engine("qwen", settings=quick(hang_seconds=0.4))
    await engine.wake()
    client = await engine.ensure_awake()
    body = b'{"model": "qwen", "stream": true, "messages": [{"role": "user", "content": "one two"}]}'
    response = await client.forward("POST", "/v1/chat/completions", {"Content-Type": "application/json"}, body)
    pieces = response.body()
    read = [await anext(pieces)]
    ended = states(engine)
    await asyncio.sleep(1.5)  # several times as long as it may be silent
    assert ended == []
    assert client.in_flight == 1
    read += [piece async for piece in pieces]
    assert b"[DONE]" in b"".join(read)


# --- out of memory ---


def kv_bytes(fake_host: FakeHost) -> list[int]:
    """The KV cache that each start was given."""
    argvs = [command.argv for command in fake_host.commands["qwen"]]
    return [int(argv[argv.index("--kv-cache-memory-bytes") + 1]) for argv in argvs]


async def test_two_starts_without_enough_memory_lower_the_kv_cache_once_and_say_so(
    make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    engine = make_engine("qwen", OUT_OF_MEMORY, OUT_OF_MEMORY, Script(), placed=ROOMY, settings=quick(restarts=1))
    await engine.wake()
    assert kv_bytes(fake_host) == [2**30, 2**30, 3 * 2**28]
    assert engine.snapshot.note == "KV cache lowered from 1 GiB to 768 MiB after running out of memory twice"
    await engine.stop()
    await engine.wake()
    assert kv_bytes(fake_host)[-1] == 3 * 2**28


async def test_an_engine_that_runs_out_of_memory_with_the_smaller_cache_too_is_broken_and_says_all_that(
    make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    engine = make_engine("qwen", OUT_OF_MEMORY, placed=ROOMY, settings=quick(restarts=5))
    with pytest.raises(EngineStartFailed, match=r"the GPU's memory ran out.*; KV cache lowered from 1 GiB to 768 MiB"):
        await engine.wake()
    assert engine.snapshot.state == "broken"
    assert kv_bytes(fake_host) == [2**30, 2**30, 3 * 2**28]
    assert "torch.OutOfMemoryError" in (engine.snapshot.log_tail or "")


async def test_other_failures_in_between_do_not_add_up_to_running_out_of_memory_twice(
    make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    scripts = (OUT_OF_MEMORY, Script(crash_log="RuntimeError: bad luck"), OUT_OF_MEMORY, Script())
    engine = make_engine("qwen", *scripts, placed=ROOMY, settings=quick())
    await engine.wake()
    assert set(kv_bytes(fake_host)) == {2**30}
    assert engine.snapshot.note is None


async def test_running_out_of_memory_on_waking_and_on_the_fresh_start_counts_as_twice(
    make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    scripts = (Script(fail_wake="error"), OUT_OF_MEMORY, Script())
    engine = make_engine("qwen", *scripts, placed=ROOMY, settings=quick())
    await engine.wake()
    await engine.sleep(1)
    await engine.wake()
    assert kv_bytes(fake_host) == [2**30, 2**30, 3 * 2**28]
    assert await asked(engine, "one") == "echo: one"


@pytest.mark.parametrize(("seconds", "lowered"), [(0, True), (300, False)])
async def test_running_out_of_memory_on_waking_once_in_a_while_is_not_twice_in_a_row(
    seconds: float, lowered: bool, make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    later = 0.0
    clock = Clock(now=lambda: time.monotonic() + later)
    scripts = (Script(fail_wake="error"), Script(fail_wake="error"), Script())
    engine = make_engine("qwen", *scripts, placed=ROOMY, settings=quick(), clock=clock)
    await engine.wake()
    await engine.sleep(1)
    await engine.wake()
    await engine.sleep(1)
    later = seconds
    await engine.wake()
    assert fake_host.starts["qwen"] == 3
    assert (kv_bytes(fake_host)[-1] < 2**30) is lowered


async def test_being_killed_counts_as_running_out_of_memory_only_where_the_kernel_says_that_it_did_it(
    make_engine: MakeEngine, fake_host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("pgfault 7\noom_kill 3\n")
    monkeypatch.setattr(life, "_VMSTAT", counters)
    engine = make_engine("qwen", placed=ROOMY, settings=quick(restarts=9))
    await engine.wake()
    os.kill(fake_host.pids["qwen"][0], signal.SIGKILL)
    await eventually(lambda: len(fake_host.pids["qwen"]) == 2)
    assert "it was killed (SIGKILL)" in (engine.snapshot.last_error or "")
    for number in (1, 2):
        await engine.ensure_awake()
        counters.write_text(f"pgfault 9\noom_kill {3 + number}\n")
        os.kill(fake_host.pids["qwen"][number], signal.SIGKILL)
        await eventually(lambda number=number: len(fake_host.pids["qwen"]) == number + 2)  # type: ignore[misc]
        assert "the kernel killed it because the machine's memory ran out" in (engine.snapshot.last_error or "")
    await engine.ensure_awake()
    assert kv_bytes(fake_host) == [2**30, 2**30, 2**30, 3 * 2**28]


async def test_an_engine_whose_cache_holds_one_request_cannot_have_less(
    make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    engine = make_engine("qwen", OUT_OF_MEMORY, settings=quick(restarts=2))
    with pytest.raises(EngineStartFailed, match=r"\(3 times in a row\)"):
        await engine.wake()
    assert len(set(kv_bytes(fake_host))) == 1


# --- a full disk ---


def children() -> set[int]:
    """Processes that we have started."""
    return {process.pid for process in all_processes().values() if process.parent == os.getpid()}


async def test_a_log_on_a_full_disk_does_not_keep_an_engine_from_working(
    make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    engine = make_engine("qwen", log=Path("/dev/full"), settings=quick(restarts=0))
    await engine.wake()
    assert await asked(engine, "one") == "echo: one"
    os.kill(fake_host.pids["qwen"][0], signal.SIGKILL)
    await eventually(lambda: engine.snapshot.state == "broken")
    assert "was killed (SIGKILL)" in (engine.snapshot.last_error or "")


async def test_a_runtime_folder_on_a_full_disk_is_named_and_tried_again(
    make_engine: MakeEngine, fake_host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, full, before = Path.write_text, [True, True], children()

    def write_while_there_is_room(path: Path, *args: Any, **options: Any) -> int:
        if path.suffix == ".family" and full:
            full.pop()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, *args, **options)

    monkeypatch.setattr(Path, "write_text", write_while_there_is_room)
    engine = make_engine("qwen", settings=quick(restarts=1))
    engine.start()
    await eventually(lambda: engine.snapshot.state == "backing_off")
    assert children() == before, "a process was left behind that nobody has a note of"
    assert re.search(r"did not start: cannot write to .*: No space left on device", engine.snapshot.last_error or "")
    with pytest.raises(EngineStartFailed, match="No space left on device") as raised:
        await engine.ensure_awake()
    assert "Free some space" in raised.value.hint
    await engine.wake()
    assert await asked(engine, "one") == "echo: one"


# --- orders in the middle of it all ---


async def test_an_engine_told_to_sleep_between_two_starts_stays_stopped_and_everybody_is_answered(
    make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    engine = make_engine("qwen", Script(crash_log="RuntimeError: bad luck"), placed=ROOMY, settings=quick())
    engine.start()
    await eventually(lambda: engine.snapshot.state == "backing_off")
    waiter = asyncio.create_task(engine.ensure_awake())
    await asyncio.sleep(0)
    await engine.sleep(1)
    with pytest.raises(EngineUnavailable, match="bad luck"):
        await waiter
    assert engine.snapshot.state == "stopped"
    assert fake_host.starts["qwen"] == 1


async def test_a_crash_before_an_ordered_sleep_is_as_good_as_that_sleep(
    make_engine: MakeEngine, fake_host: FakeHost, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    engine = make_engine("qwen", Script(hold_after_tokens=1, record=str(record)), placed=ROOMY, settings=quick())
    await engine.wake()
    answer = asyncio.create_task(asked(engine, "one two"))
    await eventually(happened(record, "holding"))
    sleeping = asyncio.create_task(engine.sleep(1))
    await eventually(lambda: engine.snapshot.state == "falling_asleep")
    os.kill(fake_host.pids["qwen"][0], signal.SIGKILL)
    with pytest.raises(EngineDied):
        await answer
    await sleeping
    await eventually(lambda: engine.snapshot.state == "stopped")
    assert fake_host.starts["qwen"] == 1


async def crashes(engine: Engine, fake_host: FakeHost) -> None:
    os.kill(fake_host.pids["qwen"][-1], signal.SIGKILL)


async def freezes(engine: Engine, fake_host: FakeHost) -> None:
    os.kill(fake_host.pids["qwen"][-1], signal.SIGSTOP)


async def is_stopped(engine: Engine, fake_host: FakeHost) -> None:
    await engine.stop()


async def sleeps(engine: Engine, fake_host: FakeHost) -> None:
    await engine.sleep(2)


Blow = Callable[[Engine, FakeHost], Awaitable[None]]


@pytest.mark.parametrize("blow", [crashes, freezes, is_stopped, sleeps])
@pytest.mark.parametrize("state", ["starting", "awake", "falling_asleep", "asleep", "waking"])
async def test_whatever_happens_in_whatever_state_everybody_is_answered_and_the_engine_can_be_used_again(
    state: str, blow: Blow, make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    slow = Script(sick_polls=3, sleep_seconds=0.3, wake_seconds=0.3)
    while_it_loads = state == "starting" and blow is freezes
    limits = quick(hang_seconds=0.6, start_seconds=2 if while_it_loads else 30)
    engine = make_engine("qwen", slow, placed=ROOMY, settings=limits)
    orders: list[asyncio.Task[Any]] = [asyncio.create_task(engine.wake())]
    if state != "starting":
        await orders[0]
    if state in ("falling_asleep", "asleep", "waking"):
        orders.append(asyncio.create_task(engine.sleep(1)))
        await eventually(lambda: engine.snapshot.state in (state, "asleep"))
    if state == "waking":
        orders.append(asyncio.create_task(engine.wake()))
    await eventually(lambda: engine.snapshot.state == state and engine.snapshot.pid is not None)
    seen = states(engine)
    orders.append(asyncio.create_task(engine.ensure_awake()))
    await asyncio.sleep(0)
    await blow(engine, fake_host)
    if blow in (crashes, freezes):
        await eventually(lambda: bool(seen))
    if while_it_loads:  # nothing tells a frozen engine from one that still loads
        assert engine.snapshot.state == "broken"
    async with asyncio.timeout(20):
        await engine.wake()
        answers = await asyncio.gather(*orders, return_exceptions=True)
    refused = (EngineUnavailable, EngineStartFailed)
    assert all(isinstance(answer, refused) or not isinstance(answer, BaseException) for answer in answers)
    assert await asked(engine, "one") == "echo: one"
