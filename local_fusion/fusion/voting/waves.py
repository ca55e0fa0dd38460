"""Asking a panel for its samples wave by wave, until enough is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from local_fusion.core.records import Candidate, Saving
from local_fusion.errors import LocalFusionError
from local_fusion.fusion import tool_calls
from local_fusion.fusion.panel.polling import Put, number_of, poll, require_quorum
from local_fusion.fusion.panel.seats import Seat
from local_fusion.fusion.session import Session

# Says why no more samples are needed: of the candidates so far, how many may still come, and whether the candidates are
# all that were asked for until now, or only those that were written faster than others.
Decided = Callable[[Sequence[Candidate], int, bool], str | None]


@dataclass(frozen=True, slots=True)
class Wave:
    """Single samples that are asked for at the same time; `apart`: each in a call of its own, so that it can be cut."""

    samples: tuple[Seat, ...]
    apart: bool = False


def in_turn(seats: Iterable[Seat]) -> list[Seat]:
    """Every sample by itself: the first of each member, then the second of each, and so on."""
    parts = [(number, seat.part(number, 1)) for seat in seats for number in range(seat.samples)]
    return [part for _, part in sorted(parts, key=lambda numbered: numbered[0])]


def in_waves(samples: Sequence[Seat], size: int, *, apart: bool = False) -> list[Wave]:
    """`size` samples at a time."""
    starts = range(0, len(samples), size)
    return [Wave(tuple(samples[start : start + size]), apart) for start in starts]


async def ask_in_waves(
    session: Session, waves: Sequence[Wave], put: Callable[[Wave, Sequence[Candidate]], Put], decided: Decided
) -> list[Candidate]:
    """The candidates of all `waves`, or of as many as it takes, in panel order.

    `put` says how a wave is asked, after the candidates so far. A member that fails as a whole is not asked again.
    What `decided` leaves out is kept as a saving.
    Raises as `ask_panel` does.
    """
    candidates: list[Candidate] = []
    errors: list[LocalFusionError] = []
    gone: set[str] = set()
    for number, wave in enumerate(waves):
        asked, *later = ([seat for seat in each.samples if seat.label not in gone] for each in waves[number:])
        if not asked:
            continue
        how = put(wave, candidates)
        how = replace(how, enough=_enough(decided, candidates, len(asked), sum(map(len, later))))
        failed_before = len(session.failures)
        new, failed = await poll(session, how, asked if wave.apart else _joined(asked))
        candidates = sorted([*candidates, *new], key=number_of)
        errors += failed
        gone |= {failure.member for failure in session.failures[failed_before:] if failure.code != "empty_answer"}
        left = sum(seat.label not in gone for each in later for seat in each)
        if left and (reason := decided(candidates, left, True)) is not None:
            session.saved(Saving("decided", left, reason))
            break
    require_quorum(session, candidates, errors)
    return tool_calls.settle(session, candidates)


def _enough(
    decided: Decided, before: Sequence[Candidate], asked: int, later: int
) -> Callable[[Sequence[Candidate]], str | None]:
    """`Put.enough` for a wave between others."""

    def enough(new: Sequence[Candidate]) -> str | None:
        if len(new) == asked:
            return None  # nothing is left to be broken off
        return decided([*before, *new], asked - len(new) + later, False)

    return enough


def _joined(samples: Sequence[Seat]) -> list[Seat]:
    """The samples of each member in one request."""
    ordered = sorted(samples, key=lambda seat: seat.first)
    return [
        replace(first, samples=1 + len(rest))
        for first, *rest in (list(group) for _, group in groupby(ordered, key=lambda seat: seat.index))
    ]
