from __future__ import annotations

import asyncio
import errno
import os
import signal
from pathlib import Path

import pytest

from local_fusion.config.schema import EngineSettings
from local_fusion.engines.clock import Clock
from local_fusion.engines.command import EngineCommand
from local_fusion.engines.engine import Engine, EngineSnapshot
from local_fusion.engines.host import EngineProcess
from local_fusion.engines.runtime_folder import RuntimeFolder
from local_fusion.errors import EngineDied, EngineStartFailed, EngineUnavailable, SetupError
from tests.conftest import MakeEngine
from tests.engines.states import states
from tests.engines.waiting import alive, eventually, recorded
from tests.fake_engine import FakeHost, Script

OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
NO_MODEL = "ValueError: Invalid repository ID or local directory specified: '/models/qwen'."


class VirtualClock:
    """Time that passes only when a test says so, and a record of what was slept."""

    def __init__(self) -> None:
        self.time = 0.0
        self.slept: list[float] = []
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        woken = asyncio.Event()
        self._sleepers.append((self.time + seconds, woken))
        await woken.wait()

    def advance(self, seconds: float) -> None:
        self.time += seconds
        for due, woken in self._sleepers:
            if due <= self.time:
                woken.set()

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.time, self.sleep)


async def backoff(engine: Engine, time: VirtualClock, seconds: float) -> None:
    """Let the engine's present back-off of exactly `seconds` pass."""
    await eventually(lambda: engine.snapshot.state == "backing_off")
    await eventually(lambda: bool(time.slept) and time.slept[-1] == seconds)
    time.advance(seconds)
    await eventually(lambda: engine.snapshot.state != "backing_off")


async def test_an_engine_is_awake_once_it_has_answered_and_stops_without_a_trace(
    make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    engine = make_engine()
    seen = states(engine)
    engine.start()
    client = await engine.ensure_awake()
    assert await client.healthy()
    assert engine.snapshot.pid == fake_host.pids["qwen"][0]
    assert engine.snapshot.seconds_to_ready is not None
    await engine.stop()
    assert seen == ["starting", "awake", "stopping", "stopped"]
    assert not alive(fake_host.pids["qwen"][0])


async def test_an_unhealthy_engine_is_waited_for(make_engine: MakeEngine) -> None:
    engine = make_engine("qwen", Script(sick_polls=3))
    engine.start()
    assert await (await engine.ensure_awake()).healthy()


async def test_an_engine_that_was_not_started_answers_nobody(make_engine: MakeEngine) -> None:
    with pytest.raises(EngineUnavailable, match="qwen is stopped"):
        await make_engine().ensure_awake()


async def test_all_waiters_get_the_same_engine(make_engine: MakeEngine, fake_host: FakeHost) -> None:
    engine = make_engine()
    engine.start()
    engine.start()
    clients = await asyncio.gather(*(engine.ensure_awake() for _ in range(5)))
    assert len(set(map(id, clients))) == 1
    assert fake_host.starts["qwen"] == 1


async def test_every_waiter_is_answered_when_the_engine_is_stopped(make_engine: MakeEngine) -> None:
    engine = make_engine("qwen", Script(never_healthy=True))
    engine.start()
    waiters = [asyncio.create_task(engine.ensure_awake()) for _ in range(3)]
    await eventually(lambda: engine.snapshot.pid is not None)
    await asyncio.gather(engine.stop(), engine.stop())
    errors = await asyncio.gather(*waiters, return_exceptions=True)
    assert [type(error) for error in errors] == [EngineUnavailable] * 3
    assert len(set(map(id, errors))) == 3


async def test_a_waiter_that_gives_up_disturbs_nobody(make_engine: MakeEngine) -> None:
    engine = make_engine("qwen", Script(sick_polls=5))
    engine.start()
    impatient, patient = (asyncio.create_task(engine.ensure_awake()) for _ in range(2))
    await eventually(lambda: engine.snapshot.pid is not None)
    impatient.cancel()
    assert await (await patient).healthy()


async def test_a_permanent_failure_is_explained_to_every_waiter_and_not_tried_again(
    make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    engine = make_engine("qwen", Script(crash_log=NO_MODEL))
    engine.start()
    errors = await asyncio.gather(*(engine.ensure_awake() for _ in range(3)), return_exceptions=True)
    for error in errors:
        assert isinstance(error, EngineStartFailed)
        assert error.permanent
        assert "no checkpoint in /models/qwen" in error.message
    assert engine.snapshot.state == "broken"
    assert fake_host.starts["qwen"] == 1
    with pytest.raises(EngineStartFailed):
        await engine.ensure_awake()


async def test_a_broken_engine_can_be_started_again(make_engine: MakeEngine) -> None:
    engine = make_engine("qwen", Script(crash_log=NO_MODEL), Script())
    engine.start()
    with pytest.raises(EngineStartFailed):
        await engine.ensure_awake()
    engine.start()
    assert await (await engine.ensure_awake()).healthy()
    assert engine.snapshot.last_error is None


async def test_a_missing_interpreter_is_a_permanent_failure(make_engine: MakeEngine, fake_host: FakeHost) -> None:
    fake_host.python = "/nowhere/python"
    engine = make_engine()
    engine.start()
    with pytest.raises(EngineStartFailed, match="cannot run /nowhere/python: No such file") as raised:
        await engine.ensure_awake()
    assert raised.value.permanent


async def test_starts_that_fail_are_repeated_with_growing_pauses_until_the_engine_counts_as_broken(
    make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    time = VirtualClock()
    settings = EngineSettings(restarts=3, stop_seconds=1)
    engine = make_engine("qwen", Script(crash_log=OUT_OF_MEMORY), settings=settings, clock=time.clock)
    engine.start()
    waiter = asyncio.create_task(engine.ensure_awake())
    for seconds in (1.0, 2.0, 4.0):
        await backoff(engine, time, seconds)
    with pytest.raises(EngineStartFailed, match=r"GPU's memory ran out.*\(4 times in a row\)") as raised:
        await waiter
    assert not raised.value.permanent
    assert fake_host.starts["qwen"] == 4
    assert engine.snapshot.restarts == 3


async def test_pauses_between_restarts_never_exceed_a_minute(make_engine: MakeEngine) -> None:
    time = VirtualClock()
    settings = EngineSettings(restarts=8, stop_seconds=1)
    engine = make_engine("qwen", Script(crash_log=OUT_OF_MEMORY), settings=settings, clock=time.clock)
    engine.start()
    for seconds in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0):
        await backoff(engine, time, seconds)


async def test_a_crashed_engine_comes_back_and_waiters_get_the_new_one(
    make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    time = VirtualClock()
    engine = make_engine(clock=time.clock)
    engine.start()
    await engine.ensure_awake()
    os.kill(fake_host.pids["qwen"][0], signal.SIGKILL)
    await eventually(lambda: engine.snapshot.state == "backing_off")
    assert "was killed (SIGKILL)" in (engine.snapshot.last_error or "")
    waiter = asyncio.create_task(engine.ensure_awake())
    await backoff(engine, time, 1.0)
    assert await (await waiter).healthy()
    assert engine.snapshot.restarts == 1
    assert engine.snapshot.pid == fake_host.pids["qwen"][1]


async def test_crashes_are_forgiven_after_five_minutes_awake(make_engine: MakeEngine, fake_host: FakeHost) -> None:
    time = VirtualClock()
    engine = make_engine(settings=EngineSettings(restarts=1, stop_seconds=1), clock=time.clock)
    engine.start()
    for turn in range(3):
        await engine.ensure_awake()
        time.advance(301)
        os.kill(fake_host.pids["qwen"][turn], signal.SIGKILL)
        await backoff(engine, time, 1.0)
    await engine.ensure_awake()


async def test_an_engine_that_keeps_crashing_counts_as_broken(make_engine: MakeEngine, fake_host: FakeHost) -> None:
    engine = make_engine(settings=EngineSettings(restarts=0, stop_seconds=1))
    engine.start()
    await engine.ensure_awake()
    os.kill(fake_host.pids["qwen"][0], signal.SIGKILL)
    await eventually(lambda: engine.snapshot.state == "broken")
    with pytest.raises(EngineUnavailable, match="qwen crashed: it was killed"):
        await engine.ensure_awake()


async def test_a_listener_that_fails_disturbs_neither_the_engine_nor_other_listeners(
    make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    def print_to_a_terminal_that_is_gone(snapshot: EngineSnapshot) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    engine = make_engine()
    engine.subscribe(print_to_a_terminal_that_is_gone)
    seen = states(engine)
    engine.start()
    assert await (await engine.ensure_awake()).healthy()
    await engine.stop()
    assert seen == ["starting", "awake", "stopping", "stopped"]
    assert "qwen: a listener failed at the state awake" in caplog.messages


async def test_a_defect_of_ours_breaks_the_engine_and_answers_every_waiter(
    make_engine: MakeEngine, fake_host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def defective(*args: object, **options: object) -> EngineProcess:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(fake_host, "start", defective)
    engine = make_engine()
    engine.start()
    errors = await asyncio.gather(*(engine.ensure_awake() for _ in range(3)), return_exceptions=True)
    for error in errors:
        assert isinstance(error, EngineUnavailable)
        assert error.message == "qwen: ZeroDivisionError('division by zero')"
        assert "defect of local-fusion" in error.hint
    assert engine.snapshot.state == "broken"


async def test_a_machine_that_lacks_something_for_a_moment_is_tried_again(
    make_engine: MakeEngine, fake_host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = VirtualClock()
    start = fake_host.start
    lacking = [SetupError("cannot start a process for qwen: Resource temporarily unavailable", hint="See `ulimit -a`.")]

    async def lacking_at_first(command: EngineCommand, *, name: str, log: Path) -> EngineProcess:
        if lacking:
            raise lacking.pop()
        return await start(command, name=name, log=log)

    monkeypatch.setattr(fake_host, "start", lacking_at_first)
    engine = make_engine(clock=time.clock)
    engine.start()
    waiter = asyncio.create_task(engine.ensure_awake())
    await backoff(engine, time, 1.0)
    assert await (await waiter).healthy()


async def test_a_machine_that_keeps_lacking_something_breaks_the_engine_after_the_restarts_allowed(
    make_engine: MakeEngine, fake_host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lacking(*args: object, **options: object) -> EngineProcess:
        raise SetupError("cannot start a process for qwen: Cannot allocate memory", hint="See `ulimit -a`.")

    time = VirtualClock()
    monkeypatch.setattr(fake_host, "start", lacking)
    engine = make_engine(settings=EngineSettings(restarts=1), clock=time.clock)
    engine.start()
    waiter = asyncio.create_task(engine.ensure_awake())
    await backoff(engine, time, 1.0)
    with pytest.raises(EngineStartFailed, match=r"Cannot allocate memory \(2 times in a row\)") as raised:
        await waiter
    assert raised.value.hint == "See `ulimit -a`."
    assert not raised.value.permanent


async def test_stop_during_a_pause_ends_it_at_once(make_engine: MakeEngine) -> None:
    time = VirtualClock()
    engine = make_engine("qwen", Script(crash_log=OUT_OF_MEMORY), clock=time.clock)
    engine.start()
    waiter = asyncio.create_task(engine.ensure_awake())
    await eventually(lambda: engine.snapshot.state == "backing_off")
    seen = states(engine)
    await engine.stop()
    assert seen == ["stopped"]
    assert engine.snapshot.restarts == 0
    with pytest.raises(EngineUnavailable):
        await waiter


async def test_an_engine_that_is_not_ready_in_time_is_given_up_with_what_it_said_last(
    make_engine: MakeEngine, fake_host: FakeHost, runtime_folder: RuntimeFolder
) -> None:
    time = VirtualClock()
    settings = EngineSettings(start_seconds=30, stop_seconds=1)
    engine = make_engine("qwen", Script(never_healthy=True), settings=settings, clock=time.clock)
    engine.start()
    waiter = asyncio.create_task(engine.ensure_awake())
    await eventually(lambda: time.slept == [30.0])
    with runtime_folder.log("qwen").open("a") as log:
        log.write("OSError: [Errno 28] No space left on device\n")
    time.advance(30)
    with pytest.raises(EngineStartFailed, match="not ready after 30 s; the disk is full") as raised:
        await waiter
    assert raised.value.hint == "Raise engines.start_seconds."
    assert not alive(fake_host.pids["qwen"][0])


async def test_an_engine_whose_first_answer_is_an_error_is_not_ready(make_engine: MakeEngine) -> None:
    settings = EngineSettings(restarts=0, stop_seconds=0.2)
    engine = make_engine("qwen", Script(reject_warm_up=[500, "the model is unwell"]), settings=settings)
    engine.start()
    with pytest.raises(EngineStartFailed, match="the model is unwell"):
        await engine.ensure_awake()


async def test_an_engine_that_does_not_write_text_is_ready_all_the_same(make_engine: MakeEngine) -> None:
    engine = make_engine("qwen", Script(reject_warm_up=[400, "This model does not support the Completions API"]))
    engine.start()
    assert await (await engine.ensure_awake()).healthy()


async def test_start_right_after_stop_waits_for_the_old_process_to_be_gone(
    make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    engine = make_engine()
    engine.start()
    await engine.ensure_awake()
    stopping = asyncio.create_task(engine.stop())
    await asyncio.sleep(0)
    engine.start()
    client = await engine.ensure_awake()
    await stopping
    first, second = fake_host.pids["qwen"]
    assert not alive(first)
    assert alive(second)
    assert await client.healthy()


async def test_a_running_answer_ends_with_an_error_when_the_engine_is_stopped(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    engine = make_engine("qwen", Script(hang=True, record=str(record)))
    engine.start()
    client = await engine.ensure_awake()
    call = asyncio.create_task(client.complete({"model": "qwen", "messages": []}))
    await eventually(lambda: any(entry["event"] == "request" for entry in recorded(record)))
    await engine.stop()
    with pytest.raises(EngineDied):
        await call
