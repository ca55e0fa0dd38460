"""A request's own version of a fusion: the named one with some fields changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from local_fusion.config.checks import Parts, cycle_through, fusion_problems
from local_fusion.config.keys import fusion_keys, strategies
from local_fusion.config.pointless import pointless
from local_fusion.config.presets import expanded_fusion
from local_fusion.config.problems import KeyPath, Problem, render_path, suggestion
from local_fusion.config.references import references
from local_fusion.config.schema import Config
from local_fusion.config.strategies import STRATEGY_CONFIGS, FusionConfig
from local_fusion.config.validation import problems_of
from local_fusion.core.budget import Budget
from local_fusion.errors import RequestError, UnknownModel

_DEEPEST = 32
_fusion: TypeAdapter[FusionConfig] = TypeAdapter(FusionConfig)


def override_fusion(config: Config, name: str, overrides: Mapping[str, Any]) -> FusionConfig:
    """The fusion `name` with `overrides` over its own fields (`deadlines` field by field, all else whole). A `budget`
    can only be lowered.

    Of the fusion's own fields those go that are wrong or without effect beside the overrides, as some are with another
    `strategy`; a `preset`, made of all models, leaves none. What a request's `fusion` object holds beside fields of a
    fusion (`include`, `events`) must have been taken out.

    Raises `UnknownModel` for an unknown name, and `RequestError`, whose `param` is a path such as
    `fusion.panel[0].model`, also for commands and patterns, which only a configuration may hold.
    """
    if name in config.models:
        hint = suggestion(name, config.fusions, plural="fusions").removeprefix("; ")
        raise RequestError(f"'{name}' is a model, and only fusions can be overridden", param="fusion", hint=hint)
    if name not in config.fusions:
        raise UnknownModel(
            f"there is no fusion '{name}'", hint=suggestion(name, config.fusions, plural="fusions").removeprefix("; ")
        )
    _refuse_what_only_the_owner_may(overrides)
    if "preset" in overrides:
        fields = expanded_fusion(overrides, list(config.models))
    else:
        fields = _only_what_goes_with(overrides, _merge(config.fusions[name], overrides))
    try:
        fusion = _fusion.validate_python(fields, strict=True)
    except ValidationError as error:
        raise _request_error(problems_of(error, {"fusions": {name: fields}}, within=("fusions", name))) from None
    changed = Parts(config.models, {**config.fusions, name: fusion}, config.personas)
    problems = list(fusion_problems(("fusions", name), fusion, changed))
    problems += [problem for problem, _ in cycle_through(name, changed)]
    if problems:
        raise _request_error(problems)
    own = config.fusions[name].budget
    return fusion if own is None else fusion.model_copy(update={"budget": Budget.least(fusion.budget, own)})


def _refuse_what_only_the_owner_may(overrides: Mapping[str, Any]) -> None:
    """Programs that run on this machine, and patterns, which can be made to run for hours and cannot be interrupted."""
    for path, value in _entries(overrides, ("fusion",)):
        if path[-1] == "command":
            raise RequestError("commands are taken from the configuration only", param=render_path(path))
        if path[-1] == "extract" and isinstance(value, str) and value.startswith("regex:"):
            raise RequestError("patterns are taken from the configuration only", param=render_path(path))


def _entries(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """Everything within `value` with its path.

    Raises `RequestError` where it goes deeper than any fusion does: how deep is the client's choice.
    """
    open_ends: list[tuple[KeyPath, Any]] = [(path, value)]
    while open_ends:
        path, value = open_ends.pop()
        if len(path) > _DEEPEST:
            where = render_path(path[:3])
            raise RequestError(f"'{where}' is nested more deeply than any fusion", param=where)
        steps = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
        for step, inner in steps:
            yield (*path, step), inner
            open_ends.append(((*path, step), inner))


def _merge(fusion: FusionConfig, overrides: Mapping[str, Any]) -> dict[str, Any]:
    fields = fusion.model_dump(exclude_unset=True)
    strategy = overrides.get("strategy", fusion.strategy)
    if strategy in strategies() and strategy != fusion.strategy:
        fields = {key: value for key, value in fields.items() if key in fusion_keys(strategy)}
        if "judge" in fields:
            fields |= {"judge": _judge_for(strategy, fusion, fields.pop("judge"))}
            fields = {key: value for key, value in fields.items() if (key, value) != ("judge", None)}
    deadlines = overrides.get("deadlines")
    if isinstance(deadlines, Mapping):
        overrides = {**overrides, "deadlines": {**fields.get("deadlines", {}), **deadlines}}
    return {**fields, **overrides}


def _judge_for(strategy: str, fusion: FusionConfig, judge: Any) -> Any:
    """A fusion's judge as another strategy takes it: as it is, or only its models, or the first of them; else None."""
    shape: TypeAdapter[Any] = TypeAdapter(STRATEGY_CONFIGS[strategy].model_fields["judge"].rebuild_annotation())
    names = list(dict.fromkeys(reference.model for path, reference in references(fusion) if path[0] == "judge"))
    for value in (judge, names, *names[:1]):
        try:
            shape.validate_python(value, strict=True)
        except ValidationError:
            continue
        return value
    return None


def _only_what_goes_with(overrides: Mapping[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """The fields without those of the fusion's own that are wrong or have no effect beside those of the request."""
    while True:
        try:
            problems = list(pointless(_fusion.validate_python(fields, strict=True)))
        except ValidationError as error:
            found = problems_of(error, {"fusions": {"": fields}}, within=("fusions", ""))
            own = list(
                dict.fromkeys(problem.path[2:3] for problem in found if _may_go(problem.path[2:], fields, overrides))
            )
        else:
            own = [problem.path for problem in problems if not _is_in(overrides, problem.path)]
        if not own:
            return fields
        for path in own:
            fields = _without(fields, path)


def _may_go(path: KeyPath, fields: Mapping[str, Any], overrides: Mapping[str, Any]) -> bool:
    """Whether `path` is within an option that the request does not set and the strategy does not need."""
    if not path or path[0] not in fields or path[0] in overrides or fields["strategy"] not in strategies():
        return False
    option = STRATEGY_CONFIGS[fields["strategy"]].model_fields.get(str(path[0]))
    return option is not None and not option.is_required()


def _is_in(overrides: Mapping[str, Any], path: KeyPath) -> bool:
    """Whether the request says what is at `path`: it replaces all but the deadlines whole."""
    return path[0] in overrides and (path[0] != "deadlines" or path[1] in overrides["deadlines"])


def _without(part: Any, path: KeyPath) -> Any:
    """A copy of `part` that lacks what is at `path`."""
    step, *rest = path
    if isinstance(part, list) and isinstance(step, str):  # the path is that of one thing, short for a list of it
        return [_without(each, path) for each in part]
    if isinstance(part, list):
        return [_without(each, tuple(rest)) if index == step else each for index, each in enumerate(part)]
    if rest:
        return {key: _without(each, tuple(rest)) if key == step else each for key, each in part.items()}
    return {key: each for key, each in part.items() if key != step}


def _request_error(problems: Sequence[Problem]) -> RequestError:
    """One error for all problems; `param` is the first one's."""
    params = [render_path(("fusion", *problem.path[2:])) for problem in problems]
    lines = [f"{param}: {problem.message}" for param, problem in zip(params, problems, strict=True)]
    return RequestError("\n".join(lines), param=params[0])
