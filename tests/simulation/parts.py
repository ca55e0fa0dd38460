"""Engines, rigs and workloads for tests of the simulation: round numbers that can be computed by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from local_fusion.core.chat import ChatRequest, Message
from local_fusion.engines.devices import DeviceLocks
from local_fusion.engines.gate import OpenGate
from local_fusion.simulation import clock
from local_fusion.simulation.engine import Shape, SimulatedEngine
from local_fusion.simulation.model import SimulatedModel
from local_fusion.simulation.recording import Lane
from local_fusion.simulation.rig import SimulatedRig
from local_fusion.simulation.speeds import MoveSeconds, Speed, StepSeconds
from local_fusion.simulation.workload import Arrival
from tests.cli.plans import GIB, placed

Result = TypeVar("Result")

STEP = StepSeconds(base=0.5, token=0.0, context=0.0)
"""Two tokens a second for everybody, whatever is read."""

MOVES = MoveSeconds(start=60, stop=2, sleep1=4, wake1=3, sleep2=1, wake2=10)
SPEED = Speed(STEP, MOVES)


def now() -> float:
    """Virtual seconds."""
    return asyncio.get_running_loop().time()


@dataclass
class World:
    """GPUs of 20 GiB with engines on them; awake, each takes 12 GiB of its GPU, asleep 1 GiB."""

    host_gibs: float | None = None
    rig: SimulatedRig = field(init=False)
    locks: DeviceLocks = field(default_factory=DeviceLocks)

    def __post_init__(self) -> None:
        host = None if self.host_gibs is None else int(self.host_gibs * GIB)
        self.rig = SimulatedRig({0: 20 * GIB, 1: 20 * GIB}, host, now)

    def engine(self, name: str, *devices: int, speed: Speed = SPEED, **changes: Any) -> SimulatedEngine:
        sizes: dict[str, Any] = {"weights": 8, "kv": 3, "overhead": 1, "sleeping_bytes": GIB, "host_bytes": 8 * GIB}
        placement = placed(name, *(devices or (0,)), **{**sizes, **changes})
        return SimulatedEngine(Shape(placement, speed, 64), self.rig, Lane(name, now), self.locks)


def simulated(body: Callable[[World], Awaitable[Result]], *, host_gibs: float | None = None) -> Result:
    """Run `body` in virtual time."""

    async def main() -> Result:
        return await body(World(host_gibs))

    return clock.run(main())


def arrival(name: str = "r1", **changes: Any) -> Arrival:
    """A request whose answers have 10 tokens."""
    facts: dict[str, Any] = {"at": 0.0, "model": "a", "prompt": "Why?", "answer_tokens": 10, "spread": False}
    return Arrival(**{"id": name, "priority": "interactive", **facts, **changes})


def model_of(engine: SimulatedEngine, *arrivals: Arrival, gate: Any = None) -> SimulatedModel:
    """The engine as a model, without a scheduler unless there is a `gate`."""
    return SimulatedModel(engine, gate or OpenGate(), {each.id: each for each in arrivals or (arrival(),)})


def asking(text: str = "Why?", **changes: Any) -> ChatRequest:
    """A request with one user message, of 5 tokens unless it is longer."""
    return ChatRequest(messages=(Message("user", text),), request_id="r1", **changes)
