"""A server over fake engines whose configuration can be changed and loaded again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from local_fusion.cli.starting import until_up
from local_fusion.config.schema import Config
from local_fusion.engines.host import LocalHost
from local_fusion.errors import ConfigError
from local_fusion.runtime import Runtime, open_runtime
from local_fusion.server.app import create_app
from tests.fake_engine import FakeHost, Script
from tests.serving import listening, tiny_config

QUESTION: Any = [{"role": "user", "content": "What is 6 times 7?"}]


def single(name: str, **more: Any) -> dict[str, Any]:
    """A fusion that asks one model."""
    return {"strategy": "single", "panel": [name], **more}


@dataclass
class Reloadable:
    """A running server; `config` is what the next reload loads, an error what is wrong with the file then.

    `options` are those of its models wherever it is configured.
    """

    folder: Path
    config: Config | ConfigError
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    url: str = field(init=False)
    runtime: Runtime = field(init=False)
    host: FakeHost = field(init=False)
    session: aiohttp.ClientSession = field(init=False)

    def load(self) -> Config:
        if isinstance(self.config, ConfigError):
            raise self.config
        return self.config

    def configure(self, *models: str, **more: Any) -> Config:
        """Write another configuration; nobody has read it yet."""
        self.config = tiny_config(self.folder, list(models), **more)
        for model, options in self.options.items():
            self.change(model, **options)
        return self.load()

    def change(self, model: str, **options: Any) -> None:
        """Change options of a model in the configuration."""
        config = self.load()
        changed = config.models[model].model_copy(update=options)
        self.config = config.model_copy(update={"models": {**config.models, model: changed}})

    async def reload(self) -> tuple[int, Any]:
        return await self.post("/admin/reload")

    async def reloaded(self) -> Any:
        """What a reload changed; it must succeed."""
        status, answer = await self.reload()
        assert status == 200, answer
        return answer

    async def get(self, path: str) -> Any:
        async with self.session.get(self.url + path) as response:
            return await response.json()

    async def post(self, path: str, body: Any = None) -> tuple[int, Any]:
        async with self.session.post(self.url + path, json=body) as response:
            return response.status, await response.json()

    async def ask(self, model: str, **more: Any) -> tuple[int, Any]:
        """The status, and the answer's text or the error."""
        status, answer = await self.post("/v1/chat/completions", {"model": model, "messages": QUESTION, **more})
        return status, answer["choices"][0]["message"]["content"] if status == 200 else answer["error"]

    @asynccontextmanager
    async def streaming(self, model: str) -> AsyncIterator[asyncio.Task[str]]:
        """A streamed answer that has begun; the task gives all that was said, or what the stream's error is."""
        body = {"model": model, "messages": QUESTION, "stream": True}
        async with self.session.post(f"{self.url}/v1/chat/completions", json=body) as response:
            assert response.status == 200
            begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            async def read() -> str:
                said = ""
                async for line in response.content:
                    if line.startswith(b"data: {"):
                        event = json.loads(line[6:])
                        if "error" in event:
                            return f"error: {event['error']['message']}"
                        said += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
                        if said and not begun.done():
                            begun.set_result(None)
                return said

            task = asyncio.ensure_future(read())
            either: set[asyncio.Future[Any]] = {task, begun}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            try:
                yield task
            finally:
                task.cancel()

    async def awake(self, *names: str) -> None:
        """Wait until these engines are awake."""
        for name in names:
            await until_up(self.runtime.engines[name])

    def pids(self) -> dict[str, int | None]:
        """Each engine's process."""
        return {name: engine.snapshot.pid for name, engine in self.runtime.engines.items()}


@asynccontextmanager
async def reloadable(
    folder: Path,
    *models: str,
    scripts: dict[str, Script | list[Script]] | None = None,
    options: dict[str, dict[str, Any]] | None = None,
    **more: Any,
) -> AsyncIterator[Reloadable]:
    """Serve tiny models on a free loopback port until the block ends; all are awake when it begins."""
    served = Reloadable(folder, ConfigError([]), options or {})
    config = served.configure(*models, **more)

    def make_host(runtime_folder: Any) -> FakeHost:
        served.host = FakeHost(LocalHost(runtime_folder), scripts or {})
        return served.host

    async with AsyncExitStack() as stack:
        served.runtime = await stack.enter_async_context(open_runtime(config, make_host=make_host))
        await served.awake(*models)
        app = create_app(served.runtime, load=served.load, tell=served.told.append)
        served.url = await stack.enter_async_context(listening(app))
        served.session = await stack.enter_async_context(aiohttp.ClientSession())
        yield served
