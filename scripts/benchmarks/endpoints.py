"""The two ways to one engine: through our server, and over its own Unix socket. The client is the same for both."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from local_fusion.errors import SetupError

_PATH = "/v1/chat/completions"
# vLLM's server drops idle connections after 5 s; reusing one at that moment would fail.
_KEEP_ALIVE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Somewhere to send chat completions; `name` says where in errors."""

    name: str
    url: str
    session: aiohttp.ClientSession

    async def post(self, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """The body of the answer, read as it comes. Raises `SetupError` for any status but 200."""
        async with self.session.post(self.url + path, json=body) as response:
            pieces = [piece async for piece in response.content.iter_any()]
        answer = b"".join(pieces)
        if response.status != 200:
            said = answer[:500].decode(errors="replace")
            raise SetupError(f"{self.name} answered {path} with status {response.status}: {said}")
        return answer

    async def chat(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
        """A whole chat completion, and the seconds it took."""
        started = time.monotonic()
        answer = await self.post(_PATH, body)
        seconds = time.monotonic() - started
        parsed: dict[str, Any] = json.loads(answer)
        return parsed, seconds

    async def chat_stream(self, body: Mapping[str, Any]) -> bytes:
        """A streamed chat completion, to its end, as the bytes that came."""
        return await self.post(_PATH, {**body, "stream": True, "stream_options": {"include_usage": True}})


@asynccontextmanager
async def endpoints(url: str, socket: Path) -> AsyncIterator[tuple[Endpoint, Endpoint]]:
    """Our server at `url` and the engine on `socket`."""
    unlimited = aiohttp.ClientTimeout(total=None)
    tcp = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS)
    unix = aiohttp.UnixConnector(str(socket), limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS)
    async with (
        aiohttp.ClientSession(connector=tcp, timeout=unlimited) as ours,
        aiohttp.ClientSession(connector=unix, timeout=unlimited) as direct,
    ):
        yield Endpoint("local-fusion", url, ours), Endpoint("the engine", "http://engine", direct)
