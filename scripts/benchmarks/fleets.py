"""Made-up configurations of published models: what people might run on eight cards of 80 GiB."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.published import PUBLISHED
from local_fusion.config.schema import Config, ModelConfig
from local_fusion.hardware.rigs import parse_rig
from local_fusion.planner.facts.build import model_facts
from local_fusion.planner.facts.model import ModelFacts
from local_fusion.planner.facts.sharding import admissible_sizes
from local_fusion.planner.facts.tensors import Stored
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.memory.needs import need

RIG = "8xH100,ram=1TiB"
FITS, TIGHT, TOO_MUCH = (0.5, 0.8), (0.8, 0.95), (1.1, 1.5)
"""Shares of the cards' free memory that all models of a configuration need at least, drawn evenly between the two."""
_CONTEXTS = (None, None, 8192, 16384, 32768)  # tokens; None leaves it to the planner
_SAMPLES = (1, 1, 1, 2, 4)
_PANEL = (2, 6)
_JUDGES = 4  # a judge is one of so many largest models


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A model with its options, and the bytes it needs at least, over all its GPUs."""

    name: str
    options: ModelConfig
    facts: ModelFacts
    least: int


def fleet(models: int, seed: int, fill: tuple[float, float] = FITS) -> Inputs:
    """A configuration of so many models for `RIG`, with all that the planner wants to know; the same for a seed.

    Each model is drawn evenly from `PUBLISHED`, some more than once, as where people run fine-tunes of one model. While
    all together need more than their share of the memory, the largest is drawn again, and the smallest while they need
    less than nine tenths of it. Panels of two to six share out all models between them, and half as many panels more
    overlap these.
    """
    draw = random.Random(f"{models} models, seed {seed}")
    rig = parse_rig(RIG)
    wanted = draw.uniform(*fill) * sum(device.free_bytes for device in rig.devices)
    drawn = sorted((_draw(draw) for _ in range(models)), key=_least)
    while not 0.9 * wanted <= sum(map(_least, drawn)) <= wanted:
        drawn.pop(-1 if sum(map(_least, drawn)) > wanted else 0)
        drawn = sorted([*drawn, _draw(draw)], key=_least)
    draw.shuffle(drawn)
    named = {f"{each.name}-{position}": each for position, each in enumerate(drawn)}
    by_size = sorted(named, key=lambda name: named[name].facts.parameters)
    config = Config.model_validate(
        {
            "models": {name: each.options.model_dump() for name, each in named.items()},
            "fusions": {f"fusion-{number}": each for number, each in enumerate(_fusions(draw, by_size))},
        }
    )
    facts = {name: each.facts for name, each in named.items()}
    return Inputs(config, facts, {name: Path(name) for name in named}, rig)


def _draw(draw: random.Random) -> _Drawn:
    name = draw.choice(list(PUBLISHED))
    facts = facts_of(name)
    context = draw.choice(_CONTEXTS)
    options = ModelConfig(source=name, max_model_len=None if context is None else min(context, facts.max_model_len))
    least = min(need(options, facts, ranks, "cuda").least_bytes * ranks for ranks in admissible_sizes(facts, 8))
    return _Drawn(name, options, facts, least)


def _least(drawn: _Drawn) -> int:
    return drawn.least


@cache
def facts_of(name: str) -> ModelFacts:
    """What the planner knows of a model of `PUBLISHED`."""
    return model_facts(PUBLISHED[name], Stored(), ModelConfig(source=name))


def _fusions(draw: random.Random, by_size: Sequence[str]) -> Iterator[dict[str, Any]]:
    left = draw.sample(by_size, len(by_size))
    panels: list[list[str]] = []
    while left:
        size = draw.randint(*_PANEL)
        # Nobody is left for a panel alone.
        panels.append(left if len(left) <= size + 1 else left[:size])
        left = left[len(panels[-1]) :]
    panels += [draw.sample(by_size, min(len(by_size), draw.randint(*_PANEL))) for _ in range(-(-len(panels) // 2))]
    for panel in panels:
        members = [{"model": name, "samples": draw.choice(_SAMPLES)} for name in panel]
        yield {"strategy": "synthesize", "panel": members, "judge": {"model": draw.choice(by_size[-_JUDGES:])}}
