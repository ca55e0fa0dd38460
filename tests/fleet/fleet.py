"""A whole server over six fake engines on two made-up GPUs that hold three of them, each with its own way to rest."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_fusion.config.schema import Config
from local_fusion.core.concurrency import together
from local_fusion.engines.command import engine_command, with_smaller_cache
from local_fusion.engines.devices import Claim, DeviceLocks
from local_fusion.engines.engine import Engine
from local_fusion.engines.host import LocalHost
from local_fusion.engines.runtime_folder import RuntimeFolder
from local_fusion.hardware.devices import Device
from local_fusion.planner.memory.need import Overhead
from local_fusion.planner.plan import Asleep, Placement, Plan, Solver
from local_fusion.runtime import Runtime
from local_fusion.scheduler.scheduler import Scheduler
from local_fusion.scheduler.situation import Footprint
from local_fusion.server.app import create_app
from tests.fake_engine import FakeHost, Script
from tests.ledger import Ledger
from tests.serving import listening

MIB = 2**20
CARD = 24 * MIB  # each of both GPUs
LEFT = 1 * MIB  # by an engine that sleeps
# Two of the first three fit on the first GPU, one of the others on the second.
_ENGINES: dict[str, tuple[int, int, Asleep]] = {
    "a": (0, 10, "level 1"),
    "b": (0, 10, "level 2"),
    "c": (0, 10, "stopped"),
    "d": (1, 14, "level 1"),
    "e": (1, 14, "level 2"),
    "f": (1, 14, "stopped"),
}
NAMES = tuple(_ENGINES)


@dataclass(slots=True)
class Fleet:
    """A server at `url`; what its engines hold is in the `ledger`, and `host` starts them."""

    url: str
    runtime: Runtime
    host: FakeHost
    ledger: Ledger


def fleet_config(members: int, **more: Any) -> Config:
    """Fusions of so many members, spread evenly over all engines; `by-a` is judged and written by `a`, and so on."""
    panel = [{"model": NAMES[number % len(NAMES)], "temperature": 0.5} for number in range(members)]
    return Config.model_validate(
        {
            "models": {name: {"source": name, "max_num_seqs": 32} for name in NAMES},
            "fusions": {f"by-{name}": {"strategy": "synthesize", "panel": panel, "judge": name} for name in NAMES},
            "engines": {"start_seconds": 6, "stop_seconds": 1, "hang_seconds": 2, "restarts": 2},
            "scheduling": {"fairness_seconds": 2, "max_queued_calls": 100_000},
            **more,
        }
    )


@asynccontextmanager
async def fleet(config: Config, folder: Path, scripts: dict[str, Script | list[Script]]) -> AsyncIterator[Fleet]:
    """Serve `config` on a free loopback port until the block ends. Nothing is started yet when it begins."""
    ledger = Ledger.create(folder / "ledger.json", {0: CARD, 1: CARD})
    placements = [_placement(name, *engine) for name, engine in _ENGINES.items()]
    run = RuntimeFolder.open()
    try:
        host = FakeHost(LocalHost(run), ledger=ledger)
        host.scripts = scripts
        locks = DeviceLocks()
        engines = {each.model: _engine(config, each, run, host, Claim.of(each, locks, ledger)) for each in placements}
        scheduler = Scheduler(
            engines,
            {each.model: Footprint.of(each) for each in placements},
            {0: CARD, 1: CARD},
            settings=config.scheduling,
            capacities={name: config.models[name].max_num_seqs for name in engines},
        )
        runtime = Runtime(config, _plan(placements), engines, scheduler, frozenset({**config.models, **config.fusions}))
        try:
            async with listening(create_app(runtime)) as url:
                yield Fleet(url, runtime, host, ledger)
        finally:
            await scheduler.aclose()
            await together(engine.stop() for engine in engines.values())
    finally:
        run.close()


def _placement(name: str, device: int, size: int, rest: Asleep) -> Placement:
    return Placement(
        model=name,
        checkpoint=Path("/models") / name,
        devices=(device,),
        kind="cuda",
        tensor_parallel=1,
        weights_bytes=(size - 3) * MIB,
        kv_cache_bytes=2 * MIB,
        kv_bytes_per_token=1024,
        overhead=Overhead(process=1 * MIB),
        max_model_len=8192,
        batched_tokens=2048,
        max_concurrent_requests=8.0,
        resident=False,
        asleep=rest,
        sleeping_bytes=0 if rest == "stopped" else LEFT,
    )


def _engine(config: Config, placed: Placement, run: RuntimeFolder, host: FakeHost, claim: Claim) -> Engine:
    name, model = placed.model, config.models[placed.model]
    options: dict[str, Any] = {"socket": run.socket(name), "python": "python", "environ": os.environ}
    return Engine(
        name,
        engine_command(placed, model, **options),
        socket=run.socket(name),
        log=run.log(name),
        host=host,
        settings=config.engines,
        claim=claim,
        smaller=with_smaller_cache(placed, model, **options),
    )


def _plan(placements: list[Placement]) -> Plan:
    devices = tuple(Device(index, "made up", "cuda", CARD, CARD) for index in (0, 1))
    return Plan(devices, (CARD, CARD), tuple(placements), (), Solver("greedy", None, 0.0))
