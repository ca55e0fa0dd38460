"""What our server costs an engine request that it only passes on: streaming throughput against the engine's own."""

from __future__ import annotations

import asyncio
import json
import time
from statistics import median
from typing import Any

from benchmarks.endpoints import Endpoint, endpoints, forget_prefixes
from benchmarks.figures import Figure, Tell, pair
from benchmarks.serving import ENGINE, Served
from local_fusion.errors import SetupError

TARGET = 0.95
STREAMS = 16
TOKENS = 64


async def measure_passthrough(served: Served, repeat: int, tell: Tell) -> Figure:
    """Tokens per second of concurrent streams through our server over the same on the engine's socket."""
    pairs = []
    async with endpoints(served.url, served.engine_socket) as (server, engine):
        await _tokens_per_second(server, engine)
        for number in range(repeat):
            ours, direct = await pair(
                number, lambda: _tokens_per_second(server, engine), lambda: _tokens_per_second(engine, engine)
            )
            pairs.append((ours, direct))
            tell(f"passthrough {number + 1}/{repeat}: {ours:.0f} tokens/s, directly {direct:.0f}")
    return Figure(
        f"passthrough: tokens/s of {STREAMS} streams, ours / directly",
        "×",
        tuple(ours / direct for ours, direct in pairs),
        TARGET,
        at_least=True,
        details={
            "ours_tokens_per_second": round(median(ours for ours, _ in pairs), 1),
            "direct_tokens_per_second": round(median(direct for _, direct in pairs), 1),
            "streams": STREAMS,
            "tokens_per_stream": TOKENS,
        },
    )


async def _tokens_per_second(endpoint: Endpoint, engine: Endpoint) -> float:
    await forget_prefixes(engine)
    started = time.monotonic()
    answers = await asyncio.gather(*(endpoint.chat_stream(_body(number)) for number in range(STREAMS)))
    seconds = time.monotonic() - started
    for answer in answers:
        if (written := _written(answer)) != TOKENS:
            raise SetupError(f"{endpoint.name} streamed {written} tokens, not {TOKENS}: {answer[-300:]!r}")
    return STREAMS * TOKENS / seconds


def _body(number: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Tell me {number + 2} things about the number {number + 2}."}]
    return {"model": ENGINE, "messages": messages, "temperature": 0, "max_tokens": TOKENS, "ignore_eos": True}


def _written(answer: bytes) -> int:
    """The completion tokens that a whole stream counts at its end; 0 where it broke off."""
    *_, last, done, _ = [b"", b"", b"", *answer.split(b"\n\n")]
    if done != b"data: [DONE]":
        return 0
    usage = json.loads(last.removeprefix(b"data: ")).get("usage") or {}
    return int(usage.get("completion_tokens", 0))
