"""What an engine is told so that it becomes ready, falls asleep and wakes: vLLM's side of the ladder of residency.

The paths exist because `engine_command` sets VLLM_SERVER_DEV_MODE for engines that sleep
(vllm/entrypoints/serve/dev). Nobody but us can ask for them: an engine listens on a socket in a folder that is ours
alone, and `server/passthrough.py` hands on three fixed paths of the API, none of them here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

from local_fusion.engines.client import EngineClient
from local_fusion.errors import EngineRejected, RequestError

Level = Literal[1, 2]
"""How deep vLLM sleeps: 1 keeps the weights in host RAM, 2 drops them; both drop the KV cache."""

_POLL_SECONDS = 0.1


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
    """Put the engine to sleep; no call should be in flight. Raises `EngineError`, `TimeoutError` after `seconds`."""
    async with asyncio.timeout(seconds):
        # Both are query parameters (a body is ignored); the mode would otherwise be `abort`, which breaks off calls.
        await client.control("POST", f"/sleep?level={level}&mode=wait")
        if not (await client.control("GET", "/is_sleeping")).get("is_sleeping"):
            raise EngineRejected(f"{client.name} was told to sleep but is awake")


async def wake_up(client: EngineClient, level: Level, *, seconds: float, reload_seconds: float) -> None:
    """Wake the engine from `level` and have it generate a token.

    Each step may take `seconds`, reading the weights again `reload_seconds`. Raises `EngineError`, and `TimeoutError`.
    """
    await _told(client, "/wake_up?tags=weights", seconds)
    if level == 2:
        # What memory the weights get back holds anything but them (vLLM issue #54235: it answers garbage, silently).
        await _told(client, "/collective_rpc", reload_seconds, {"method": "reload_weights"})
        # Before its memory is back and not after: calls that came while it slept begin at that moment, and vLLM refuses
        # to forget prefixes as long as any call runs (seen on the CPU with vLLM 0.32).
        done = await _told(client, "/reset_prefix_cache", seconds)
        if done.get("success") is False:
            raise EngineRejected(f"{client.name} does not forget the prefixes it had cached")
    await _told(client, "/wake_up?tags=kv_cache", seconds)
    async with asyncio.timeout(seconds):
        await first_token(client)


async def _told(
    client: EngineClient, path: str, seconds: float, payload: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    async with asyncio.timeout(seconds):
        return await client.control("POST", path, payload)
