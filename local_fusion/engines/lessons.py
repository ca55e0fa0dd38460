"""What engines show of themselves when they have started is remembered, and counts in the next plan."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from local_fusion.engines.engine import Engine, EngineSnapshot
from local_fusion.engines.measurements import remember
from local_fusion.engines.measuring import measure
from local_fusion.errors import EngineError
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.memory.measured import Measurement, circumstances
from local_fusion.planner.memory.overhead import overhead
from local_fusion.planner.plan import Placement


class Lessons:
    """Looks at every engine of a plan once it is awake. `inputs` are what the plan was made of."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._looking: set[asyncio.Task[None]] = set()

    def learn_from(self, engine: Engine, placement: Placement, log: Path) -> None:
        """Measure `engine` whenever it has woken up, and remember what was seen."""

        def heard(snapshot: EngineSnapshot) -> None:
            if snapshot.state == "awake" and snapshot.pid is not None:
                task = asyncio.create_task(self._look(engine, placement, snapshot.pid, log))
                self._looking.add(task)
                task.add_done_callback(self._looking.discard)

        engine.subscribe(heard)

    async def aclose(self) -> None:
        """Look no longer."""
        tasks = set(self._looking)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _look(self, engine: Engine, placement: Placement, pid: int, log: Path) -> None:
        model, facts = self._inputs.config.models[engine.name], self._inputs.facts[engine.name]
        names = {device.index: device.name for device in self._inputs.rig.devices}
        ranks = placement.tensor_parallel
        device, tokens = names[placement.devices[0]], placement.batched_tokens
        key = circumstances(model, facts.fingerprint, ranks, device, self._inputs.vllm, batched_tokens=tokens)
        # The plan's own figure is 0 where the overhead was measured before; an engine at rest shows no activations.
        estimate = overhead(model, facts, ranks, placement.kind, tokens=placement.batched_tokens)
        with suppress(EngineError):  # stopped in the meantime
            client = await engine.ensure_awake()
            seen = await measure(client, placement, pid=pid, log=log, activations=estimate.activations)
            if seen != Measurement():
                await asyncio.to_thread(remember, key, seen)
