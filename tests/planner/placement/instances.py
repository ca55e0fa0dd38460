"""Made-up placement problems: engines with a linear KV cache, on devices of any size."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from local_fusion.planner.memory.need import Need, Overhead
from local_fusion.planner.placement.problem import EngineChoice, FusionNeeds, Option, Problem

GIB = 1024**3
MIB = 1024**2


@dataclass(frozen=True)
class LinearPool:
    """A KV cache of which every request takes the same, whatever else is in it."""

    bytes_per_token: int

    def bytes_for(self, context: int, requests: int = 1) -> int:
        return self.bytes_per_token * context * requests

    def requests(self, size: int, context: int) -> float:
        return size / (self.bytes_per_token * context)

    def tokens(self, size: int, context: int) -> int:
        return size // self.bytes_per_token

    def longest_context(self, size: int) -> int:
        return size // self.bytes_per_token


def need(
    *,
    ranks: int = 1,
    weights: int,
    overhead: int = 0,
    request: int = 0,
    most: int = 64,
    least: float = 1.0,
    sleeping: int = 0,
) -> Need:
    """An engine of `ranks`: weights and a request's KV cache are divided over them, the overhead is not."""
    each = max(1, request // ranks)
    return Need(
        tensor_parallel=ranks,
        context=1,
        least_context=1,
        batched_tokens=1,
        weights_bytes=weights // ranks,
        overhead=Overhead(process=overhead),
        pool=LinearPool(each),
        kv_least=int(each * least),
        kv_wanted=each,
        kv_most=each * most,
        sleeping_bytes=sleeping,
        host_bytes=weights // ranks if sleeping else 0,
    )


def engine(name: str, blocks: Iterable[tuple[int, ...]], *, load: int = 1, **sizes: float) -> EngineChoice:
    """An engine that may run on any of these blocks of devices."""
    options = tuple(Option(block, need(ranks=len(block), **sizes)) for block in blocks)  # type: ignore[arg-type]
    return EngineChoice(name, options, load)


def blocks(devices: Sequence[int], sizes: Iterable[int] = (1, 2, 4, 8)) -> list[tuple[int, ...]]:
    """Every block of these sizes."""
    return [block for size in sizes for block in combinations(devices, size)]


def fleet(engines: int, devices: int, seed: int, *, gibs: int = 80) -> Problem:
    """A rig of equal cards and models as people run them: mostly small, some large, panels that overlap."""
    draw = random.Random(seed)
    budget = devices * gibs * draw.uniform(0.45, 0.7)
    raw = [draw.choice((2, 4, 6, 9, 15, 18, 28, 36, 48, 65, 80, 140)) for _ in range(engines)]
    scale = budget / sum(raw)
    aligned = [
        tuple(range(start, start + size)) for size in (1, 2, 4, 8) for start in range(0, devices - size + 1, size)
    ]
    choices = tuple(
        engine(
            f"m{position}",
            aligned,
            weights=int(weight * scale * GIB),
            overhead=2 * GIB,
            request=int(draw.uniform(0.5, 3.0) * GIB),
            load=draw.choice((1, 1, 2, 4)),
            sleeping=GIB,
        )
        for position, weight in enumerate(raw)
    )
    fusions = []
    for number in range(max(1, engines // 4)):
        members = frozenset(draw.sample(range(engines), min(engines, draw.randint(2, 5))))
        judge = frozenset(draw.sample(range(engines), 1))
        fusions.append(FusionNeeds(f"f{number}", members | judge, members))
    return Problem((int(gibs * 0.97 * GIB),) * devices, choices, tuple(fusions))


def small(seed: int) -> Problem:
    """At most five engines on at most four devices of any sizes, often too many for them; pins and fixed sizes.

    Every third has few devices, small fusions, and engines that leave much behind when they sleep: there fusions fit
    together only in turns, and what sleeps costs others their homes.
    """
    draw = random.Random(seed)
    crowded = seed % 3 == 0
    devices = draw.randint(1, 2 if crowded else 4)
    room = tuple(draw.choice((8, 16, 24, 24, 24, 48)) * GIB for _ in range(devices))
    engines = []
    for position in range(draw.randint(3, 5) if crowded else draw.randint(1, 5)):
        possible = blocks(range(devices), (1, 2, 4))
        chosen = draw.sample(possible, min(len(possible), draw.randint(1, 3)))
        fixed = draw.random() < 0.15
        engines.append(
            engine(
                f"m{position}",
                chosen,
                weights=draw.randint(1, 24 if crowded else 40) * 512 * MIB,
                overhead=draw.randint(0, 4) * 512 * MIB,
                request=draw.randint(1, 16) * 256 * MIB,
                most=1 if fixed else draw.choice((2, 4, 64)),
                least=draw.choice((1.0, 1.0, 0.25)),
                load=draw.choice((1, 1, 2, 8)),
                sleeping=draw.choice((0, 1, 3) if crowded else (0, 1)) * GIB,
            )
        )
    fusions = []
    for number in range(draw.randint(1 if crowded else 0, 3)):
        members = frozenset(draw.sample(range(len(engines)), draw.randint(1, 2 if crowded else len(engines))))
        fusions.append(FusionNeeds(f"f{number}", members | {draw.randrange(len(engines))}, members))
    return Problem(room, tuple(engines), tuple(fusions))
