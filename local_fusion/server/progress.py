"""A panel at work in short lines, which clients that show what a model thinks show as that."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import replace

from local_fusion.core.events import (
    Answered,
    ChoiceEnded,
    Event,
    Failed,
    MemberFinished,
    MemberStarted,
    Noted,
    Queued,
    StageStarted,
    TextDelta,
    VerdictReached,
    origin,
)
from local_fusion.core.model import Choice
from local_fusion.core.records import Verdict


class Lines:
    """Hears all events of one request, and says what there is to say of each."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, ...], int] = {}  # members of the stage, and those that have answered, by fusion
        self._came: dict[tuple[str, ...], int] = {}
        self._queued: dict[str, Queued] = {}  # what was last told of each model that is waited for

    def of(self, event: Event) -> str | None:
        """The line for an event; None for one that is not worth a line."""
        source, happened = origin(event)
        line = self._line(source, happened)
        return None if line is None else " › ".join((*_fusions(source, happened), line))

    def _line(self, source: tuple[str, ...], happened: Event) -> str | None:
        match happened:
            case StageStarted(stage, models, round):
                if stage == "panel":
                    self._asked[source] = self._came[source] = 0
                doing = {"panel": ("answers", "answer"), "judge": ("compares the answers", "compare the answers")}
                one, several = doing.get(stage, ("writes the answer", "write the answer"))
                again = f", round {round}" if round > 1 else ""
                return f"{_listed(models)} {one if len(models) == 1 else several}{again}"
            case MemberStarted():
                self._asked[source] = self._asked.get(source, 0) + 1
                return None
            case MemberFinished(member, candidates):
                self._came[source] = self._came.get(source, 0) + 1
                place = f"({self._came[source]} of {self._asked.get(source, 0)})"
                return f"{member} answered {place}" if candidates else f"{member} gave no answer {place}"
            case Queued():
                before = self._queued.get(happened.model)
                self._queued[happened.model] = happened
                return None if before is not None and happened.counts_on(before) else happened.text
            case Failed(failure):
                return f"{failure.member} failed: {_short(failure.message)}"
            case VerdictReached(verdict):
                return _verdict(verdict)
            case Noted(text):
                return _short(text)
            case _:
                return None


def _fusions(source: tuple[str, ...], happened: Event) -> tuple[str, ...]:
    """The fusions within the one that was asked in which it happened; that a call waits names the model already."""
    return () if isinstance(happened, Queued) else source


def _verdict(verdict: Verdict) -> str:
    if verdict.winner is not None:
        return f"{verdict.judge}: {verdict.winner} is the best answer"
    return f"{verdict.judge}: {_short(verdict.reason)}" if verdict.reason else f"{verdict.judge} is done"


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _short(text: str, most: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


async def as_reasoning(happening: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    """The same events, with lines about the panel's work as reasoning of the first answer, until its text begins.

    The whole answer's reasoning begins with them, too: what was sent is what is returned. Closes `happening`.
    """
    lines, said = Lines(), ""
    begun, first_is_whole, several = False, False, False

    def with_lines(choice: Choice) -> Choice:
        return replace(choice, reasoning=said + choice.reasoning) if said else choice

    async with aclosing(happening) as events:
        async for event in events:
            match event:
                case TextDelta(text, reasoning=reasoning):
                    begun = begun or bool(text.strip() or reasoning.strip())
                case ChoiceEnded(index, choice):
                    begun, several = True, several or index > 0
                    if index == 0:
                        first_is_whole = True
                        event = replace(event, choice=with_lines(choice))
                case Answered(reply) if reply.choices and (first_is_whole or not several):
                    first, *others = reply.choices
                    event = Answered(replace(reply, choices=(with_lines(first), *others)))
                case _ if not begun and (line := lines.of(event)) is not None:
                    said += f"{line}\n"
                    yield TextDelta("", reasoning=f"{line}\n")
                case _:
                    pass
            yield event
