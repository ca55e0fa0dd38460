"""How engines on the CPU share its cores."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def share_cores(cores: Sequence[int], engines: int) -> list[tuple[int, ...]]:
    """CPU cores of each engine: even parts, at least one; with more engines than cores, engines share cores.

    Where there are enough, one core is left to the HTTP servers: vLLM's threads spin while they wait, and would starve
    whoever streams their tokens.
    """
    if not cores or not engines:
        return [()] * engines
    if engines > len(cores):
        return [(cores[position % len(cores)],) for position in range(engines)]
    if len(cores) > engines:
        cores = cores[1:]
    bounds = [len(cores) * position // engines for position in range(engines + 1)]
    return [tuple(cores[start:end]) for start, end in pairwise(bounds)]
