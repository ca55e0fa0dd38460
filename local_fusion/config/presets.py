"""Presets: whole fusions by name, made of whatever models the user has, best first.

Counts and temperatures are chosen, not measured, where no source is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from local_fusion.config.problems import suggestion

_VARIED = 0.7  # a temperature at which samples of one model differ and still make sense
_PERSPECTIVES = ("skeptic", "tester", "user_advocate", "systems_thinker")
_COUNCILLORS = ("first_principles", "engineer", "skeptic")

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Preset:
    """A ready-made fusion: what it is for, and its fields for models of these names, of which the first is the best."""

    explanation: str
    fields: Callable[[list[str]], Fields]


def _samples(model: str, count: int) -> Fields:
    return {"model": model, "samples": count, "temperature": _VARIED}


def _three(models: list[str]) -> list[Any]:
    """All models, as often as it takes for three voices."""
    samples = {1: 3, 2: 2}.get(len(models))
    return list(models) if samples is None else [_samples(model, samples) for model in models]


def _fast(models: list[str]) -> Fields:
    """The last model, likely the quickest, three times, and the first only where these disagree."""
    if len(models) == 1:
        return {"strategy": "vote", "panel": [_samples(models[0], 8)], "adaptive": {}}
    return {"strategy": "route", "panel": [_samples(models[-1], 3)], "otherwise": models[0]}


def _balanced(models: list[str]) -> Fields:
    panel: list[Any] = list(models) if len(models) > 1 else [_samples(models[0], 4)]
    return {"strategy": "best_of", "panel": panel, "judge": models[:2]}


def _quality(models: list[str]) -> Fields:
    panel = [_samples(model, 2 if len(models) > 1 else 6) for model in models]
    return {"strategy": "synthesize", "panel": panel, "judge": models[:2]}


def _self(models: list[str]) -> Fields:
    return {"strategy": "synthesize", "panel": [_samples(models[0], 6)], "judge": models[0], "analysis": False}


def _council(models: list[str]) -> Fields:
    alone = [{"model": models[0], "persona": persona, "temperature": _VARIED} for persona in _COUNCILLORS]
    return {"strategy": "council", "panel": _three(models) if len(models) > 1 else alone, "chairman": models[:2]}


def _code(models: list[str]) -> Fields:
    criteria = ["correctness, edge cases included", "does all that was asked for, and nothing else", "readability"]
    judges = [{"kind": "rubric", "model": model, "criteria": criteria} for model in models[:2]]
    return {"strategy": "best_of", "panel": [_samples(models[0], 4), *models[1:]], "judge": judges}


def _debate(models: list[str]) -> Fields:
    return {"strategy": "debate", "panel": _three(models)}


def _review(models: list[str]) -> Fields:
    seats = max(len(models), len(_PERSPECTIVES))
    panel = [
        {"model": models[seat % len(models)], "persona": _PERSPECTIVES[seat % len(_PERSPECTIVES)]}
        for seat in range(seats)
    ]
    return {"strategy": "review", "panel": panel, "judge": models[:2]}


PRESETS: dict[str, Preset] = {
    "fast": Preset("Small models first; the best one only where they disagree.", _fast),
    "balanced": Preset("The best of all models' answers, word for word.", _balanced),
    "quality": Preset("All models answer twice; the best one compares and writes the final answer.", _quality),
    "self": Preset("Six answers of the best model, which makes one of them.", _self),
    "council": Preset("All models rank the others' answers; the best one writes, knowing the ranking.", _council),
    "code": Preset("The best of several programs, judged by a rubric, word for word.", _code),
    "debate": Preset("All models answer, see each other's answers and revise, then vote.", _debate),
    "review": Preset("No answer but what is wrong with a document, from several perspectives.", _review),
}


def expanded(data: Any) -> Any:
    """A configuration's data with fusions in the place of presets; what is beside `preset` replaces the preset's own.

    What cannot be expanded stays as it is: validation finds it, and `why_not` says what is wrong.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("fusions"), Mapping):
        return data
    models = _names(data)
    return {**data, "fusions": {name: expanded_fusion(fusion, models) for name, fusion in data["fusions"].items()}}


def expanded_fusion(fusion: Any, models: list[str]) -> Any:
    """The same for one fusion, over these models."""
    if not isinstance(fusion, Mapping) or "strategy" in fusion or not models:
        return fusion
    name = fusion.get("preset")
    if not isinstance(name, str) or name not in PRESETS:
        return fusion
    return {**PRESETS[name].fields(models), **{key: value for key, value in fusion.items() if key != "preset"}}


def why_not(preset: Any) -> str:
    """What is wrong with a `preset` that could not be expanded."""
    if not isinstance(preset, str):
        return f"expected the name of a preset: {', '.join(PRESETS)}"
    if preset not in PRESETS:
        return f"unknown preset '{preset}'{suggestion(preset, PRESETS, plural='presets')}"
    return "there are no models to make it of"


def _names(data: Mapping[str, Any]) -> list[str]:
    models = data.get("models")
    return [name for name in models if isinstance(name, str)] if isinstance(models, Mapping) else []
