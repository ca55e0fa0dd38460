"""What is served, and whether it can answer."""

from __future__ import annotations

from typing import Any

from local_fusion.config.references import engines_of, named_by
from local_fusion.config.schema import Config
from local_fusion.runtime import Runtime

SETTLING = ("stopped", "starting", "backing_off")


def models(runtime: Runtime) -> list[dict[str, Any]]:
    """OpenAI's model list: fusions first, then engines, each with what a client may want to know."""
    fusions = [
        {
            **_entry(runtime, name),
            "kind": "fusion",
            "description": fusion.description,
            "strategy": fusion.strategy,
            "members": [member.model for member in fusion.panel],
        }
        for name, fusion in runtime.config.fusions.items()
        if name in runtime.served
    ]
    engines = [
        {**_entry(runtime, name), "kind": "engine", "max_model_len": runtime.placement(name).max_model_len}
        for name in runtime.engines
    ]
    return [*fusions, *engines]


def _entry(runtime: Runtime, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": runtime.started_at, "owned_by": "local-fusion"}


def readiness(runtime: Runtime) -> dict[str, Any]:
    """Whether questions are answered now: `ready` when no engine is on its way up and something can be asked.

    A fusion that has to do without engines names them as `lacking`; `engines` has their state and last error.
    """
    states = {name: engine.snapshot for name, engine in runtime.engines.items()}
    awake = {name for name, snapshot in states.items() if snapshot.state == "awake"}
    fusions = {
        name: {
            "ready": _answers(runtime.config, name, awake),
            "lacking": sorted(engines_of(runtime.config, name) - awake),
        }
        for name in runtime.config.fusions
        if name in runtime.served
    }
    settling = any(snapshot.state in SETTLING for snapshot in states.values())
    return {
        "ready": bool(awake) and not settling,
        "engines": {
            name: {"state": snapshot.state, "last_error": snapshot.last_error} for name, snapshot in states.items()
        },
        "fusions": fusions,
    }


def _answers(config: Config, name: str, awake: set[str]) -> bool:
    """Whether `name` can answer with the engines in `awake`: enough members for the quorum, and its judge."""
    if name in config.models:
        return name in awake
    fusion = config.fusions[name]
    candidates = sum(member.samples for member in fusion.panel if _answers(config, member.model, awake))
    judges = [other for path, other in named_by(fusion) if path[0] != "panel"]
    return candidates >= fusion.quorum and all(_answers(config, judge, awake) for judge in judges)
