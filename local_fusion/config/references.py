"""Who needs whom: the models and fusions that a fusion names, directly and in the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from local_fusion.config.base import Reference, listed
from local_fusion.config.panels import FusionBase
from local_fusion.config.problems import KeyPath
from local_fusion.config.schema import Config


def named_by(fusion: FusionBase) -> list[tuple[KeyPath, str]]:
    """Each (key path within the fusion, name) that it refers to, the panel first."""
    return [((*path, "model"), reference.model) for path, reference in references(fusion)]


def references(part: BaseModel) -> Iterator[tuple[KeyPath, Reference]]:
    """Each `Reference` in a part of the configuration, and the key path within it at which the user wrote it."""
    for path, found in parts_of(part):
        if isinstance(found, Reference):
            yield path, found


def parts_of(part: BaseModel) -> Iterator[tuple[KeyPath, BaseModel]]:
    """Everything of a class of its own within a part of the configuration, at any depth, and its key path there."""
    for option, field in type(part).model_fields.items():
        value = getattr(part, option)
        several = value if isinstance(value, list) else [value]
        for index, each in enumerate(several):
            if isinstance(each, BaseModel):
                alone = not isinstance(value, list) or (len(value) == 1 and _may_stand_alone(field))
                path: KeyPath = (option,) if alone else (option, index)
                yield path, each
                yield from (((*path, *deeper), inner) for deeper, inner in parts_of(each))


def _may_stand_alone(field: FieldInfo) -> bool:
    """Whether one thing is short for a list of it."""
    marks = [
        *field.metadata,
        *(mark for kind in get_args(field.annotation) for mark in getattr(kind, "__metadata__", ())),
    ]
    return any(isinstance(mark, BeforeValidator) and mark.func is listed for mark in marks)


def beside_panel(fusion: FusionBase) -> list[set[str]]:
    """What a fusion needs besides its panel: for each option the names of which one that answers is enough."""
    options: dict[str | int, set[str]] = {}
    for path, name in named_by(fusion):
        if path[0] not in ("panel", "solo"):
            options.setdefault(path[0], set()).add(name)
    return list(options.values())


def engines_of(config: Config, name: str) -> set[str]:
    """The models that must run for `name`, a model or a fusion of a checked configuration."""
    needed, ahead = {name}, [name]
    while ahead:  # each name once, however many ways lead to it
        fusion = config.fusions.get(ahead.pop())
        new = {inner for _, inner in named_by(fusion)} - needed if fusion is not None else set()
        needed |= new
        ahead += new
    return needed & config.models.keys()
