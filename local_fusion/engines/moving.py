"""What an engine is told so that it becomes ready, falls asleep and wakes: vLLM's side of the ladder of residency.

The paths exist because `engine_command` sets VLLM_SERVER_DEV_MODE for engines that sleep
(vllm/entrypoints/serve/dev). Nobody but us can ask for them: an engine listens on a socket in a folder that is ours
alone, and `server/passthrough.py` hands on three fixed paths of the API, none of them here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

from local_fusion.engines.client import EngineClient
from local_fusion.errors import EngineRejected, RequestError

Level = Literal[1, 2]
"""How deep vLLM sleeps: 1 keeps the weights in host RAM, 2 drops them; both drop the KV cache."""

_POLL_SECONDS = 0.1
RELOAD = "/collective_rpc"
"""The step in which the weights are read again."""


class TooSlow(Exception):
    """What the engine was told by `path` took more than `seconds`."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__(f"{path} took more than {seconds:.3g} s")
        self.path = path


async def become_ready(client: EngineClient) -> None:
    """Wait until the engine says it is healthy, then have it generate one token."""
    while not await client.healthy():
        await asyncio.sleep(_POLL_SECONDS)
    await first_token(client)


async def first_token(client: EngineClient) -> None:
    """Have the engine generate one token: ready means it answered. Raises `EngineError`."""
    try:
        await client.complete({"model": client.name, "prompt": "Hello", "max_tokens": 1}, "/v1/completions")
    except RequestError:
        pass  # it answers, but not with text: an embedding model
    except EngineRejected as error:
        if error.engine_status not in (404, 405, 501):
            raise


async def fall_asleep(client: EngineClient, level: Level, *, seconds: float) -> None:
    """Put the engine to sleep; no call should be in flight. Raises `EngineError`, `TooSlow` after `seconds`."""
    # Both are query parameters (a body is ignored); the mode would otherwise be `abort`, which breaks off calls.
    await _told(client, f"/sleep?level={level}&mode=wait", seconds)
    if not (await _told(client, "/is_sleeping", seconds, method="GET")).get("is_sleeping"):
        raise EngineRejected(f"{client.name} was told to sleep but is awake")


async def wake_up(client: EngineClient, level: Level, *, seconds: float, reload_seconds: float) -> None:
    """Wake the engine from `level` and have it generate a token.

    Each step may take `seconds`, reading the weights again `reload_seconds`. Raises `EngineError`, and `TooSlow`.
    """
    await _told(client, "/wake_up?tags=weights", seconds)
    if level == 2:
        # What memory the weights get back holds anything but them (vLLM issue #54235: it answers garbage, silently).
        await _told(client, RELOAD, reload_seconds, {"method": "reload_weights"})
        # Before its memory is back and not after: calls that came while it slept begin at that moment, and vLLM refuses
        # to forget prefixes as long as any call runs (seen on the CPU with vLLM 0.32).
        done = await _told(client, "/reset_prefix_cache", seconds)
        if done.get("success") is False:
            raise EngineRejected(f"{client.name} does not forget the prefixes it had cached")
    await _told(client, "/wake_up?tags=kv_cache", seconds)
    async with _at_most(seconds, "the first token after waking"):
        await first_token(client)


async def _told(
    client: EngineClient, path: str, seconds: float, payload: Mapping[str, Any] | None = None, *, method: str = "POST"
) -> dict[str, Any]:
    async with _at_most(seconds, path):
        return await client.control(method, path, payload)


@asynccontextmanager
async def _at_most(seconds: float, what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise TooSlow(what, seconds) from None
