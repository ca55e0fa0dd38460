"""What the names of OpenRouter's Fusion stand for here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import Field, field_validator

from local_fusion.config.base import Name, Strict
from local_fusion.config.presets import PRESETS
from local_fusion.config.problems import Problem, suggestion

SLUG = "openrouter/fusion"
_USUAL = {"general-high": "quality", "general-budget": "balanced", "general-fast": "fast"}


class OpenRouterConfig(Strict):
    """OpenRouter's Fusion, made of local models; ids of theirs (`anthropic/…`) are mapped by `aliases`."""

    fusion: Name | None = Field(
        None,
        description="What `openrouter/fusion` and the tool `openrouter:fusion` stand for. Default: the first fusion.",
    )
    presets: dict[Name, Name] = Field(
        _USUAL, description="Their presets, each as a fusion, or as a preset of ours, made of all models."
    )

    def meant(self, fusions: Iterable[str]) -> str | None:
        """The fusion that `openrouter/fusion` stands for; None where there are no fusions."""
        return self.fusion or next(iter(fusions), None)

    @field_validator("presets")
    @classmethod
    def _with_the_usual(cls, given: dict[str, str]) -> dict[str, str]:
        return {**_USUAL, **given}


def openrouter_problems(
    given: OpenRouterConfig, models: Mapping[str, Any], fusions: Mapping[str, Any]
) -> Iterator[Problem]:
    """What is wrong with it, given the names of everything else."""
    if given.fusion is not None and given.fusion not in fusions:
        yield Problem(("openrouter", "fusion"), _no_fusion(given.fusion, models, [*fusions]))
    for preset, name in given.presets.items():
        if name not in fusions and name not in PRESETS:
            yield Problem(("openrouter", "presets", preset), _no_fusion(name, models, [*fusions, *PRESETS]))


def _no_fusion(name: str, models: Mapping[str, Any], valid: list[str]) -> str:
    if name in models:
        return f"'{name}' is a model, and a fusion is needed: a panel of it is one"
    return f"no fusion is called '{name}'{suggestion(name, valid, plural='fusions')}"
