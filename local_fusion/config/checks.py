"""Cross-checks: what only shows when the parts of a configuration are seen together. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from local_fusion.config.aliases import alias_problems
from local_fusion.config.openrouter import OpenRouterConfig, openrouter_problems
from local_fusion.config.personas import PERSONAS
from local_fusion.config.pointless import contradictions, pointless
from local_fusion.config.problems import KeyPath, Problem, suggestion
from local_fusion.config.references import named_by
from local_fusion.config.schema import Config, ModelConfig
from local_fusion.config.strategies import FusionConfig, MuseConfig, RelayConfig

_SET_BY_US = (  # arguments of vLLM's server whose values follow from the plan or from how engines are run
    "--model",
    "--served-model-name",
    "--host",
    "--port",
    "--uds",
    "--api-key",
    "--config",
    "--gpu-memory-utilization",
    "--device-memory-utilization",
    "--device-ids",
    "--pipeline-parallel-size",
    "-pp",
    "--data-parallel-size",
    "-dp",
)
_OPTIONS = {
    f"--{name.replace('_', '-')}": name
    for name in ModelConfig.model_fields
    if name not in ("source", "gpus", "eager", "tensor_parallel", "kv_cache_bytes", "extra_args")
} | {
    "--tensor-parallel-size": "tensor_parallel",
    "-tp": "tensor_parallel",
    "--kv-cache-memory-bytes": "kv_cache_bytes",
    "--enforce-eager": "eager",
    "--enable-auto-tool-choice": "tool_call_parser",
    "-q": "quantization",
}


@dataclass(frozen=True, slots=True)
class Parts:
    """What the cross-checks look at; None stands for a part that exists but is not valid in itself."""

    models: Mapping[str, ModelConfig | None]
    fusions: Mapping[str, FusionConfig | None]
    personas: Collection[str]
    aliases: Mapping[str, str] = field(default_factory=dict)
    openrouter: OpenRouterConfig = field(default_factory=OpenRouterConfig)

    @classmethod
    def of(cls, config: Config) -> Parts:
        """All parts of a valid configuration."""
        return cls(config.models, config.fusions, config.personas, config.aliases, config.openrouter)


def check_config(config: Config) -> list[Problem]:
    """Everything that is wrong between the parts of a configuration."""
    return check_parts(Parts.of(config))


def check_parts(parts: Parts) -> list[Problem]:
    """The same for a configuration of which only some parts are valid in themselves."""
    problems = [
        Problem(("fusions", name), f"'{name}' is also the name of a model; both are served by name, so rename one")
        for name in parts.fusions
        if name in parts.models
    ]
    for name, model in parts.models.items():
        if model is not None:
            problems += _model_problems(("models", name), model)
    cycles: list[tuple[Problem, tuple[str, ...]]] = []
    for name, fusion in parts.fusions.items():
        if fusion is not None:
            problems += fusion_problems(("fusions", name), fusion, parts)
        if not any(name in cycle for _, cycle in cycles):
            cycles += cycle_through(name, parts)
    problems += alias_problems(parts.aliases, parts.models, parts.fusions)
    problems += openrouter_problems(parts.openrouter, parts.models, parts.fusions)
    return problems + [problem for problem, _ in cycles]


def fusion_problems(path: KeyPath, fusion: FusionConfig, parts: Parts) -> Iterator[Problem]:
    """What is wrong with one fusion, given the names of everything else (but for cycles)."""
    names = [*parts.models, *parts.fusions]
    for where, called in named_by(fusion):
        if called not in names:
            hint = suggestion(called, names, plural="models and fusions")
            yield Problem((*path, *where), f"no model or fusion is called '{called}'{hint}")
    personas = [*PERSONAS, *parts.personas]
    for index, member in enumerate(fusion.panel):
        if member.persona is not None and member.persona not in personas:
            hint = suggestion(member.persona, personas, plural="personas")
            yield Problem((*path, "panel", index, "persona"), f"unknown persona '{member.persona}'{hint}")
    for problem in (*contradictions(fusion), *_fusions_that_would_go_on(fusion, parts), *pointless(fusion)):
        yield Problem((*path, *problem.path), problem.message)


def _fusions_that_would_go_on(fusion: FusionConfig, parts: Parts) -> Iterator[Problem]:
    """Only engines can go on with an answer that was begun."""
    match fusion:
        case RelayConfig():
            instead = "a relay takes models only"
        case MuseConfig(trigger=trigger) if trigger.repetition:
            instead = "name a model, or set the trigger's `repetition` to false"
        case _:
            return
    for index, member in enumerate(fusion.panel):
        if member.model in parts.fusions and member.model not in parts.models:
            message = f"'{member.model}' is a fusion, which cannot go on with an answer that was begun; {instead}"
            yield Problem(("panel", index, "model"), message)


def _model_problems(path: KeyPath, model: ModelConfig) -> Iterator[Problem]:
    for index, gpu in enumerate(model.gpus or ()):
        if gpu < 0:
            yield Problem((*path, "gpus", index), f"expected the index of a GPU, from 0, got {gpu}")
    for index, argument in enumerate(model.extra_args):
        given = argument.partition("=")[0].replace("_", "-").replace("--no-", "--", 1)
        flag = _listed(given)
        told = flag if flag == given else f"{given} can be read as {flag}, which"
        if flag in _OPTIONS:
            message = f"{told} would go behind the planner's back; use the option `{_OPTIONS[flag]}` instead"
            yield Problem((*path, "extra_args", index), message)
        elif flag is not None:
            yield Problem((*path, "extra_args", index), f"{told} is decided by the plan and cannot be given; remove it")


def _listed(flag: str) -> str | None:
    """The argument of ours that vLLM would take `flag` for: itself, or one that it abbreviates (argparse allows it)."""
    listed = (*_OPTIONS, *_SET_BY_US)
    if flag in listed:
        return flag
    if not flag.startswith("--") or flag == "--":
        return None
    return next((name for name in listed if name.startswith(flag)), None)


def cycle_through(name: str, parts: Parts) -> Iterator[tuple[Problem, tuple[str, ...]]]:
    """Whether the fusion `name` calls itself, by way of others or not: a problem at the reference, and the cycle."""
    fusion = parts.fusions.get(name)
    for where, called in named_by(fusion) if fusion is not None else ():
        way_back = _way(called, name, parts, set())
        if way_back is not None:
            circle = " → ".join((name, *way_back))
            message = f"fusions go round in a circle: {circle}; take one of them out"
            yield Problem(("fusions", name, *where), message), way_back
            return


def _way(start: str, end: str, parts: Parts, seen: set[str]) -> tuple[str, ...] | None:
    """The names on a way from fusion to fusion, both ends included."""
    if start == end:
        return (end,)
    fusion = parts.fusions.get(start)
    if fusion is None or start in seen:
        return None
    seen.add(start)
    for _, called in named_by(fusion):
        rest = _way(called, end, parts, seen)
        if rest is not None:
            return (start, *rest)
    return None
