"""What a reload has changed, as values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ValidationError

from local_fusion.config.schema import Config, ModelConfig
from local_fusion.config.server import BOUND_AT_START, ServerConfig
from local_fusion.config.validation import problems_of
from local_fusion.errors import ConfigError
from local_fusion.planner.plan import Plan

_ONE_BY_ONE = ("models", "fusions")


@dataclass(frozen=True, slots=True)
class FusionChanges:
    """Fusions by what became of them."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @classmethod
    def between(cls, before: Config, after: Config) -> FusionChanges:
        """What makes the fusions of `after` others than those of `before`."""
        old, new = before.fusions, after.fusions
        return cls(
            tuple(name for name in new if name not in old),
            tuple(name for name in old if name not in new),
            tuple(name for name in new if name in old and new[name] != old[name]),
        )


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Engines by what became of them, all in the configuration's order.

    `kept` run on as they did. `restarted` says why each had to be. `settings` are other keys that changed, of which
    `needs_restart` do nothing before the server itself is started again. `plan` is what holds now.
    """

    plan: Plan
    kept: tuple[str, ...] = ()
    started: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    restarted: Mapping[str, str] = field(default_factory=dict)
    fusions: FusionChanges = FusionChanges()
    settings: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """All of it for people."""
        engines = (("started", self.started), ("stopped", self.stopped), ("kept", self.kept))
        fusions = (
            ("new fusions", self.fusions.added),
            ("fusions gone", self.fusions.removed),
            ("changed fusions", self.fusions.changed),
        )
        told = [f"{what} {', '.join(names)}" for what, names in (*engines, *fusions) if names]
        told += [f"restarted {name} ({why})" for name, why in self.restarted.items()]
        if at_once := [key for key in self.settings if key not in self.needs_restart]:
            told.append(f"changed {', '.join(at_once)}")
        yield f"reloaded the configuration: {'; '.join(told)}"
        if self.needs_restart:
            yield f"only a restart of the server changes {', '.join(self.needs_restart)}"
        yield from self.notes


def changed_options(before: ModelConfig, after: ModelConfig) -> str:
    """The names of a model's options that differ."""
    return ", ".join(_differing(before, after))


def changed_settings(before: Config, after: Config) -> tuple[str, ...]:
    """Every key that differs outside of models and fusions."""
    found: list[str] = []
    for name in _differing(before, after):
        old, new = getattr(before, name), getattr(after, name)
        if name in _ONE_BY_ONE:
            continue
        both = isinstance(old, BaseModel) and isinstance(new, BaseModel)
        found += [f"{name}.{option}" for option in _differing(old, new)] if both else [name]
    return tuple(found)


def effective(before: Config, after: Config) -> Config:
    """`after`, with what only a start can change as it was.

    Raises `ConfigError` where the two do not go together: keys may not be dropped where others can reach the server.
    """
    values = {**after.server.model_dump(), **before.server.model_dump(include=set(BOUND_AT_START))}
    try:
        server = ServerConfig.model_validate(values)
    except ValidationError as error:
        problems = problems_of(error, {"server": values}, within=("server",))
        told = [f"{problem.key}: {problem.message}" for problem in problems]
        raise ConfigError(told, hint=f"A reload keeps {', '.join(BOUND_AT_START)}: restart the server.") from None
    return after.model_copy(update={"server": server})


def _differing(before: BaseModel, after: BaseModel) -> list[str]:
    return [name for name in type(after).model_fields if getattr(before, name, None) != getattr(after, name)]
