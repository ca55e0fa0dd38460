"""What a fusion costs on top of its engine calls: three strategies against the same calls made by hand."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.attached import attached
from benchmarks.endpoints import Endpoint, endpoints
from benchmarks.figures import Figure, Tell, pair
from benchmarks.serving import ENGINE, MODELS, Served
from local_fusion.config.schema import Config
from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.concurrency import together
from local_fusion.core.sampling import Sampling
from local_fusion.engines.chunks import Chunk
from local_fusion.engines.client import EngineClient
from local_fusion.errors import SetupError
from local_fusion.fusion.model import FusionModel

TARGET = 1.10
PANEL = [{"model": ENGINE, "samples": 3, "temperature": 0.8, "max_tokens": 64}]
FUSIONS: dict[str, dict[str, Any]] = {
    "synthesize": {"strategy": "synthesize", "panel": PANEL, "judge": {"model": ENGINE, "max_tokens": 64}},
    "best_of": {"strategy": "best_of", "panel": PANEL, "judge": ENGINE},
    "vote": {"strategy": "vote", "panel": PANEL, "extract": "text"},
}
CHAT = "/v1/chat/completions"
SAMPLING = {"temperature": 0, "seed": 7, "max_tokens": 64}
QUESTION = "Explain in detail how a bicycle stays upright."
_ATTEMPTS = 3  # for each pair wanted: rounding depends on how an engine batches, so a text may differ now and then

Calls = tuple[tuple[int, int], ...]  # prompt and completion tokens of each call


@dataclass(frozen=True, slots=True)
class _Run:
    """One side of a pair: its wall time and its tokens; ours, also the server's CPU time."""

    seconds: float
    calls: Calls
    cpu: float = 0.0


async def measure_fusions(served: Served, repeat: int, tell: Tell) -> list[Figure]:
    """See `measure_fusion`, for every one of `FUSIONS`."""
    return [await measure_fusion(name, served, repeat, tell) for name in FUSIONS]


async def measure_fusion(name: str, served: Served, repeat: int, tell: Tell) -> Figure:
    """Wall time through our server over that of the same engine calls made directly, for `repeat` pairs.

    Both sides send the same prompts and read and write the same numbers of tokens: a pair that does not is dropped.
    Raises `SetupError` where too many are.
    """
    pairs: list[tuple[_Run, _Run]] = []
    dropped = 0
    async with endpoints(served.url, served.engine_socket) as (server, engine):
        phases = await _phases(name, served.engine_socket)
        for number in range(repeat * _ATTEMPTS):
            ours, direct = await pair(
                number, partial(_through_us, name, served, server), partial(_by_hand, phases, engine)
            )
            if ours.calls != direct.calls:
                dropped += 1
                tell(f"{name}: a pair differed in tokens ({ours.calls} and {direct.calls}) and does not count")
                continue
            pairs.append((ours, direct))
            tell(f"{name} {len(pairs)}/{repeat}: {ours.seconds:.2f} s, directly {direct.seconds:.2f} s")
            if len(pairs) == repeat:
                break
        else:
            raise SetupError(
                f"only {len(pairs)} of {repeat} pairs had equal tokens on both sides",
                hint="run it again while the machine is quieter",
            )
    return _figure(name, pairs, dropped)


def _figure(name: str, pairs: list[tuple[_Run, _Run]], dropped: int) -> Figure:
    all_ours, all_direct = zip(*pairs, strict=True)
    fastest, fastest_direct = min(run.seconds for run in all_ours), min(run.seconds for run in all_direct)
    return Figure(
        f"{name}: wall time, ours / the same calls directly",
        "×",
        tuple(ours.seconds / direct.seconds for ours, direct in pairs),
        TARGET,
        details={
            "ours_seconds": round(median(run.seconds for run in all_ours), 3),
            "direct_seconds": round(median(run.seconds for run in all_direct), 3),
            "ratio_of_the_fastest": round(fastest / fastest_direct, 3),
            "ours_server_cpu_seconds": round(median(run.cpu for run in all_ours), 3),
            "tokens": [{"prompt": read, "completion": written} for read, written in all_ours[0].calls],
            "dropped_pairs": dropped,
        },
    )


async def _through_us(name: str, served: Served, server: Endpoint) -> _Run:
    before = served.cpu_seconds()
    answer, seconds = await server.chat(
        {"model": name, "messages": [{"role": "user", "content": QUESTION}], **SAMPLING}
    )
    cpu = served.cpu_seconds() - before
    if answer["fusion"]["partial"]:
        raise SetupError(f"the fusion did not come out whole: {answer['fusion']['failed']}")
    calls = answer["usage"]["fusion"]["calls"]
    tokens = tuple(sorted((call["prompt_tokens"], call["completion_tokens"]) for call in calls))
    return _Run(seconds, tokens, cpu)


async def _by_hand(phases: list[list[dict[str, Any]]], engine: Endpoint) -> _Run:
    """The calls of each phase at the same time, as we make them, and the phases one after another."""
    started = time.monotonic()
    calls = []
    for phase in phases:
        answers = await together(engine.chat(request) for request in phase)
        calls += [(answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) for answer, _ in answers]
    return _Run(time.monotonic() - started, tuple(sorted(calls)))


async def _phases(name: str, socket: Path) -> list[list[dict[str, Any]]]:
    """The engine requests that a fusion makes, found by running it here over a client that takes notes."""
    client = _NotingClient(socket, ENGINE)
    model = attached(client)
    config = Config.model_validate({"models": MODELS, "fusions": FUSIONS}).fusions[name]
    request = ChatRequest(messages=(Message("user", QUESTION),), sampling=Sampling(**SAMPLING))
    try:
        await FusionModel(name, config, lambda _: model, {}).answer(request)
    finally:
        await client.aclose()
    return client.phases


class _NotingClient(EngineClient):
    """Notes every chat request that it sends; forward passes of a judge go out together."""

    def __init__(self, socket: Path, name: str) -> None:
        super().__init__(socket, name)
        self.phases: list[list[dict[str, Any]]] = []
        self._judging = False

    async def chat_stream(self, payload: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
        self.phases.append([dict(payload)])
        self._judging = False
        async for chunk in super().chat_stream(payload):
            yield chunk

    async def complete(self, payload: Mapping[str, Any], path: str = CHAT) -> dict[str, Any]:
        if path == CHAT:
            if not self._judging:
                self.phases.append([])
            self._judging = True
            self.phases[-1].append(dict(payload))
        return await super().complete(payload, path)
