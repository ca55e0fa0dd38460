"""Other programs' rules of thumb for what goes on which GPU, and what comes of any placement when it is started.

The rules decide who is awake and where. Everything else is done for them as well as we can: what really fits is told by
our facts, and KV cache is shared out evenly. Who finds no place is not served: turns are not among the rules.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from local_fusion.planner.facts.model import ModelFacts
from local_fusion.planner.placement.goals import goals_of
from local_fusion.planner.placement.problem import Appetite, Assignment, Home, Option, Problem
from local_fusion.planner.placement.shares import share_kv_cache

_GIB = 1024**3

Started = list[tuple[int, Option]]
"""Engines by position with where they are to run, in the order in which they start."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a placement is worth.

    `awake`: models that run at the same time; `served`: these and those that take turns. `out_of_memory`: models that
    were started and found too little memory. `fusions`: those all of whose models are served. `meetings`: pairs of
    panel mates that share a GPU and so slow each other down. `weakest`: requests that each fusion can have under way at
    once, of whole contexts, by what its KV caches hold; 0 where one is not served.
    """

    awake: int
    served: int
    out_of_memory: int
    fusions: int
    meetings: int
    weakest: float


def outcome(
    problem: Problem, assignment: Assignment, kv: Mapping[int, int] | None = None, out_of_memory: int = 0
) -> Outcome:
    """What an assignment is worth. KV cache that is not given is shared out as our plans share it."""
    kv = share_kv_cache(problem, assignment).kv_bytes if kv is None else kv
    levels = {
        engine: _level(home.option.appetite(problem.engines[engine].load), kv[engine])
        for engine, home in assignment.items()
    }
    goals = goals_of(problem, assignment)
    return Outcome(
        awake=goals.residents,
        served=goals.homes,
        out_of_memory=out_of_memory,
        fusions=goals.served,
        meetings=goals.collisions,
        weakest=min(min(levels.get(engine, 0.0) for engine in fusion.engines) for fusion in problem.fusions),
    )


def _level(appetite: Appetite, size: int) -> float:
    return (size - appetite.base) / appetite.slope if appetite.slope else math.inf


def start(problem: Problem, chosen: Started) -> Outcome:
    """Start engines one after another: each that finds its least needs free runs, every other one is out of memory."""
    left = list(problem.room)
    running: dict[int, Home] = {}
    for engine, option in chosen:
        if all(left[device] >= option.need.least_bytes for device in option.devices):
            running[engine] = Home(option)
            for device in option.devices:
                left[device] -= option.need.least_bytes
    return outcome(problem, running, out_of_memory=len(chosen) - len(running))


def first_fit(problem: Problem, facts: Mapping[str, ModelFacts]) -> Started:
    """GPUStack's rule: a model claims 1.2 times its weights and 2 GiB of the first GPU that has as much unclaimed.

    One that fits on no GPU is split over 2, 4 or 8, evenly. `gpustack/policies/utils.py: estimate_model_vram`.
    """
    left = list(problem.room)
    chosen: Started = []
    for engine, options in _by_ranks(problem):
        claim = int(1.2 * facts[problem.engines[engine].name].weights_bytes) + 2 * _GIB
        for option in options:
            share = claim // len(option.devices)
            if all(left[device] >= share for device in option.devices):
                chosen.append((engine, option))
                for device in option.devices:
                    left[device] -= share
                break
    return chosen


def four_fifths(problem: Problem, facts: Mapping[str, ModelFacts]) -> Started:
    """Ollama's rule: file size and one context's KV cache may take 80 % of what is free, on the GPU with most free.

    The KV cache by the formula 2 × layers × KV heads × head size × context × 2 bytes, whatever layers cache really. One
    that fits on no GPU is split over 2, 4 or 8. Free is what the models before really left.
    """
    free = list(problem.room)
    chosen: Started = []
    for engine, options in _by_ranks(problem):
        known = facts[problem.engines[engine].name]
        token = sum(each.count * each.kv_heads * (each.head_size + each.head_size_v) * 2 for each in known.cache)
        fitting = [
            option
            for option in options
            if (known.weights_bytes + token * option.need.context) / len(option.devices)
            <= 0.8 * min(free[device] for device in option.devices)
        ]
        if fitting:
            fewest = [option for option in fitting if len(option.devices) == len(fitting[0].devices)]
            option = max(fewest, key=lambda option: min(free[device] for device in option.devices))
            chosen.append((engine, option))
            for device in option.devices:
                free[device] -= option.need.fixed_bytes + option.need.kv_wanted
    return chosen


def _by_ranks(problem: Problem) -> Iterator[tuple[int, Iterable[Option]]]:
    """Every engine with its options, those over fewest GPUs first."""
    for engine, each in enumerate(problem.engines):
        yield engine, sorted(each.options, key=lambda option: (len(option.devices), option.devices))
