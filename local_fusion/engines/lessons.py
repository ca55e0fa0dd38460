"""What engines show of themselves when they have started or slept is remembered, and counts from the next plan on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from local_fusion.engines.engine import Engine, EngineSnapshot
from local_fusion.engines.measurements import remember
from local_fusion.engines.measuring import measure, sleeping_bytes
from local_fusion.errors import EngineError
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.memory.measured import Circumstances, Measurement, circumstances
from local_fusion.planner.memory.overhead import overhead
from local_fusion.planner.plan import Placement


@dataclass(frozen=True, slots=True)
class SwapSeconds:
    """How long an engine takes to start, and to sleep and wake at either level; None is what was never measured."""

    start: float | None = None
    sleep1: float | None = None
    wake1: float | None = None
    sleep2: float | None = None
    wake2: float | None = None


def swap_seconds(inputs: Inputs, placement: Placement) -> SwapSeconds:
    """What earlier runs have measured of the engine of `placement`."""
    seen = inputs.measurements.get(_key(inputs, placement), Measurement())
    return SwapSeconds(
        start=_seconds(seen.start_ms),
        sleep1=_seconds(seen.sleep1_ms),
        wake1=_seconds(seen.wake1_ms),
        sleep2=_seconds(seen.sleep2_ms),
        wake2=_seconds(seen.wake2_ms),
    )


class Lessons:
    """Looks at every engine of a plan once it is awake or asleep. `inputs` are what the plan was made of."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._looking: set[asyncio.Task[None]] = set()
        self._unsubscribe: list[Callable[[], None]] = []

    def learn_from(self, engine: Engine, placement: Placement, log: Path) -> None:
        """Measure `engine` whenever it has started, fallen asleep or woken, and remember what was seen."""
        before = engine.snapshot

        def heard(now: EngineSnapshot) -> None:
            nonlocal before
            was, before = before, now
            if now.state == "awake" and was.state == "starting":
                self._look(self._at_start(engine, now, placement, log))
            elif now.state == "awake" and was.state == "waking":
                self._look(self._remember(placement, Measurement(**_timed(f"wake{was.level}", now.seconds_to_wake))))
            elif now.state == "asleep" and was.state == "falling_asleep":
                self._look(self._asleep(engine, now, placement))

        self._unsubscribe.append(engine.subscribe(heard))

    async def aclose(self) -> None:
        """Look no longer."""
        while self._unsubscribe:
            self._unsubscribe.pop()()
        tasks = set(self._looking)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _look(self, looking: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(looking)
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _at_start(self, engine: Engine, now: EngineSnapshot, placement: Placement, log: Path) -> None:
        seen = Measurement()
        if now.pid is not None and now.note is None:  # a note: its KV cache is not the one of the placement
            # The plan's own figure is 0 where the overhead was measured before; an engine at rest shows no activations.
            model, facts = self._inputs.config.models[engine.name], self._inputs.facts[engine.name]
            ranks, tokens = placement.tensor_parallel, placement.batched_tokens
            estimate = overhead(model, facts, ranks, placement.kind, tokens=tokens)
            with suppress(EngineError):  # stopped in the meantime
                client = await engine.ensure_awake()
                seen = await measure(client, placement, pid=now.pid, log=log, activations=estimate.activations)
            if engine.snapshot != now:
                seen = Measurement()  # it was no longer the engine that had just started, or no longer awake
        await self._remember(placement, replace(seen, **_timed("start", now.seconds_to_ready)))

    async def _asleep(self, engine: Engine, now: EngineSnapshot, placement: Placement) -> None:
        left = None if now.pid is None else await sleeping_bytes(placement, now.pid)
        if engine.snapshot != now:
            left = None
        timed = _timed(f"sleep{now.level}", now.seconds_to_sleep)
        await self._remember(placement, Measurement(sleeping_bytes=left, **timed))

    async def _remember(self, placement: Placement, seen: Measurement) -> None:
        if seen != Measurement():
            await asyncio.to_thread(remember, _key(self._inputs, placement), seen)


def _key(inputs: Inputs, placement: Placement) -> Circumstances:
    names = {device.index: device.name for device in inputs.rig.devices}
    return circumstances(
        inputs.config.models[placement.model],
        inputs.facts[placement.model].fingerprint,
        placement.tensor_parallel,
        names[placement.devices[0]],
        inputs.vllm,
        batched_tokens=placement.batched_tokens,
    )


def _timed(what: str, seconds: float | None) -> dict[str, int]:
    return {} if seconds is None else {f"{what}_ms": round(seconds * 1000)}


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
