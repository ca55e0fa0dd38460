"""What is learnt from engines that start, sleep and wake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from local_fusion.config.schema import EngineSettings
from local_fusion.engines import lessons
from local_fusion.engines.checkpoints.facts import read_facts
from local_fusion.engines.engine import Engine
from local_fusion.engines.lessons import Lessons, SwapSeconds, swap_seconds
from local_fusion.engines.measurements import load_measurements
from local_fusion.hardware.devices import Device, Rig
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.memory.measured import Measurement
from local_fusion.planner.plan import Placement
from tests.conftest import MakeEngine, placement
from tests.engines.waiting import eventually
from tests.fake_engine import Script
from tests.serving import tiny_config

GIB = 1024**3
SLEEPER = placement("qwen", kind="cuda", asleep="level 1", max_concurrent_requests=8.0)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    """What a plan for one model on one GPU was made of, and an empty cache folder."""
    monkeypatch.setenv("LOCAL_FUSION_CACHE", str(tmp_path / "cache"))
    config = tiny_config(tmp_path, ["qwen"])
    path = Path(config.models["qwen"].source)
    gpu = Device(index=0, name="NVIDIA H100", kind="cuda", total_bytes=80 * GIB, free_bytes=80 * GIB)
    facts = {"qwen": read_facts(path, config.models["qwen"])}
    return Inputs(config, facts, {"qwen": path}, Rig((gpu,), host_ram_bytes=None), vllm="0.32.0")


@pytest.fixture
def lesson(inputs: Inputs) -> Lessons:
    return Lessons(inputs)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """What the driver says that the sleeping engine holds."""
    sizes: list[int | None] = [GIB]

    async def sleeping_bytes(placement: Placement, pid: int) -> int | None:
        return sizes[0]

    monkeypatch.setattr(lessons, "sleeping_bytes", sleeping_bytes)
    return sizes


def known() -> Measurement:
    found = load_measurements()
    return next(iter(found.values())) if found else Measurement()


async def learning(make_engine: MakeEngine, lesson: Lessons, *scripts: Script, **options: Any) -> Engine:
    engine = make_engine("qwen", *scripts, placed=SLEEPER, **options)
    lesson.learn_from(engine, SLEEPER, Path("/none"))
    await engine.wake()
    return engine


async def test_seconds_of_starts_sleeps_and_wakes_are_remembered_for_the_scheduler(
    make_engine: MakeEngine, lesson: Lessons, inputs: Inputs, held: list[int | None]
) -> None:
    assert swap_seconds(inputs, SLEEPER) == SwapSeconds()
    engine = await learning(make_engine, lesson, Script(sleep_seconds=0.2, wake_seconds=0.1, reload_seconds=0.1))
    await engine.sleep(1)
    await engine.wake()
    await engine.sleep(2)
    await engine.wake()
    await eventually(lambda: None not in (known().start_ms, known().wake1_ms, known().wake2_ms))
    seconds = swap_seconds(replace(inputs, measurements=load_measurements()), SLEEPER)
    assert seconds.sleep1 is not None
    assert 0.2 <= seconds.sleep1 < 5
    assert seconds.wake1 is not None
    assert 0.2 <= seconds.wake1 < 5
    assert seconds.sleep2 is not None
    assert 0.2 <= seconds.sleep2 < 5
    assert seconds.wake2 is not None
    assert 0.3 <= seconds.wake2 < 5
    assert seconds.start is not None
    assert seconds.start == round(engine.snapshot.seconds_to_ready or 0, 3)


async def test_what_a_sleeping_engine_leaves_on_the_gpu_is_measured_and_counts_in_the_next_plan(
    make_engine: MakeEngine, lesson: Lessons, held: list[int | None]
) -> None:
    engine = await learning(make_engine, lesson)
    await engine.sleep(1)
    await eventually(lambda: known().sleeping_bytes is not None)
    assert known().sleeping_bytes == GIB
    held[0] = None
    await engine.wake()
    await engine.sleep(1)
    await eventually(lambda: known().wake1_ms is not None)
    await lesson.aclose()
    assert known().sleeping_bytes == GIB


async def test_an_engine_with_another_cache_than_planned_teaches_nothing_about_bytes(
    make_engine: MakeEngine, lesson: Lessons, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    async def measure(*args: Any, **options: Any) -> Measurement:
        measured.append("a start")
        return Measurement(residual_bytes=GIB)

    monkeypatch.setattr(lessons, "measure", measure)
    out_of_memory = Script(crash_log="torch.OutOfMemoryError: CUDA out of memory.")
    engine = await learning(
        make_engine, lesson, out_of_memory, out_of_memory, Script(), settings=EngineSettings(stop_seconds=0.5)
    )
    assert engine.snapshot.note is not None
    await eventually(lambda: known().start_ms is not None)
    assert known().residual_bytes is None
    assert measured == []
