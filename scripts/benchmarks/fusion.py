"""What a fusion costs on top of its engine calls: `synthesize` against the same calls made by hand."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

from benchmarks.endpoints import Endpoint, endpoints, forget_prefixes
from benchmarks.figures import Figure, Tell, pair
from benchmarks.serving import ENGINE, MODELS, Served
from local_fusion.config.schema import Config
from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.model import ChatModel
from local_fusion.core.sampling import Sampling
from local_fusion.engines.client import Chunk, EngineClient
from local_fusion.engines.engine import Engine
from local_fusion.engines.model import EngineModel
from local_fusion.errors import SetupError
from local_fusion.fusion.model import FusionModel

TARGET = 1.10
NAME = "measured"
FUSIONS = {
    NAME: {
        "strategy": "synthesize",
        "panel": [{"model": ENGINE, "samples": 3, "temperature": 0.8, "max_tokens": 64}],
        "judge": {"model": ENGINE, "max_tokens": 64},
    }
}
SAMPLING = {"temperature": 0, "seed": 7, "max_tokens": 64}
QUESTION = "Explain in detail how a bicycle stays upright."
_ATTEMPTS = 3  # for each pair wanted: rounding depends on how an engine batches, so a text may differ now and then

Calls = tuple[tuple[int, int], ...]  # prompt and completion tokens of each call


@dataclass(frozen=True, slots=True)
class _Run:
    """One side of a pair: its wall time and its tokens; ours, also wall time outside engine calls and CPU time."""

    seconds: float
    calls: Calls
    outside: float = 0.0
    cpu: float = 0.0


async def measure_fusion(served: Served, repeat: int, tell: Tell) -> Figure:
    """Wall time through our server over that of the same engine calls made directly, for `repeat` pairs.

    Both sides send the same prompts and read and write the same numbers of tokens: a pair that does not is dropped.
    Raises `SetupError` where too many are.
    """
    pairs: list[tuple[_Run, _Run]] = []
    dropped = 0
    async with endpoints(served.url, served.engine_socket) as (server, engine):
        await forget_prefixes(engine)
        requests = await _requests(served.engine_socket)
        for number in range(repeat * _ATTEMPTS):
            ours, direct = await pair(
                number, partial(_through_us, served, server, engine), partial(_by_hand, requests, engine)
            )
            if ours.calls != direct.calls:
                dropped += 1
                tell(f"fusion: a pair differed in tokens ({ours.calls} and {direct.calls}) and does not count")
                continue
            pairs.append((ours, direct))
            tell(f"fusion {len(pairs)}/{repeat}: {ours.seconds:.2f} s, directly {direct.seconds:.2f} s")
            if len(pairs) == repeat:
                break
        else:
            raise SetupError(
                f"only {len(pairs)} of {repeat} pairs had equal tokens on both sides",
                hint="run it again while the machine is quieter",
            )
    return _figure(pairs, dropped)


def _figure(pairs: list[tuple[_Run, _Run]], dropped: int) -> Figure:
    all_ours, all_direct = zip(*pairs, strict=True)
    fastest, fastest_direct = min(run.seconds for run in all_ours), min(run.seconds for run in all_direct)
    return Figure(
        "fusion: wall time, ours / the same calls directly",
        "×",
        tuple(ours.seconds / direct.seconds for ours, direct in pairs),
        TARGET,
        details={
            "ours_seconds": round(median(run.seconds for run in all_ours), 3),
            "direct_seconds": round(median(run.seconds for run in all_direct), 3),
            "ratio_of_the_fastest": round(fastest / fastest_direct, 3),
            "ours_outside_engine_calls_seconds": round(median(run.outside for run in all_ours), 4),
            "ours_server_cpu_seconds": round(median(run.cpu for run in all_ours), 3),
            "tokens": [{"prompt": read, "completion": written} for read, written in all_ours[0].calls],
            "dropped_pairs": dropped,
        },
    )


async def _through_us(served: Served, server: Endpoint, engine: Endpoint) -> _Run:
    await forget_prefixes(engine)
    before = served.cpu_seconds()
    answer, seconds = await server.chat(
        {"model": NAME, "messages": [{"role": "user", "content": QUESTION}], **SAMPLING}
    )
    cpu = served.cpu_seconds() - before
    if answer["fusion"]["partial"]:
        raise SetupError(f"the fusion did not come out whole: {answer['fusion']['failed']}")
    calls = answer["usage"]["fusion"]["calls"]
    tokens = tuple((call["prompt_tokens"], call["completion_tokens"]) for call in calls)
    return _Run(seconds, tokens, seconds - sum(call["seconds"] for call in calls), cpu)


async def _by_hand(requests: list[dict[str, Any]], engine: Endpoint) -> _Run:
    await forget_prefixes(engine)
    total = 0.0
    calls = []
    for request in requests:
        answer, seconds = await engine.chat(request)
        total += seconds
        calls.append((answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]))
    return _Run(total, tuple(calls))


async def _requests(socket: Path) -> list[dict[str, Any]]:
    """The engine requests that this fusion makes, found by running it here over a client that takes notes."""
    client = _NotingClient(socket, ENGINE)
    # All that a model wants of its engine is a name and a client.
    model: ChatModel = EngineModel(cast(Engine, _Attached(ENGINE, client)))
    config = Config.model_validate({"models": MODELS, "fusions": FUSIONS}).fusions[NAME]
    request = ChatRequest(messages=(Message("user", QUESTION),), sampling=Sampling(**SAMPLING))
    try:
        await FusionModel(NAME, config, lambda _: model, {}).answer(request)
    finally:
        await client.aclose()
    return client.noted


class _NotingClient(EngineClient):
    """Notes every chat request that it sends."""

    def __init__(self, socket: Path, name: str) -> None:
        super().__init__(socket, name)
        self.noted: list[dict[str, Any]] = []

    async def chat_stream(self, payload: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
        self.noted.append(dict(payload))
        async for chunk in super().chat_stream(payload):
            yield chunk


@dataclass(frozen=True, slots=True)
class _Attached:
    """An engine that somebody else runs."""

    name: str
    client: EngineClient

    async def ensure_awake(self) -> EngineClient:
        return self.client
