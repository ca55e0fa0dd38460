"""A device's memory as a bar over the terminal's width, readable with colours and without."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment as Piece
from rich.text import Text

from local_fusion.cli.plan_view import DeviceView, Part, Segment, in_cells, letters
from local_fusion.planner.plan import Plan

_WORDS: Mapping[Part, str] = {
    "weights": "weights",
    "kv": "KV cache",
    "overhead": "overhead",
    "asleep": "left by models asleep",
    "free": "free",
    "reserve": "kept free",
    "others": "held by others",
}
# Told apart without colour too; the second is for terminals without Unicode.
_FILLS: Mapping[Part, tuple[str, str]] = {
    "weights": ("█", "#"),
    "kv": ("▓", "="),
    "overhead": ("▒", "-"),
    "asleep": ("░", "z"),
    "free": ("·", "."),
    "reserve": ("_", "_"),
    "others": ("╱", "/"),
}
_HUES = ("cyan", "yellow", "magenta", "green", "blue", "red", "bright_cyan", "bright_yellow", "bright_magenta")
_GLUE = "\N{NO-BREAK SPACE}"
_NOBODYS: Mapping[str, str] = {"free": "dim", "reserve": "dim", "others": "bright_black"}


@dataclass(frozen=True, slots=True)
class Mark:
    """How a model is known in the bars: its letter and its hue."""

    letter: str
    hue: str


def words_of(plan: Plan, *, on_paper: bool) -> Mapping[Part, str]:
    """What each part of a device's memory is called; nobody else runs on a rig on paper."""
    if plan.devices[0].kind == "cpu":
        return {**_WORDS, "others": "the system's and others'"}
    return {**_WORDS, "others": "kept by the driver"} if on_paper else _WORDS


def marks_of(plan: Plan) -> dict[str, Mark]:
    """The mark of every placed model."""
    return {
        placement.model: Mark(letters(position), _HUES[position % len(_HUES)])
        for position, placement in enumerate(plan.placements)
    }


@dataclass(frozen=True, slots=True)
class Bar:
    """The memory of one device from end to end, the models' letters and names below."""

    view: DeviceView
    marks: Mapping[str, Mark]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        segments = self.view.segments
        cells = in_cells([segment.bytes for segment in segments], options.max_width)
        for segment, count in zip(segments, cells, strict=True):
            hue = self.marks[segment.model].hue if segment.model else _NOBODYS[segment.part]
            yield Piece(_FILLS[segment.part][options.ascii_only] * count, console.get_style(hue))
        yield Piece.line()
        yield Text.assemble(*_labels(segments, cells, self.marks), no_wrap=True)


def _labels(segments: Sequence[Segment], cells: Sequence[int], marks: Mapping[str, Mark]) -> Iterator[tuple[str, str]]:
    """A text with its style for the cells of each model and of each gap between them; the name where there is room."""
    spans: list[tuple[str | None, int]] = []
    for segment, count in zip(segments, cells, strict=True):
        before = spans.pop()[1] if spans and spans[-1][0] == segment.model else 0
        spans.append((segment.model, before + count))
    for model, width in spans:
        letter, hue = (marks[model].letter, marks[model].hue) if model else ("", "")
        name = f"{letter} {model or ''}"
        yield (name if len(name) < width else letter)[:width].ljust(width), hue


def legend(views: Sequence[DeviceView], words: Mapping[Part, str], *, width: int, ascii_only: bool) -> Text:
    """What the fills mean that are to be seen, in lines of `width` at most."""
    seen = {segment.part for view in views for segment in view.segments}
    entries = [f"{fills[ascii_only]} {words[part]}" for part, fills in _FILLS.items() if part in seen]
    glued = "   ".join(entry.replace(" ", _GLUE) for entry in entries)
    return Text(textwrap.fill(glued, width).replace(_GLUE, " "), style="dim")
