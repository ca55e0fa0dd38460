"""What our server costs an engine request that it only passes on: streaming throughput against the engine's own."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial
from statistics import median
from typing import Any

from benchmarks.endpoints import Endpoint, endpoints
from benchmarks.figures import Figure, Tell, pair
from benchmarks.serving import ENGINE, Served
from local_fusion.errors import SetupError

TARGET = 0.95
STREAMS = 16
TOKENS = 64


async def measure_passthrough(served: Served, repeat: int, tell: Tell) -> Figure:
    """Tokens per second of concurrent streams through our server over the same on the engine's socket."""
    pairs: list[tuple[float, float]] = []
    cpu: list[float] = []
    async with endpoints(served.url, served.engine_socket) as (server, engine):

        async def through_us() -> float:
            before = served.cpu_seconds()
            speed = await _tokens_per_second(server)
            cpu.append(served.cpu_seconds() - before)
            return speed

        await _tokens_per_second(server)  # the first time is slow on both sides
        for number in range(repeat):
            pairs.append(await pair(number, through_us, partial(_tokens_per_second, engine)))
            ours, direct = pairs[-1]
            tell(f"passthrough {number + 1}/{repeat}: {ours:.0f} tokens/s, directly {direct:.0f}")
    all_ours, all_direct = zip(*pairs, strict=True)
    return Figure(
        f"passthrough: tokens/s of {STREAMS} streams, ours / directly",
        "×",
        tuple(ours / direct for ours, direct in pairs),
        TARGET,
        at_least=True,
        details={
            "ours_tokens_per_second": round(median(all_ours), 1),
            "direct_tokens_per_second": round(median(all_direct), 1),
            "ratio_of_the_fastest": round(max(all_ours) / max(all_direct), 3),
            "ours_server_cpu_seconds": round(median(cpu), 3),
            "streams": STREAMS,
            "tokens_per_stream": TOKENS,
        },
    )


async def _tokens_per_second(endpoint: Endpoint) -> float:
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
