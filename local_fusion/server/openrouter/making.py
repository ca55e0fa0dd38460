"""The fusion that a request in OpenRouter's shape describes: local models in the place of theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from local_fusion.config.loading import override_fusion
from local_fusion.config.openrouter import SLUG
from local_fusion.config.problems import suggestion
from local_fusion.config.references import references
from local_fusion.config.schema import Config
from local_fusion.config.strategies import FusionConfig, SynthesizeConfig
from local_fusion.errors import RequestError, UnknownModel
from local_fusion.fusion.panel.seats import seats_of
from local_fusion.server.context import ANYBODY, Caller
from local_fusion.server.guard.bounds import visible
from local_fusion.server.openrouter.schema import Parameters, Wish

Meant = Callable[[str], str]
"""The fusion or engine that a client's name stands for. Raises `UnknownModel`."""

_DESCRIBED = ("strategy", "preset", "panel", "judge", "synthesizer", "analysis", "layers", "quorum")


@dataclass(frozen=True, slots=True)
class Made:
    """A fusion, made of the one called `name`. `called`: what the client calls each member of its own, by its label.

    `untouched`: it is the configured one, just as it is.
    """

    name: str
    fusion: FusionConfig
    called: Mapping[str, str] = field(default_factory=dict)
    untouched: bool = False


def made_of(config: Config, meant: Meant, wish: Wish, outer: str | None, caller: Caller = ANYBODY) -> Made:
    """The panel that `caller` wishes for; `outer`, where it is somebody, writes the answer.

    Raises `UnknownModel`, and `RequestError` for what does not go together.
    """
    given = wish.parameters
    name, base = _base(config, meant, given, wish.at, caller)
    replaced = {"temperature": given.temperature, "max_tokens": given.max_completion_tokens}
    limits = {option: value for option, value in replaced.items() if value is not None}
    panel: list[dict[str, Any]]
    if given.analysis_models is not None:
        panel = [{"model": meant(called), **limits} for called in given.analysis_models]
    else:
        panel = [{**member.model_dump(exclude_unset=True), **limits} for member in base.panel]
    overrides: dict[str, Any] = {}
    if limits or given.analysis_models is not None:
        overrides["panel"] = panel
    if outer is not None or given.analysis_models is not None or given.model is not None:
        overrides |= {"strategy": "synthesize", "panel": panel, "analysis": True, "quorum": 1, "layers": 1}
        overrides |= _judge_and_writer(base, meant, given, outer)
    if not overrides:
        return Made(name, base, untouched=base == config.fusions[name])
    fusion = _overridden(config, base, overrides, wish.at)
    labels = [seat.label for seat in seats_of(fusion.panel)]
    return Made(name, fusion, dict(zip(labels, given.analysis_models or (), strict=False)))


def changed(config: Config, made: Made, overrides: Mapping[str, Any], at: str, caller: Caller = ANYBODY) -> Made:
    """The same with what the `fusion` object of the caller's request changes.

    Raises `RequestError`, also for what the request says elsewhere, `at`, too.
    """
    clash = next((option for option in overrides if option in _DESCRIBED), None)
    if clash is not None and not made.untouched:
        raise RequestError(f"'fusion.{clash}' and '{at}' both describe the panel: give one", param=f"fusion.{clash}")
    if not overrides:
        return made
    beside = config.model_copy(update={"fusions": {**config.fusions, SLUG: made.fusion}})
    return replace(made, fusion=override_fusion(visible(beside, caller, SLUG), SLUG, overrides), untouched=False)


def writer_of(config: Config, meant: Meant, wish: Wish, caller: Caller = ANYBODY) -> str:
    """Who answers `caller` alone where `openrouter/fusion` is asked for without its panel.

    Raises `UnknownModel`.
    """
    if wish.parameters.model is not None:
        return meant(wish.parameters.model)
    _, base = _base(config, meant, wish.parameters, wish.at, caller)
    return meant(_of(base, "synthesizer", "judge")[0])  # who may ask a panel may not always ask who is in it, alone


def _base(config: Config, meant: Meant, given: Parameters, at: str, caller: Caller) -> tuple[str, FusionConfig]:
    """The configured fusion that a panel is made of, as the preset has it: of whom the caller may ask."""
    if not config.fusions:
        raise UnknownModel(f"there is no fusion that {SLUG} could stand for", hint="add one to `fusions`")
    if given.preset is None:
        name = meant(SLUG)
        return name, config.fusions[name]
    presets = config.openrouter.presets
    stands_for = presets.get(given.preset)
    if stands_for is None:
        told = f"unknown preset '{given.preset[:80]}'{suggestion(given.preset[:80], presets, plural='presets')}"
        raise RequestError(told, param=f"{at}.preset", hint="`openrouter.presets` says what presets stand for")
    if stands_for in config.fusions:
        if (name := meant(stands_for)) != stands_for:  # an alias of whatever is not there for the caller
            raise UnknownModel(f"the preset '{given.preset}' is not there", hint="ask for another, or for none")
        return name, config.fusions[name]
    name = meant(SLUG)
    return name, override_fusion(visible(config, caller, name), name, {"preset": stands_for})


def _judge_and_writer(base: FusionConfig, meant: Meant, given: Parameters, outer: str | None) -> dict[str, Any]:
    """The analyst is the one named, else the configured one, else who writes; greedy, as the original's.

    Who writes is the outer model, else the analyst that was named, as with the original, else who is configured to.
    """
    limit = {} if given.max_completion_tokens is None else {"max_tokens": given.max_completion_tokens}
    named = [] if given.model is None else [{"model": meant(given.model)}]
    written = [] if outer is None else [{"model": outer}]
    if isinstance(base, SynthesizeConfig):
        judges = [judge.model_dump(exclude_unset=True) for judge in base.judge]
        writers = [writer.model_dump(exclude_unset=True) for writer in base.synthesizer or ()]
        writers = writers or [{"model": judge.model} for judge in base.judge]  # whose sampling is for judging
    else:
        writers = [{"model": name} for name in _of(base, "judge")]
        judges = written or writers
    return {"judge": [{**judge, **limit} for judge in named or judges], "synthesizer": written or named or writers}


def _of(base: FusionConfig, *options: str) -> list[str]:
    """Whom a fusion names for the first of `options` that it has; its first member where it has none."""
    for option in options:
        names = [reference.model for path, reference in references(base) if path[0] == option]
        if names:
            return list(dict.fromkeys(names))
    return [base.panel[0].model]


def _overridden(config: Config, base: FusionConfig, overrides: Mapping[str, Any], at: str) -> FusionConfig:
    """`base` with `overrides`, under a name of its own: its members may well be fusions, the one it is made of, too."""
    beside = config.model_copy(update={"fusions": {**config.fusions, SLUG: base}})
    try:
        return override_fusion(beside, SLUG, overrides)
    except RequestError as error:
        raise RequestError(error.message, param=at, hint=error.hint) from None
