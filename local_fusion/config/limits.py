"""How much one request may order: panels, rounds and nesting multiply, and a request may change all of them."""

from __future__ import annotations

from local_fusion.config.references import references
from local_fusion.config.schema import Config
from local_fusion.config.strategies import (
    ConvergeConfig,
    DebateConfig,
    EvolveConfig,
    FusionConfig,
    RefineConfig,
    SynthesizeConfig,
)
from local_fusion.errors import RequestError


def refuse_too_much(config: Config, name: str, fusion: FusionConfig, answers: int) -> None:
    """Raises `RequestError` where `answers` of `fusion`, a request's own version of the fusion `name`, are too much.

    What the configuration itself lets one answer of that fusion cost is never too much.
    """
    most = max(config.server.max_request_candidates, most_candidates(config, config.fusions[name]))
    ordered = answers * most_candidates(config, fusion)
    if ordered > most:
        times = f" for each of {answers} answers" if answers > 1 else ""
        raise RequestError(
            f"this orders up to {ordered // answers:,} candidates{times}, and one request may order {most:,}",
            param="fusion" if fusion != config.fusions[name] else "n",
            hint="ask for fewer members, samples, rounds or answers; server.max_request_candidates sets the limit",
        )


def most_candidates(config: Config, fusion: FusionConfig, known: dict[str, int] | None = None) -> int:
    """Candidates that one answer of `fusion` may take, in all rounds and with those of the fusions that it calls.

    A judge or writer counts as one. `known` are those of fusions that have been counted: many ways may lead to one.
    """
    counted = {} if known is None else known

    def of(name: str) -> int:
        if name in config.models:
            return 1
        if name not in counted:
            counted[name] = most_candidates(config, config.fusions[name], counted)
        return counted[name]

    panel = sum(member.samples * of(member.model) for member in fusion.panel)
    others = sum(of(reference.model) for path, reference in references(fusion) if path[0] != "panel")
    match fusion:
        case SynthesizeConfig():
            return fusion.layers * panel + others
        case DebateConfig() | ConvergeConfig() | RefineConfig():
            return fusion.max_rounds * (panel + others)
        case EvolveConfig():
            children = fusion.generations * fusion.islands * fusion.population
            dearest = max(of(member.model) for member in fusion.panel)
            return panel + children * dearest + (1 + fusion.generations) * others
        case _:
            return panel + others
