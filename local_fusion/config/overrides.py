"""A request's own version of a fusion: the named one with some fields changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from local_fusion.config.checks import Parts, cycle_through, fusion_problems, idle_stages, judge_generates
from local_fusion.config.keys import fusion_keys, strategies
from local_fusion.config.problems import Problem, render_path, suggestion
from local_fusion.config.schema import Config, FusionConfig
from local_fusion.config.validation import problems_of
from local_fusion.errors import RequestError, UnknownModel

_fusions: TypeAdapter[dict[str, FusionConfig]] = TypeAdapter(dict[str, FusionConfig])


def override_fusion(config: Config, name: str, overrides: Mapping[str, Any]) -> FusionConfig:
    """The fusion `name` with `overrides` over its own fields (`deadlines` field by field, all else whole).

    Of the fusion's own fields those go that another `strategy`, or `analysis: false`, leaves without effect. What a
    request's `fusion` object holds beside fields of a fusion (`include`, `events`) must have been taken out. Raises
    `UnknownModel` for an unknown name, and `RequestError` whose `param` is a path such as `fusion.panel[0].model`.
    """
    if name in config.models:
        hint = suggestion(name, config.fusions, plural="fusions").removeprefix("; ")
        raise RequestError(f"'{name}' is a model, and only fusions can be overridden", param="fusion", hint=hint)
    if name not in config.fusions:
        raise UnknownModel(
            f"there is no fusion '{name}'", hint=suggestion(name, config.fusions, plural="fusions").removeprefix("; ")
        )
    fields = {name: _merge(config.fusions[name], overrides)}
    try:
        fusion = _fusions.validate_python(fields, strict=True)[name]
    except ValidationError as error:
        raise _request_error(problems_of(error, {"fusions": fields}, within=("fusions",))) from None
    changed = Parts(config.models, {**config.fusions, name: fusion}, config.personas)
    problems = list(fusion_problems(("fusions", name), fusion, changed))
    problems += [problem for problem, _ in cycle_through(name, changed)]
    if problems:
        raise _request_error(problems)
    return fusion


def _merge(fusion: FusionConfig, overrides: Mapping[str, Any]) -> dict[str, Any]:
    fields = fusion.model_dump(exclude_unset=True)
    strategy = overrides.get("strategy", fusion.strategy)
    if strategy in strategies():
        fields = {key: value for key, value in fields.items() if key in fusion_keys(strategy)}
        analysis = overrides.get("analysis", fields.get("analysis")) is not False
        if "deadlines" in fields:
            idle = idle_stages(strategy, analysis=analysis)
            fields["deadlines"] = {stage: value for stage, value in fields["deadlines"].items() if stage not in idle}
        if "judge" in fields and not judge_generates(strategy, analysis=analysis):
            fields["judge"] = {"model": fields["judge"]["model"]}
    deadlines = overrides.get("deadlines")
    if isinstance(deadlines, Mapping):
        overrides = {**overrides, "deadlines": {**fields.get("deadlines", {}), **deadlines}}
    return {**fields, **overrides}


def _request_error(problems: Sequence[Problem]) -> RequestError:
    """One error for all problems; `param` is the first one's."""
    params = [render_path(("fusion", *problem.path[2:])) for problem in problems]
    lines = [f"{param}: {problem.message}" for param, problem in zip(params, problems, strict=True)]
    return RequestError("\n".join(lines), param=params[0])
