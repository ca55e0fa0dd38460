"""From a configuration to running engines and answering models, closed in reverse order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from local_fusion.config.schema import Config
from local_fusion.engines.host import EngineHost, LocalHost
from local_fusion.engines.runtime_folder import RuntimeFolder, clean_up_leftovers
from local_fusion.hardware.probe import probe_rig
from local_fusion.planner.explain import refusal_error
from local_fusion.planner.planning import make_plan
from local_fusion.runtime.gathering import Tell, fetched, inputs_of, require_vllm, served_by, this_rig
from local_fusion.runtime.reloading import Reloading
from local_fusion.runtime.runtime import Runtime
from local_fusion.runtime.scheduling import pooling_of, seeing_of, terms_of, usable_of
from local_fusion.runtime.workshop import Workshop
from local_fusion.scheduler.scheduler import Scheduler


@asynccontextmanager
async def open_runtime(
    config: Config,
    *,
    only: Iterable[str] | None = None,
    tell: Tell = lambda _: None,
    make_host: Callable[[RuntimeFolder], EngineHost] = LocalHost,
) -> AsyncIterator[Runtime]:
    """Plan, then start the engines behind `only` (default: all) without waiting for them; stop them at the end.

    Those that take turns are started when they are first called.

    `tell` hears what is going on. Raises, with nothing started: `UnknownModel`, `SetupError` (vLLM or its GPU missing,
    no runtime folder), `CallerError` (a checkpoint that is not there or broken), `Refused` (does not fit).
    """
    only = None if only is None else tuple(only)
    served = served_by(config, only)
    names = [name for name in config.models if name in served]
    if make_host is LocalHost:
        require_vllm()
    for leftover in await asyncio.to_thread(clean_up_leftovers):
        if leftover.killed:
            tell(f"cleaned up {len(leftover.killed)} processes of a server that was killed (process {leftover.server})")
    checkpoints = {name: await fetched(config.models[name].source, tell) for name in names}
    for_real = make_host is LocalHost
    rig = this_rig(config) if for_real else probe_rig(share=config.engines.memory_share)
    inputs = inputs_of(config, checkpoints, rig, learned=for_real)
    plan = await asyncio.to_thread(make_plan, inputs)
    for note in plan.notes:
        tell(note)
    if plan.refusals:
        raise refusal_error(plan)
    async with AsyncExitStack() as stack:
        folder = RuntimeFolder.open()
        stack.callback(folder.close)
        workshop = Workshop(folder, make_host(folder), inputs, for_real=for_real)
        stack.push_async_callback(workshop.aclose)
        engines = {placement.model: workshop.make(inputs, placement) for placement in plan.placements}
        terms = {placement.model: terms_of(inputs, placement) for placement in plan.placements}
        scheduler = Scheduler(
            engines,
            {name: each.footprint for name, each in terms.items()},
            usable_of(plan),
            settings=config.scheduling,
            costs={name: each.costs for name, each in terms.items()},
            capacities={name: each.capacity for name, each in terms.items()},
        )
        stack.push_async_callback(scheduler.aclose)
        scheduler.start(placement.model for placement in plan.placements if placement.resident)
        named = {name: engines[name] for name in names}
        runtime = Runtime(config, plan, named, scheduler, served, seeing_of(inputs), pooling_of(inputs))
        reloading = Reloading(runtime, workshop, inputs, only)
        stack.push_async_callback(reloading.aclose)
        runtime.reload = reloading.reload
        yield runtime
