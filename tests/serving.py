"""A whole server in the test's own event loop, over fake engine processes."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI

from local_fusion.cli.starting import until_up
from local_fusion.config.schema import Config
from local_fusion.engines.host import LocalHost
from local_fusion.hardware.probe import probe_rig
from local_fusion.runtime import Runtime, open_runtime
from local_fusion.server.app import create_app
from local_fusion.server.guard.connections import uvicorn_options
from tests.fake_engine import FakeHost, Script

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "vocab_size": 128,
    "torch_dtype": "bfloat16",
}


# What makes a model one that takes images.
EYES = {"vision_config": {"model_type": "clip_vision_model", "hidden_size": 64, "num_hidden_layers": 1}}


def tiny_checkpoint(folder: Path, **more: Any) -> Path:
    """A folder that looks like a checkpoint: enough to be found and planned, too little to run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**LLAMA, **more}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    header = json.dumps({"lm_head.weight": {"dtype": "BF16", "shape": [4, 4], "data_offsets": [0, 32]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(32))
    return folder


def tiny_config(folder: Path, models: list[str], **more: Any) -> Config:
    """A configuration over tiny checkpoints; engines stop quickly."""
    return Config.model_validate(
        {
            "models": {
                name: {"source": str(tiny_checkpoint(folder / name)), "max_model_len": 1024, "kv_cache_bytes": "1MiB"}
                for name in models
            },
            "engines": {"stop_seconds": 1, "start_seconds": 30},
            **more,
        }
    )


def in_turns(folder: Path, models: list[str], **more: Any) -> Config:
    """A configuration of which one model fits at a time."""
    config = tiny_config(folder, models, **more)
    wanted = more_than_half(config.engines.memory_share)
    changed = {name: model.model_copy(update=wanted) for name, model in config.models.items()}
    return config.model_copy(update={"models": changed})


def more_than_half(share: float, kind: Literal["cuda", "cpu"] | None = None) -> dict[str, Any]:
    """A model's options with which no two of it fit on this machine, of whose RAM `share` is used."""
    device = probe_rig(share=share, kind=kind).devices[0]
    wanted: dict[str, Any] = {"kv_cache_bytes": device.free_bytes * 6 // 10}
    return wanted | ({"gpus": [device.index]} if device.kind == "cuda" else {})


@dataclass
class Served:
    """A running server: where, over what, with which processes."""

    url: str
    runtime: Runtime
    host: FakeHost


@asynccontextmanager
async def serving(config: Config, scripts: dict[str, Script | list[Script]]) -> AsyncIterator[Served]:
    """Serve `config` on a free loopback port until the block ends; every engine that starts with it is awake when it
    begins."""
    hosts: list[FakeHost] = []

    def make_host(folder: Any) -> FakeHost:
        hosts.append(FakeHost(LocalHost(folder), scripts))
        return hosts[0]

    async with open_runtime(config, make_host=make_host) as runtime:
        for placement in runtime.plan.placements:
            script = scripts.get(placement.model)
            if placement.resident and not (isinstance(script, Script) and script.crash_log):
                await until_up(runtime.engines[placement.model])
        async with listening(create_app(runtime)) as url:
            yield Served(url, runtime, hosts[0])


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[str]:
    """The address of a free loopback port on which `app` answers until the block ends."""
    options = uvicorn_options(app.state.settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off", **options))
    async with app.router.lifespan_context(app):
        task = asyncio.create_task(server._serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = server.force_exit = True
            await task
