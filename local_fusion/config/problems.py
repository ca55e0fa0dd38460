"""A problem in a configuration: where (a key path), what was expected, and the nearest thing that would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

KeyPath = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at `path`; `line` (from 1) where the path alone does not tell it."""

    path: KeyPath
    message: str
    line: int | None = None

    @property
    def key(self) -> str:
        """The path as people write it: `fusions.quality.panel[0].model`."""
        return render_path(self.path)


def render_path(path: KeyPath) -> str:
    """A key path as people write it; keys with dots in them are quoted: `models["qwen2.5"].source`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f'["{step}"]'
    return text


def nearest(word: str, valid: Iterable[str]) -> str | None:
    """The valid name that `word` was most likely meant to be, or None if none is near."""
    by_folded = {name.casefold(): name for name in valid}
    found = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None


def suggestion(word: str, valid: Iterable[str], *, plural: str) -> str:
    """The end of a message about an unknown `word`: `; did you mean 'x'?`, else the list of what is valid."""
    names = list(valid)
    near = nearest(word, names)
    if near is not None:
        return f"; did you mean '{near}'?"
    return f"; valid {plural}: {', '.join(names)}" if names else f"; there are no {plural}"


def printable(text: str) -> str:
    """A text of unknown origin for a terminal: what would move its cursor or change its state is written as `\\x1b`."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def shown(value: Any) -> str:
    """A value as it is quoted in a message, shortened and printable."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str():
            short = value if len(value) <= _LONGEST_SHOWN else f"{value[:_LONGEST_SHOWN]}…"
            return f"the text '{printable(short)}'"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case _:
            return str(value)[:_LONGEST_SHOWN]
