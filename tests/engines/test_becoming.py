"""An engine that is to run something else, or by other settings, under the same name."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from local_fusion.config.schema import EngineSettings
from local_fusion.engines.command import EngineCommand
from local_fusion.engines.devices import Claim
from local_fusion.errors import EngineDied, EngineStartFailed
from tests.conftest import MakeEngine
from tests.engines.waiting import alive
from tests.fake_engine import FakeHost, Script

SETTINGS = EngineSettings(stop_seconds=1)


def another(fake_host: FakeHost) -> dict[str, Any]:
    """What it ran, with one more argument."""
    before = fake_host.commands["qwen"][-1]
    command = EngineCommand((*before.argv, "--max-num-seqs", "7"), before.env)
    return {"command": command, "settings": SETTINGS, "claim": Claim(devices=(1,)), "smaller": None, "step_seconds": 0}


async def test_an_engine_that_is_stopped_becomes_another_with_its_next_start(
    make_engine: MakeEngine, fake_host: FakeHost
) -> None:
    engine = make_engine()
    heard: list[str] = []
    engine.subscribe(lambda snapshot: heard.append(snapshot.state))
    await engine.wake()
    await engine.stop()
    engine.become(**another(fake_host))
    assert (engine.snapshot.state, engine.snapshot.devices, engine.snapshot.seconds_to_ready) == ("stopped", (1,), None)
    await engine.wake()
    assert fake_host.commands["qwen"][1].argv[-2:] == ("--max-num-seqs", "7")
    assert heard[-3:] == ["starting", "starting", "awake"]


async def test_one_that_was_broken_is_well_again_as_another(make_engine: MakeEngine, fake_host: FakeHost) -> None:
    engine = make_engine("qwen", Script(crash_log="ValueError: Model architectures ['X'] are not supported"), Script())
    with pytest.raises(EngineStartFailed, match="does not know the model"):
        await engine.wake()
    assert engine.snapshot.state == "broken"
    engine.become(**another(fake_host))
    assert (engine.snapshot.state, engine.snapshot.last_error) == ("stopped", None)
    await engine.wake()


async def test_an_engine_that_runs_cannot_become_another(make_engine: MakeEngine, fake_host: FakeHost) -> None:
    engine = make_engine()
    await engine.wake()
    with pytest.raises(ValueError, match="qwen runs"):
        engine.become(**another(fake_host))


async def test_calls_in_flight_hear_why_an_engine_is_stopped(make_engine: MakeEngine) -> None:
    engine = make_engine("qwen", Script(hold_after_tokens=1))
    await engine.wake()
    client = await engine.ensure_awake()
    stream = client.chat_stream({"model": "qwen", "messages": [{"role": "user", "content": "one two three"}]})
    await anext(stream)
    waiting = asyncio.ensure_future(_all(stream))
    await engine.stop("was taken away")
    with pytest.raises(EngineDied, match="qwen was taken away"):
        await waiting


async def _all(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


async def test_other_settings_count_for_a_process_that_runs(make_engine: MakeEngine, fake_host: FakeHost) -> None:
    """It does not end when it is asked to, and would have had a day to do so."""
    engine = make_engine("qwen", Script(ignore_sigterm=True), settings=EngineSettings(stop_seconds=86400))
    await engine.wake()
    engine.adopt(EngineSettings(stop_seconds=0.1))
    await engine.stop()
    assert not alive(fake_host.pids["qwen"][0])
