"""Other names of models and fusions, for clients that insist on theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from local_fusion.config.problems import Problem, suggestion

Pattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9~@*][A-Za-z0-9._:/~@*-]*$", max_length=128)]
"""A name, or one with `*` for any part of it."""


def meant_by(called: str, aliases: Mapping[str, str]) -> str | None:
    """What `called` stands for: by its exact name, else by the pattern that says most of it; None where it is none."""
    if called in aliases:
        return aliases[called]
    fitting = [pattern for pattern in aliases if "*" in pattern and _fits(called, pattern)]
    longest = max(fitting, key=lambda pattern: len(pattern.replace("*", "")), default=None)
    return None if longest is None else aliases[longest]


def _fits(called: str, pattern: str) -> bool:
    # One pass over the name, whatever the pattern: who sends it may make it as long as a request.
    first, *inner, last = pattern.split("*")
    begin, end = len(first), len(called) - len(last)
    if begin > end or not called.startswith(first) or not called.endswith(last):
        return False
    for part in inner:
        found = called.find(part, begin, end)
        if found < 0:
            return False
        begin = found + len(part)
    return True


def alias_problems(
    aliases: Mapping[str, str], models: Mapping[str, object], fusions: Mapping[str, object]
) -> Iterator[Problem]:
    """What is wrong with aliases, given the names of everything else."""
    names = [*models, *fusions]
    for alias, target in aliases.items():
        if alias in names:
            kind = "model" if alias in models else "fusion"
            message = f"'{alias}' is the name of a {kind}, which an alias would hide; rename one of them"
            yield Problem(("aliases", alias), message)
        if alias == "openrouter/fusion":
            message = "this stands for `openrouter.fusion`: say there what it is to be"
            yield Problem(("aliases", alias), message)
        if target not in names:
            hint = suggestion(target, names, plural="models and fusions")
            yield Problem(("aliases", alias), f"no model or fusion is called '{target}'{hint}")
