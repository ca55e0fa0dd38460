"""Whether an engine that runs is alive: looked at a few times in as long as it may be silent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from local_fusion.engines.client import EngineClient
from local_fusion.engines.clock import Clock
from local_fusion.errors import LocalFusionError

# So many looks in the time that an engine may show no life: a frozen one is found at most a quarter late.
_LOOKS = 4
# How long a step takes is an estimate; one that takes so many times longer is none any more.
_TIMES_LONGER = 3
# What moves while the engine core works. All names are from vllm/v1/metrics/loggers.py. Steps and tokens count only
# what comes out; the cache's use grows in the middle of a long prompt, too, with each chunk of it.
_FIGURES = re.compile(
    r"^vllm:(?:iteration_tokens_total_count|prompt_tokens_total|generation_tokens_total|kv_cache_usage_perc"
    r"|num_requests_running|num_requests_waiting|num_preemptions_total)(?:\{.*\})? .*$",
    re.MULTILINE,
)


async def until_lifeless(
    client: EngineClient, seconds: float, clock: Clock, *, working: Callable[[], bool], step_seconds: float = 0.0
) -> str:
    """Return when the engine has shown no life for `seconds`, with how that shows.

    Either it neither says that it is well nor gives a piece of any answer; or, while it is `working`, calls wait for
    it, none gets a piece, and nothing moves in its engine core, for longer too than its steps of `step_seconds` can
    take. Looks are counted, not time, so that nobody is found dead because we were stopped ourselves. An engine that
    is well is asked for its health and no more; one is not dead because somebody is slow to read its answer.
    """
    pause = seconds / _LOOKS
    too_many = max(_LOOKS, _TIMES_LONGER * step_seconds / pause)
    silent = stuck = 0
    heard, figures = client.heard, ""
    while True:
        well, _ = await asyncio.gather(client.healthy(min(pause, 5.0)), clock.sleep(pause))
        gave, heard = client.heard != heard, client.heard
        silent = 0 if well or gave else silent + 1
        if silent > _LOOKS:
            return "neither said that it is well nor gave a piece of an answer"
        before = figures
        figures = await _told(client, pause) if well and not gave and client.waiting and working() else ""
        stuck = stuck + 1 if figures and figures == before else 0
        if stuck >= too_many:
            return f"did not take a step although {client.waiting} calls were in flight"


def figures_of(metrics: str) -> str:
    """Everything that moves in a working engine core, from its metrics; empty where it is not told."""
    return "\n".join(_FIGURES.findall(metrics))


async def _told(client: EngineClient, seconds: float) -> str:
    try:
        async with asyncio.timeout(seconds):
            return figures_of(await client.metrics())
    except (LocalFusionError, TimeoutError):
        return ""
