"""The LiteLLM proxy over an engine, in an environment of its own below `.peers`."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil

from benchmarks.against_peers import Peer
from local_fusion.errors import SetupError

LITELLM = Peer("litellm", "'litellm[proxy]==1.83.0'", "")
MODEL = "engine"
_START_SECONDS = 120.0
_STOP_SECONDS = 10.0
# No look-ups, no reports: its table of prices is the one that it brings along.
_ENVIRONMENT = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR"}


def free_port() -> int:
    """A port of loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def litellm_proxy(engine_port: int, engine: str, folder: Path) -> AsyncIterator[tuple[int, psutil.Process]]:
    """Its port and its process, one worker, ready; with its own defaults for production, no keys and no database."""
    port = free_port()
    config = folder / "litellm.json"  # JSON is YAML
    parameters = {
        "model": f"hosted_vllm/{engine}",
        "api_base": f"http://127.0.0.1:{engine_port}/v1",
        "api_key": "none",
    }
    config.write_text(
        json.dumps(
            {
                "model_list": [{"model_name": MODEL, "litellm_params": parameters}],
                "litellm_settings": {"set_verbose": False, "request_timeout": 600},
            }
        )
    )
    with tempfile.TemporaryDirectory(prefix="lf-litellm-") as home:
        environment = {"PATH": os.environ["PATH"], "HOME": home, **_ENVIRONMENT}
        program = LITELLM.python.with_name("litellm")
        command = [program, "--config", config, "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
        log = folder / "litellm.log"
        with log.open("wb") as said:
            process = await asyncio.create_subprocess_exec(
                *map(str, command), stdin=DEVNULL, stdout=said, stderr=said, env=environment, cwd=home
            )
        try:
            await _ready(port, process, log)
            yield port, psutil.Process(process.pid)
        finally:
            if process.returncode is None:
                process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), _STOP_SECONDS)
                except TimeoutError:
                    process.kill()
                    await process.wait()


async def _ready(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    deadline = asyncio.get_running_loop().time() + _START_SECONDS
    async with aiohttp.ClientSession() as session:
        while asyncio.get_running_loop().time() < deadline and process.returncode is None:
            try:
                async with session.get(f"http://127.0.0.1:{port}/health/liveliness") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.2)
    said = log.read_text(errors="replace")[-2000:]
    raise SetupError(f"the LiteLLM proxy did not start within {_START_SECONDS:g} s; it said:\n{said}")
