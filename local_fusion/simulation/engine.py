"""A simulated engine: the states and moves of `engines.engine.Engine` in modelled seconds, and no process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from local_fusion.engines.devices import DeviceLocks
from local_fusion.engines.engine import EngineSnapshot, State
from local_fusion.planner.plan import Placement
from local_fusion.simulation.batching import Batching, Limits
from local_fusion.simulation.recording import Kind, Lane, Move
from local_fusion.simulation.rig import HOST, SimulatedRig
from local_fusion.simulation.speeds import Speed

_MANY_TOKENS = 2**62


@dataclass(frozen=True, slots=True)
class Shape:
    """What an engine is made of: where it runs, how fast it is, how many sequences it runs at the same time."""

    placement: Placement
    speed: Speed
    sequences: int

    @property
    def limits(self) -> Limits:
        """Of its batch. A cache that takes nothing for a token never fills up."""
        placement = self.placement
        per_token = placement.kv_bytes_per_token
        tokens = placement.kv_cache_bytes // per_token if per_token else _MANY_TOKENS
        return Limits(self.sequences, placement.batched_tokens, tokens)

    @property
    def shares(self) -> frozenset[int]:
        """The GPUs or the cores that it may have to share."""
        return frozenset(self.placement.cores or self.placement.devices)


class SimulatedEngine:
    """Fulfils `scheduler.managed.ManagedEngine`. Its memory is booked at the `rig`, its story told to its `lane`.

    Memory is taken when a start or a wake begins, and given back when a sleep or a stop has ended.
    """

    def __init__(self, shape: Shape, rig: SimulatedRig, lane: Lane, locks: DeviceLocks) -> None:
        self.name = shape.placement.model
        self.shape = shape
        self.lane = lane
        self._rig = rig
        self._locks = locks
        self._order = asyncio.Lock()
        self._awake = asyncio.Event()
        self._listeners: list[Callable[[EngineSnapshot], None]] = []
        self._snapshot = EngineSnapshot(self.name, "stopped", 0.0, shape.placement.devices)
        self._busy_since = 0.0
        self._calls = 0
        self._batching = Batching(
            shape.speed.step, shape.limits, at_work=self._set_at_work, changed=self._set_sequences
        )

    @property
    def snapshot(self) -> EngineSnapshot:
        """The engine as it is now."""
        return self._snapshot

    def subscribe(self, listener: Callable[[EngineSnapshot], None]) -> Callable[[], None]:
        """Call `listener` at every change from now on; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def wake(self) -> None:
        """Start it if it is stopped, wake it if it is asleep; return once it is awake."""
        async with self._order:
            state, moves = self._snapshot.state, self.shape.speed.moves
            if state == "stopped":
                async with self._moving("start", "starting", moves.start):
                    self._book(self.shape.placement.awake_bytes)
                self._become("awake", seconds_to_ready=self.lane.moves[-1].seconds)
            elif state == "asleep":
                seconds = moves.wake1 if self._snapshot.level == 1 else moves.wake2
                async with self._moving("wake", "waking", seconds):
                    self._book(self.shape.placement.awake_bytes)
                self._become("awake", level=None, seconds_to_wake=self.lane.moves[-1].seconds)
            self._awake.set()

    async def sleep(self, level: Literal[1, 2]) -> None:
        """Put it to sleep; return once its memory is free. An engine that is down stays as it is."""
        async with self._order:
            if self._snapshot.state != "awake":
                return
            self._must_be_drained()
            moves, placement = self.shape.speed.moves, self.shape.placement
            async with self._moving("sleep", "falling_asleep", moves.sleep1 if level == 1 else moves.sleep2, level):
                if level == 1:
                    self._rig.book(self.name, (HOST,), placement.host_bytes * placement.tensor_parallel)
            self._book(placement.sleeping_bytes)
            self._become("asleep", seconds_to_sleep=self.lane.moves[-1].seconds)

    async def stop(self) -> None:
        """Stop it; return once its memory is free."""
        async with self._order:
            if self._snapshot.state == "stopped":
                return
            self._must_be_drained()
            async with self._moving("stop", "stopping", self.shape.speed.moves.stop):
                pass
            self._book(0)
            self._rig.book(self.name, (HOST,), 0)
            self._become("stopped", level=None)

    async def until_awake(self) -> None:
        """Return once it is awake, whoever wakes it."""
        await self._awake.wait()

    async def generate(self, prompt: int, answers: Sequence[int]) -> None:
        """Read a prompt of so many tokens and write answers of so many; wait until it is awake first."""
        await self.until_awake()
        self._calls += 1
        try:
            await self._batching.run(prompt, answers)
        finally:
            self._calls -= 1

    @asynccontextmanager
    async def _moving(self, kind: Kind, state: State, seconds: float, level: int | None = None) -> AsyncIterator[None]:
        """The block begins with the move, once the devices are ours; the move has ended when the block is left."""
        began = self._loop_time()
        self._awake.clear()
        self._become(state, **({} if level is None else {"level": level}))
        placement = self.shape.placement
        async with self._locks.hold(placement.devices if placement.kind == "cuda" else ()):
            yield
            await asyncio.sleep(seconds)
        self.lane.moves.append(Move(kind, began, self._loop_time()))

    def _book(self, size: int) -> None:
        self._rig.book(self.name, self.shape.placement.devices, size)

    def _become(self, state: State, **changes: Any) -> None:
        self._snapshot = replace(self._snapshot, state=state, since=self._loop_time(), **changes)
        self.lane.entered(state)
        for listener in tuple(self._listeners):
            listener(self._snapshot)

    def _must_be_drained(self) -> None:
        """A real engine would wait, or break off its calls; a scheduler that makes it do so is wrong."""
        if self._calls:
            raise RuntimeError(f"{self.name} is to give its memory back with {self._calls} calls in flight")

    def _set_at_work(self, at_work: bool) -> None:
        placement = self.shape.placement
        if at_work:
            self._busy_since = self._loop_time()
            self._rig.work(self.name, placement.devices, self.shape.shares, self._batching.slow_down)
        else:
            self.lane.busy_seconds += self._loop_time() - self._busy_since
            self._rig.rest(self.name)

    def _set_sequences(self, count: int) -> None:
        self.lane.running.put(self._loop_time(), count)

    def _loop_time(self) -> float:
        return asyncio.get_running_loop().time()
