"""A whole server in the test's own event loop, over fake engine processes."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from local_fusion.config.schema import Config
from local_fusion.engines.host import LocalHost
from local_fusion.runtime import Runtime, open_runtime
from local_fusion.server.app import create_app
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


def tiny_checkpoint(folder: Path) -> Path:
    """A folder that looks like a checkpoint: enough to be found and planned, too little to run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(LLAMA))
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


@dataclass
class Served:
    """A running server: where, over what, with which processes."""

    url: str
    runtime: Runtime
    host: FakeHost


@asynccontextmanager
async def serving(config: Config, scripts: dict[str, Script | list[Script]]) -> AsyncIterator[Served]:
    """Serve `config` on a free loopback port until the block ends; every engine is awake when it begins."""
    hosts: list[FakeHost] = []

    def make_host(folder: Any) -> FakeHost:
        hosts.append(FakeHost(LocalHost(folder), scripts))
        return hosts[0]

    async with open_runtime(config, make_host=make_host) as runtime:
        server = uvicorn.Server(uvicorn.Config(create_app(runtime), port=0, log_config=None, lifespan="off"))
        task = asyncio.create_task(server._serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        for name, engine in runtime.engines.items():
            script = scripts.get(name)
            if not (isinstance(script, Script) and script.crash_log):
                await engine.ensure_awake()
        try:
            yield Served(f"http://127.0.0.1:{port}", runtime, hosts[0])
        finally:
            server.should_exit = server.force_exit = True
            await task
