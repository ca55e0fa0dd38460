"""What has been heard of an answer so far, for when it has to end before its time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from local_fusion.core.events import (
    CallEnded,
    ChoiceEnded,
    Event,
    MemberFinished,
    MemberStarted,
    Nested,
    StageStarted,
    TextDelta,
    VerdictReached,
)
from local_fusion.core.model import Choice, Emit
from local_fusion.core.records import CallRecord, Candidate

Path = tuple[str, ...]


class SoFar:
    """An `emit` that hands every event on to another one, and keeps what an answer can be made of."""

    def __init__(self, emit: Emit) -> None:
        self.calls: list[CallRecord] = []
        self.candidates: list[Candidate] = []  # of this fusion's own panel
        self._emit = emit
        self._ended: dict[int, Choice] = {}
        self._text: defaultdict[int, str] = defaultdict(str)
        self._reasoning: defaultdict[int, str] = defaultdict(str)
        self._winner: str | None = None
        self._inner: list[Candidate] = []  # of fusions within it
        # At each level those that are answering just now: what others say, a judge say, is no answer. A level that has
        # told of no stage is no fusion but a model that asks one, and answers for want of its own words.
        self._answering: defaultdict[Path, set[str]] = defaultdict(set)

    def __call__(self, event: Event) -> None:
        """Hear of an event."""
        self._emit(event)
        match event:
            case TextDelta(text, index, reasoning=reasoning):
                self._text[index] += text
                self._reasoning[index] += reasoning
            case ChoiceEnded(index, choice):
                self._ended[index] = choice
            case CallEnded(call):
                self.calls.append(call)
            case VerdictReached(verdict):
                self._winner = verdict.winner
            case _:
                self._panel(event, ())

    def _panel(self, event: Event, path: Path) -> None:
        match event:
            case StageStarted(stage, models):
                self._answering[path] = set(models) if stage != "judge" else set()
            case MemberStarted(member):
                self._answering[path].add(member)
            case MemberFinished(member, candidates):
                self._answering[path].discard(member)
                (self._inner if path else self.candidates).extend(candidates)
            case Nested(source, inner) if source in self._answering.get(path, {source}):
                self._panel(inner, (*path, source))
            case _:
                pass

    @property
    def begun(self) -> list[int]:
        """The answers of which some text was sent, and that are not whole."""
        return sorted(index for index, text in self._text.items() if text.strip() and index not in self._ended)

    @property
    def thoughts(self) -> str:
        """What was sent of the first answer's reasoning."""
        return self._reasoning[0]

    def choices(self) -> dict[int, Choice]:
        """The answers that are whole, and the beginnings of others, as far as they were sent."""
        cut = {index: Choice(self._text[index], "length", reasoning=self._reasoning[index]) for index in self.begun}
        return {**self._ended, **cut}

    def best(self, acceptable: Callable[[Candidate], bool]) -> Candidate | None:
        """The judge's winner; else a whole candidate of the last round, the first in panel order; else the longest of
        those that were cut. Those of fusions within it come after its own.
        """
        own = [candidate for candidate in self.candidates if acceptable(candidate)]
        inner = [candidate for candidate in self._inner if acceptable(candidate)]
        for candidate in own:
            if candidate.id == self._winner:
                return candidate
        for kind in (own, inner):
            if whole := [candidate for candidate in kind if candidate.finish_reason != "length"]:
                last = max(candidate.round for candidate in whole)
                return next(candidate for candidate in whole if candidate.round == last)
        return max((*own, *inner), key=lambda candidate: len(candidate.text), default=None)
