"""What a waiting call waits for, in words."""

from __future__ import annotations

from collections.abc import Iterable

from local_fusion.scheduler.situation import EngineView, Situation, Swap

_AT_WORK = {"awake": "is at work", "moving": "is starting", "down": "sleeps", "lost": "is broken"}


def reason(situation: Situation, name: str, *, bound: float | None) -> str:
    """Why calls to `name` wait: a phrase for people, without their number. `bound` is the fairness bound in seconds."""
    engine = situation.engines[name]
    for swap in situation.swaps:
        if swap.target == name:
            return _swapping(situation, swap)
        if any(victim.engine == name for victim in swap.victims):
            return f"makes room for {swap.target}, then comes back"
    if engine.state == "down":
        return _in_the_way(situation, engine, bound)
    if engine.state == "awake" and engine.running:
        return f"at work on {_calls(engine.running)}"
    return _AT_WORK[engine.state]


def _swapping(situation: Situation, swap: Swap) -> str:
    finishing = [situation.engines[victim.engine] for victim in swap.victims]
    running = sum(engine.running for engine in finishing)
    if swap.target in situation.draining and running:
        finish = "finishes" if len(finishing) == 1 else "finish"
        return f"swap in progress, {_names(engine.name for engine in finishing)} {finish} {_calls(running)} first"
    return "swap in progress" if swap.victims else "waking up"


def _in_the_way(situation: Situation, engine: EngineView, bound: float | None) -> str:
    devices = set(engine.footprint.devices)
    others = [
        other
        for other in situation.ordered()
        if other.name != engine.name and other.state in ("awake", "moving") and devices & set(other.footprint.devices)
    ]
    busy = [other for other in others if other.running or other.waiting] or others
    if not busy:
        return "about to be woken"
    told = f"{_names(other.name for other in busy)} {'has' if len(busy) == 1 else 'have'} its memory"
    oldest = engine.load("interactive").oldest
    if bound is None or oldest is None:
        return f"{told} until they run dry"
    return f"{told}, at most {max(0.0, oldest + bound - situation.now):.0f} s more"


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"


def _names(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
