"""Shared fixtures: engines that are fake processes, and a lock on the real ones."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from local_fusion.config.schema import EngineSettings, ModelConfig
from local_fusion.engines.command import EngineCommand, engine_command, with_smaller_cache
from local_fusion.engines.devices import Claim
from local_fusion.engines.engine import Engine
from local_fusion.engines.host import EngineProcess, LocalHost
from local_fusion.engines.runtime_folder import RuntimeFolder
from local_fusion.planner.memory.need import Overhead
from local_fusion.planner.plan import Placement
from tests.fake_engine import FakeHost, Script

MakeEngine = Callable[..., Engine]

# A test's time depends on what else the machine does, and pytest's own time limit bounds it.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def no_real_engine_by_accident(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only tests marked `vllm` may start vLLM."""
    if request.node.get_closest_marker("vllm"):
        return
    start = LocalHost.start

    async def guarded(self: LocalHost, command: EngineCommand, *, name: str, log: Path) -> EngineProcess:
        if any(argument.startswith("vllm") for argument in command.argv):
            raise AssertionError(f"a test not marked `vllm` wants to start {command.argv}")
        return await start(self, command, name=name, log=log)

    monkeypatch.setattr(LocalHost, "start", guarded)


@pytest.fixture(autouse=True, scope="session")
def state_of_our_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What servers keep goes to a folder of the test run, never to the user's."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LOCAL_FUSION_STATE", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RuntimeFolder]:
    """This process's runtime folder, in a private temporary folder."""
    monkeypatch.setenv("LOCAL_FUSION_RUNTIME", str(tmp_path / "run"))
    folder = RuntimeFolder.open()
    yield folder
    folder.close()


@pytest.fixture
def fake_host(runtime_folder: RuntimeFolder) -> FakeHost:
    """Starts fake engines; set `fake_host.scripts[NAME]` before starting."""
    return FakeHost(LocalHost(runtime_folder))


def placement(name: str = "qwen", **changes: Any) -> Placement:
    """A small placement on the CPU."""
    facts: dict[str, Any] = {
        "model": name,
        "checkpoint": Path("/models") / name,
        "devices": (0,),
        "kind": "cpu",
        "tensor_parallel": 1,
        "weights_bytes": 2**28,
        "kv_cache_bytes": 2**26,
        "kv_bytes_per_token": 23040,
        "overhead": Overhead(process=2**28),
        "max_model_len": 4096,
        "batched_tokens": 2048,
        "max_concurrent_requests": 1.0,
    }
    return Placement(**{**facts, **changes})


@pytest.fixture
async def make_engine(fake_host: FakeHost, runtime_folder: RuntimeFolder) -> AsyncIterator[MakeEngine]:
    """`make_engine("qwen", Script(...), settings=…, placed=…)`: an engine, not started; stopped after the test."""
    engines: list[Engine] = []

    def make(
        name: str = "qwen",
        *scripts: Script,
        settings: EngineSettings = EngineSettings(stop_seconds=1),  # noqa: B008 - frozen
        placed: Placement | None = None,
        **options: Any,
    ) -> Engine:
        if scripts:
            fake_host.scripts[name] = list(scripts)
        socket = runtime_folder.socket(name)
        placed = placed or placement(name)
        model = ModelConfig(source="x")
        command = engine_command(placed, model, socket=socket, python="python", environ=os.environ)
        smaller = with_smaller_cache(placed, model, socket=socket, python="python", environ=os.environ)
        options = {"log": runtime_folder.log(name), "smaller": smaller, "claim": Claim.of(placed), **options}
        engine = Engine(name, command, socket=socket, host=fake_host, settings=settings, **options)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        await engine.stop()
