"""Whether questions can be answered: by engines that are awake, and by those that wake up when they are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from local_fusion.config.references import beside_panel, engines_of
from local_fusion.config.schema import Config
from local_fusion.engines.engine import EngineSnapshot
from local_fusion.runtime import Runtime
from local_fusion.scheduler.records import EngineOverview


def readiness(runtime: Runtime, *, stopping: bool = False) -> dict[str, Any]:
    """`ready` where something can be answered, and the engines that start with the server have come up or failed.

    Every engine and fusion is told by itself, with a `reason` where it lacks something: a fusion names as `lacking` the
    engines that cannot answer (they are broken, or pinned ones hold what they need), as `asleep` those that must be
    woken or started first, which costs its next call time.
    """
    # Those that a reload has taken away may still be finishing.
    overview = [each for each in runtime.scheduler.overview() if each.name in runtime.engines]
    states = {each.name: each.snapshot for each in overview}
    unable = {each.name: why for each in overview if (why := _why_not(each)) is not None}
    engines = {name: _engine(snapshot, unable.get(name)) for name, snapshot in states.items()}
    fusions = {
        name: _fusion(runtime.config, name, states, unable) for name in runtime.config.fusions if name in runtime.served
    }
    residents = [each.model for each in runtime.plan.placements if each.resident and each.model in states]
    at_start = [name for name in residents if name not in runtime.joined]
    # A model that a reload brings is no reason to send requests elsewhere, unless there is nobody else.
    settled = all(_has_settled(states[name]) for name in at_start)
    settled = settled and (not residents or any(_has_settled(states[name]) for name in residents))
    answerable = any(each["ready"] for each in (*engines.values(), *fusions.values()))
    ready = answerable and settled and not stopping
    reason = None
    if not ready:
        reason = "the server is stopping" if stopping else "nothing can answer" if settled else "engines are starting"
    return {"ready": ready, "reason": reason, "engines": engines, "fusions": fusions}


def _has_settled(snapshot: EngineSnapshot) -> bool:
    """Whether its first start has come to an end, good or bad; what comes after that is no start of the server."""
    failed = snapshot.state == "broken" or (snapshot.state == "stopped" and snapshot.last_error is not None)
    return failed or snapshot.seconds_to_ready is not None


def _why_not(engine: EngineOverview) -> str | None:
    """Why an engine cannot answer; None where it can, if need be after waking up."""
    if engine.snapshot.state == "broken":
        return engine.snapshot.trouble or "it is broken"
    return engine.unreachable


def _engine(snapshot: EngineSnapshot, why_not: str | None) -> dict[str, Any]:
    return {
        "ready": why_not is None,
        "state": snapshot.state,
        "last_error": snapshot.last_error,
        "reason": why_not,
    }


def _fusion(
    config: Config, name: str, states: Mapping[str, EngineSnapshot], unable: Mapping[str, str]
) -> dict[str, Any]:
    needed, able = engines_of(config, name), states.keys() - unable.keys()
    lacking = sorted(needed - able)
    ready = _answers(config, name, able)
    reason = None
    if lacking:
        told = "; ".join(f"{engine}: {unable[engine]}" for engine in lacking)
        reason = f"goes on without {told}" if ready else f"cannot do without {told}"
    return {
        "ready": ready,
        "lacking": lacking,
        "asleep": sorted(engine for engine in needed & able if states[engine].state in ("asleep", "stopped")),
        "reason": reason,
    }


def _answers(config: Config, name: str, able: set[str]) -> bool:
    """Whether `name` can answer with the engines in `able`: members for its quorum, and one of each list of judges."""
    if name in config.models:
        return name in able
    fusion = config.fusions[name]
    candidates = sum(member.samples for member in fusion.panel if _answers(config, member.model, able))
    others = (any(_answers(config, other, able) for other in names) for names in beside_panel(fusion))
    return candidates >= fusion.quorum and all(others)
