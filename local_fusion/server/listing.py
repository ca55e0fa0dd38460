"""What is served."""

from __future__ import annotations

from typing import Any

from local_fusion.runtime import Runtime


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
