"""Who needs whom: the models and fusions that a fusion names, directly and in the end."""

from __future__ import annotations

from local_fusion.config.schema import BestOfConfig, Config, FusionConfig, SynthesizeConfig


def named_by(fusion: FusionConfig) -> list[tuple[tuple[str | int, ...], str]]:
    """Each (key path within the fusion, name) that it refers to."""
    named: list[tuple[tuple[str | int, ...], str]] = [
        (("panel", index, "model"), member.model) for index, member in enumerate(fusion.panel)
    ]
    if isinstance(fusion, BestOfConfig | SynthesizeConfig):
        named.append((("judge", "model"), fusion.judge.model))
    if isinstance(fusion, SynthesizeConfig) and fusion.synthesizer is not None:
        named.append((("synthesizer", "model"), fusion.synthesizer.model))
    return named


def engines_of(config: Config, name: str) -> set[str]:
    """The models that must run for `name`, a model or a fusion of a checked configuration."""
    if name in config.models:
        return {name}
    return {engine for _, inner in named_by(config.fusions[name]) for engine in engines_of(config, inner)}
