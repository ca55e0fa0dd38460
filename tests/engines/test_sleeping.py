"""The ladder of residency: awake, asleep, stopped, and back up, over fake engines that sleep as vLLM does."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from local_fusion.config.schema import EngineSettings
from local_fusion.engines import moving
from local_fusion.engines.client import EngineClient
from local_fusion.engines.engine import Engine
from local_fusion.engines.moving import Level
from local_fusion.errors import EngineDied, EngineUnavailable
from tests.conftest import MakeEngine, placement
from tests.engines.states import asked, controls, states
from tests.engines.waiting import alive, eventually, recorded
from tests.fake_engine import FakeHost, Script

SLEEPER = placement("qwen", kind="cuda", asleep="level 1", sleeping_bytes=2**20)


async def awake(make_engine: MakeEngine, *scripts: Script, **options: Any) -> Engine:
    """An engine that can sleep, awake."""
    engine = make_engine("qwen", *scripts, **{"placed": SLEEPER, **options})
    await engine.wake()
    return engine


def settings(**changes: Any) -> EngineSettings:
    return EngineSettings(**{"stop_seconds": 0.5, **changes})


async def test_an_engine_falls_asleep_and_wakes_with_the_process_it_had(
    make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    engine = await awake(make_engine)
    seen = states(engine)
    await engine.sleep(1)
    assert (engine.snapshot.state, engine.snapshot.level) == ("asleep", 1)
    await engine.wake()
    assert (engine.snapshot.state, engine.snapshot.level) == ("awake", None)
    assert await asked(engine, "one two") == "echo: one two"
    assert seen == ["falling_asleep", "asleep", "waking", "awake"]
    assert fake_host.starts["qwen"] == 1
    assert engine.snapshot.seconds_to_sleep is not None
    assert engine.snapshot.seconds_to_wake is not None


@pytest.mark.parametrize(
    ("level", "told"),
    [
        (1, ["/sleep?level=1&mode=wait", "/wake_up?tags=weights", "/wake_up?tags=kv_cache"]),
        (
            2,
            [
                "/sleep?level=2&mode=wait",
                "/wake_up?tags=weights",
                "/collective_rpc: reload_weights",
                "/reset_prefix_cache",
                "/wake_up?tags=kv_cache",
            ],
        ),
    ],
)
async def test_vllm_is_told_in_the_order_that_leaves_it_with_its_weights(
    level: Level, told: list[str], make_engine: MakeEngine, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    engine = await awake(make_engine, Script(record=str(record)))
    await engine.sleep(level)
    await engine.wake()
    assert controls(record) == told
    assert await asked(engine, "one two") == "echo: one two"


async def test_without_reading_the_weights_again_the_fake_answers_garbage_as_vllm_would(
    make_engine: MakeEngine,
) -> None:
    engine = await awake(make_engine)
    client = await engine.ensure_awake()
    await client.control("POST", "/sleep?level=2&mode=wait")
    await client.control("POST", "/wake_up")
    assert await asked(engine, "one two") == "garbage garbage garbage"


async def test_calls_in_flight_are_finished_before_it_sleeps(make_engine: MakeEngine, tmp_path: Path) -> None:
    record = tmp_path / "record"
    engine = await awake(make_engine, Script(token_seconds=0.05, record=str(record)))
    answer = asyncio.create_task(asked(engine, "one two three four"))
    await eventually(lambda: bool(recorded(record)))
    await engine.sleep(1)
    assert answer.done()
    assert await answer == "echo: one two three four"
    assert [entry["event"] for entry in recorded(record)] == ["request", "answered", "control"]


async def test_whoever_waits_through_sleep_gets_the_engine_when_it_wakes(make_engine: MakeEngine) -> None:
    engine = await awake(make_engine)
    await engine.sleep(1)
    waiter = asyncio.create_task(engine.ensure_awake())
    await asyncio.sleep(0)
    assert not waiter.done()
    engine.start()
    assert await (await waiter).healthy()


async def test_waiting_for_an_engine_does_not_wake_it(make_engine: MakeEngine, tmp_path: Path) -> None:
    record = tmp_path / "record"
    engine = await awake(make_engine, Script(record=str(record)))
    await engine.sleep(1)
    waiter = asyncio.create_task(engine.ensure_awake())
    await asyncio.sleep(0)
    await engine.stop()
    with pytest.raises(EngineUnavailable, match="qwen is stopped"):
        await waiter
    assert controls(record) == ["/sleep?level=1&mode=wait"]


async def test_orders_are_carried_out_in_their_turn_and_each_is_answered(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    engine = make_engine("qwen", Script(record=str(record)), placed=SLEEPER)
    engine.start()
    sleeping = asyncio.create_task(engine.sleep(1))
    await asyncio.sleep(0)
    waking = asyncio.create_task(engine.wake())
    await asyncio.sleep(0)
    again = [asyncio.create_task(engine.sleep(2)), asyncio.create_task(engine.sleep(2))]
    await asyncio.gather(sleeping, *again)
    assert (engine.snapshot.state, engine.snapshot.level) == ("asleep", 2)
    assert [path for path in controls(record) if path.startswith("/sleep")] == [
        "/sleep?level=1&mode=wait",
        "/sleep?level=2&mode=wait",
    ]
    await engine.stop()
    with pytest.raises(EngineUnavailable):
        await waking


async def test_an_engine_that_is_not_running_is_as_good_as_asleep(make_engine: MakeEngine, fake_host: FakeHost) -> None:
    engine = make_engine("qwen", placed=SLEEPER)
    await engine.sleep(1)
    assert engine.snapshot.state == "stopped"
    assert fake_host.starts == {}


async def test_an_engine_without_sleep_mode_cannot_be_told_to_sleep(make_engine: MakeEngine) -> None:
    engine = make_engine()
    assert not engine.can_sleep
    with pytest.raises(ValueError, match="without vLLM's sleep mode"):
        await engine.sleep(1)


async def test_a_sleeping_engine_is_stopped_without_being_woken(
    make_engine: MakeEngine, fake_host: FakeHost, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    engine = await awake(make_engine, Script(record=str(record)))
    await engine.sleep(1)
    await engine.stop()
    assert (engine.snapshot.state, engine.snapshot.level) == ("stopped", None)
    assert not alive(fake_host.pids["qwen"][0])
    assert controls(record) == ["/sleep?level=1&mode=wait"]


@pytest.mark.parametrize(
    ("script", "state"),
    [
        (Script(never_healthy=True), "starting"),
        (Script(sleep_seconds=600), "falling_asleep"),
        (Script(wake_seconds=600), "waking"),
        (Script(fail_wake="hang"), "waking"),
    ],
)
async def test_stop_ends_any_move_at_once_and_answers_everybody(
    script: Script, state: str, make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    engine = make_engine("qwen", script, placed=SLEEPER)
    engine.start()
    orders: list[asyncio.Task[Any]] = [asyncio.create_task(engine.sleep(1))]
    await asyncio.sleep(0)
    orders += [asyncio.create_task(engine.wake()), asyncio.create_task(engine.ensure_awake())]
    await eventually(lambda: engine.snapshot.state == state and engine.snapshot.pid is not None)
    await engine.stop()
    asleep, *awake = await asyncio.gather(*orders, return_exceptions=True)
    assert asleep is None
    assert [type(error) for error in awake] == [EngineUnavailable, EngineUnavailable]
    assert engine.snapshot.state == "stopped"
    assert not alive(fake_host.pids["qwen"][0])


# --- what goes wrong ---


@pytest.mark.parametrize(
    ("fails", "why"),
    [
        ("error", "answered /sleep?level=1&mode=wait with status 500"),
        ("insomnia", "was told to sleep but is awake"),
        ("hang", "/sleep?level=1&mode=wait took more than 0.87 s"),  # half a second, and time to copy 320 MiB
    ],
)
async def test_an_engine_that_fails_to_sleep_is_killed_which_frees_its_memory_as_well(
    fails: str, why: str, make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    engine = await awake(make_engine, Script(fail_sleep=fails), settings=settings(hang_seconds=0.5))
    await engine.sleep(1)
    assert engine.snapshot.state == "stopped"
    assert engine.snapshot.last_error is not None
    assert engine.snapshot.last_error.startswith("qwen did not fall asleep: ")
    assert why in engine.snapshot.last_error
    assert not alive(fake_host.pids["qwen"][0])


async def test_an_engine_that_failed_to_sleep_is_started_when_it_is_wanted(
    make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    engine = await awake(make_engine, Script(fail_sleep="error"), Script(), settings=settings())
    sleeping = asyncio.create_task(engine.sleep(1))
    await asyncio.sleep(0)
    await engine.wake()
    assert sleeping.done()
    assert fake_host.starts["qwen"] == 2


@pytest.mark.parametrize(
    ("fails", "why"),
    [
        ("error", "the GPU's memory ran out: CUDA Error: out of memory"),
        ("exit", "the GPU's memory ran out: CUDA Error: out of memory"),
        ("hang", "/wake_up?tags=weights took more than 0.5 s"),
    ],
)
async def test_an_engine_that_fails_to_wake_is_killed_and_started_afresh_at_once(
    fails: str, why: str, make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    scripts = (Script(fail_wake=fails), Script())
    engine = await awake(make_engine, *scripts, settings=settings(hang_seconds=0.5))
    await engine.sleep(1)
    seen = states(engine)
    await engine.wake()
    assert await asked(engine, "one") == "echo: one"
    assert seen == ["waking", "starting", "awake"]
    assert engine.snapshot.last_error is not None
    assert engine.snapshot.last_error.startswith("qwen did not wake up: ")
    assert why in engine.snapshot.last_error
    assert engine.snapshot.restarts == 1
    assert not alive(fake_host.pids["qwen"][0])


async def test_weights_that_take_too_long_to_read_again_are_said_with_the_option_that_allows_more(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wake_up = moving.wake_up

    async def in_haste(client: EngineClient, level: Level, *, seconds: float, reload_seconds: float) -> None:
        assert reload_seconds == settings().start_seconds
        await wake_up(client, level, seconds=seconds, reload_seconds=0.2)

    monkeypatch.setattr(moving, "wake_up", in_haste)
    engine = await awake(make_engine, Script(reload_seconds=600), Script(), settings=settings())
    await engine.sleep(2)
    await engine.wake()
    assert engine.snapshot.last_error == "qwen did not wake up: /collective_rpc took more than 0.2 s"
    assert engine.snapshot.hint == "Raise engines.start_seconds if it is that slow."


async def test_death_while_asleep_leaves_it_stopped_until_it_is_wanted(
    make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    engine = await awake(make_engine)
    await engine.sleep(1)
    waiter = asyncio.create_task(engine.ensure_awake())
    await asyncio.sleep(0)
    os.kill(fake_host.pids["qwen"][0], signal.SIGKILL)
    with pytest.raises(EngineUnavailable, match="died while it slept: it was killed"):
        await waiter
    assert engine.snapshot.state == "stopped"
    assert "died while it slept" in (engine.snapshot.last_error or "")
    assert fake_host.starts["qwen"] == 1
    await engine.wake()
    assert fake_host.starts["qwen"] == 2


async def test_an_engine_that_freezes_in_its_sleep_is_killed_and_stays_stopped(
    make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    engine = await awake(make_engine, settings=settings(hang_seconds=0.4))
    await engine.sleep(1)
    os.kill(fake_host.pids["qwen"][0], signal.SIGSTOP)
    await eventually(lambda: engine.snapshot.state == "stopped")
    assert "qwen hung: no sign of life for 0.4 s" in (engine.snapshot.last_error or "")
    assert not alive(fake_host.pids["qwen"][0])


@pytest.mark.parametrize("level", [1, 2])
async def test_a_call_that_arrives_at_a_sleeping_engine_after_all_is_answered_when_it_wakes(
    level: Level, make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    engine = await awake(make_engine, Script(token_seconds=0.1))
    client = await engine.ensure_awake()
    await engine.sleep(level)

    async def call() -> str:
        asked_for = {"model": "qwen", "messages": [{"role": "user", "content": "hi"}]}
        return "".join([chunk.text async for chunk in client.chat_stream(asked_for)])

    late = asyncio.create_task(call())
    await eventually(lambda: client.in_flight == 1)
    await engine.wake()
    assert await late == "echo: hi"
    assert fake_host.starts["qwen"] == 1


async def test_a_call_to_an_engine_that_sleeps_by_aborting_breaks_off_which_is_why_it_is_told_to_wait(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    engine = await awake(make_engine, Script(hold_after_tokens=1, record=str(record)))
    client = await engine.ensure_awake()
    answer = asyncio.create_task(asked(engine, "one two"))
    await eventually(lambda: any(entry["event"] == "holding" for entry in recorded(record)))
    await client.control("POST", "/sleep?level=1")
    with pytest.raises(EngineDied, match="broke off"):
        await answer
