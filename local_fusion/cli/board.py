"""What the terminal shows while a fusion works: each stage, each member, how far it is.

On a terminal one live picture; elsewhere (a pipe, a log) one line for each thing that happened. All of it goes to
stderr: stdout holds the answer and nothing else.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from local_fusion.config.problems import printable
from local_fusion.core.events import (
    Event,
    Failed,
    MemberFinished,
    MemberProgress,
    MemberStarted,
    Noted,
    Queued,
    StageStarted,
    TextDelta,
    Trimmed,
    VerdictReached,
    origin,
)

_QUESTION = "the question"
_THOUGHTS = "thinking"
MARKS = {"done": ("✓", "green"), "failed": ("✗", "red"), "noted": ("!", "yellow")}


@dataclass
class _Row:
    """One line of the picture: somebody at work, or done, or failed."""

    title: str
    detail: str = ""
    state: str = "working"
    started: float = field(default_factory=time.monotonic)
    seconds: float | None = None
    spinner: Spinner = field(default_factory=lambda: Spinner("dots", style="cyan"))

    def end(self, state: str, detail: str) -> None:
        self.state, self.detail, self.seconds = state, detail, time.monotonic() - self.started

    def cells(self) -> tuple[RenderableType, Text, Text, Text]:
        mark: RenderableType = self.spinner if self.state == "working" else Text(*MARKS[self.state])
        seconds = time.monotonic() - self.started if self.seconds is None else self.seconds
        told = Text("" if self.state == "noted" else f"{seconds:.1f} s", style="dim")
        return mark, Text(self.title), told, Text(self.detail, style="dim")


def in_round(round: int) -> str:
    """What follows the name of whoever works in a round; nothing in the first, which most strategies never leave."""
    return f", round {round}" if round > 1 else ""


class Board:
    """Shows engines starting, then the events of one request. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: dict[str, _Row] = {}
        self._waits: dict[str, Queued] = {}
        self._round = 1
        self._live = Live(console=console, get_renderable=self._picture, refresh_per_second=10, transient=False)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the picture as it is now and stop drawing."""
        self._live.stop()

    def begin(self, key: str, title: str, detail: str = "") -> None:
        """Somebody starts working."""
        self._rows[key] = _Row(title, detail)
        self._say(f"… {title} {detail}")

    def update(self, key: str, detail: str) -> None:
        """Somebody is still working (told on a terminal only)."""
        if key in self._rows:
            self._rows[key].detail = detail

    def end(self, key: str, state: str, detail: str) -> None:
        """Somebody is done, has failed, or something is to be noted."""
        row = self._rows.setdefault(key, _Row(key))
        row.end(state, printable(detail))  # a failure may quote what an engine wrote
        self._say(f"{MARKS[state][0]} {row.title} {row.seconds or 0:.1f} s  {row.detail}")

    def note(self, text: str) -> None:
        """Something to know."""
        self._rows[f"note {len(self._rows)}"] = _Row(text, state="noted")
        self._say(f"! {text}")

    def print(self, what: RenderableType) -> None:
        """Something that stays, above the picture."""
        self._console.print(what, highlight=False)

    def show(self, event: Event) -> None:
        """One event of a request (text and results are rendered by whoever prints the answer)."""
        match event:
            case StageStarted("panel", _, round):
                self._round = round
            case StageStarted(stage, models, round):
                title = f"{'judge' if stage == 'judge' else 'synthesizer'} {', '.join(models)}"
                self.begin(f"stage {stage}", title + in_round(round))
            case MemberStarted(member, _, samples):
                title = f"member {member}{in_round(self._round)}"
                self.begin(member, title, f"{samples} samples" if samples > 1 else "")
            case MemberProgress(member, tokens):
                self.update(member, f"{tokens} tokens")
            case MemberFinished(member, candidates):
                count = len(candidates)
                self.end(member, "done", f"{count} candidate{'s' if count != 1 else ''}")
            case Failed(failure):
                key = failure.member if failure.stage == "panel" else f"stage {failure.stage}"
                self.end(key, "failed", failure.message)
            case VerdictReached():
                if "stage judge" in self._rows:
                    self.end("stage judge", "done", "")
            case Trimmed(trim):
                self.note(f"{trim.candidate} was cut to {trim.kept} of {trim.tokens} tokens to fit {trim.reader}")
            case Noted(text):
                self.note(text)
            case TextDelta():
                self._go_on()
                self._think(event)
            case _:
                source, happened = origin(event)
                if isinstance(happened, Queued):
                    self._wait(source, happened)

    def _wait(self, source: tuple[str, ...], queued: Queued) -> None:
        """Tell what a call waits for: in its member's or its stage's row, whichever is at work, else in one of its own.

        Off a terminal it is not told again where only numbers have changed.
        """
        candidates = (*source[:1], "stage judge", "stage synthesis")
        working = [key for key in candidates if key in self._rows and self._rows[key].state == "working"]
        key = working[0] if working else _QUESTION
        row = self._rows.setdefault(key, _Row(key))
        row.detail = queued.text
        before = self._waits.get(key)
        self._waits[key] = queued
        if before is None or not queued.counts_on(before):
            self._say(f"… {row.title}: {queued.text}")

    def _go_on(self) -> None:
        """The answer has begun: nothing is waited for any more."""
        for key in self._waits:
            self._rows[key].detail = ""
        self._rows.pop(_QUESTION, None)
        self._waits.clear()

    def _think(self, delta: TextDelta) -> None:
        """Tell that a model thinks, and how long, while there is nothing of its answer to be seen."""
        row = self._rows.get(_THOUGHTS)
        if delta.reasoning and row is None:
            self.begin(_THOUGHTS, _THOUGHTS)
        elif delta.text and row is not None and row.state == "working":
            self.end(_THOUGHTS, "done", "")

    def _say(self, line: str) -> None:
        if not self._console.is_terminal:
            self._console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)

    def _picture(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for row in self._rows.values():
            table.add_row(*row.cells())
        return Group(table)
