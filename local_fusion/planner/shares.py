"""How what is left is shared out: KV cache bytes, and CPU cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from local_fusion.planner.assignment import Assigned
from local_fusion.planner.needs import whole_blocks


def share_kv_cache(placed: Sequence[Assigned], room: Mapping[int, int]) -> dict[str, int]:
    """KV cache bytes of each engine on each of its devices; `room` is what each device has for engines.

    Everyone gets its least, then what is left is poured evenly, up to each engine's most.
    """
    kv = {engine.model: engine.need.kv_least for engine in placed}
    left = dict(room)
    for engine in placed:
        for index in engine.devices:
            left[index] -= engine.need.least_bytes
    growing = list(placed)
    while growing:
        sharers = {index: sum(index in engine.devices for engine in growing) for index in left}
        evenly = [left[index] // count for index, count in sharers.items() if count]
        level = min(evenly + [engine.need.kv_most - kv[engine.model] for engine in growing])
        for engine in growing:
            kv[engine.model] += level
            for index in engine.devices:
                left[index] -= level
        growing = [
            engine
            for engine in growing
            if kv[engine.model] < engine.need.kv_most and all(left[index] >= sharers[index] for index in engine.devices)
        ]
    return {engine.model: _whole(engine, kv[engine.model]) for engine in placed}


def _whole(engine: Assigned, size: int) -> int:
    """Whole blocks of what is shared out; a configured size is left alone."""
    if engine.need.kv_least == engine.need.kv_most:
        return size
    return max(engine.need.kv_least, whole_blocks(size, engine.need.kv_bytes_per_token))


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
