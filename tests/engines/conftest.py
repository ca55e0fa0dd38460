from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from local_fusion.config.schema import EngineSettings, ModelConfig
from local_fusion.engines.command import engine_command
from local_fusion.engines.engine import Engine
from local_fusion.engines.model import EngineModel
from local_fusion.engines.runtime_folder import RuntimeFolder
from tests.conftest import placement
from tests.fake_engine import FakeHost, Script

MakeModel = Callable[..., Awaitable[EngineModel]]


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As pytest's own, but with a short path: sockets' paths may have 107 bytes."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture
async def make_model(fake_host: FakeHost, runtime_folder: RuntimeFolder) -> AsyncIterator[MakeModel]:
    """`await make_model(Script(…), tool_call_parser=…)`: the awake engine `qwen` with these options, as a model."""
    engines: list[Engine] = []

    async def make(script: Script, **options: str) -> EngineModel:
        fake_host.scripts["qwen"] = script
        socket = runtime_folder.socket("qwen")
        model = ModelConfig.model_validate({"source": "x", **options})
        command = engine_command(placement(), model, socket=socket, python="python", environ=os.environ)
        settings = EngineSettings(stop_seconds=1)
        log = runtime_folder.log("qwen")
        engines.append(Engine("qwen", command, socket=socket, log=log, host=fake_host, settings=settings))
        engines[-1].start()
        await engines[-1].ensure_awake()
        return EngineModel(engines[-1])

    yield make
    for engine in engines:
        await engine.stop()
