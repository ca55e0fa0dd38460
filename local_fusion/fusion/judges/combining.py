"""Scores of several judges as one. A row is one judge's, a column one candidate; None: it has no say about that one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean, pstdev

from local_fusion.fusion.judges.deciding import EVEN

Row = Sequence[float | None]

LEAST_IN_COMMON = 3  # candidates: two make any two judges agree wholly, or not at all
ROUNDS = 200


def without_own(rows: Sequence[Row], own: Sequence[Sequence[bool]], *, relative: bool) -> tuple[list[Row], bool]:
    """The rows without what judges say about their own candidates, and whether that was so everywhere.

    Where nobody else has a say about a candidate, its author's stands. So do all where the scores are `relative` and
    nobody would be left with two candidates to compare: of two members with an answer each, either can then win only
    if both prefer it.
    """
    columns = range(len(rows[0]))
    foreign = [
        [None if mine else value for value, mine in zip(row, own_row, strict=True)]
        for row, own_row in zip(rows, own, strict=True)
    ]
    if relative and len(columns) > 1 and all(sum(value is not None for value in row) < 2 for row in foreign):
        return list(rows), all(not any(row) for row in own)
    alone = [all(row[column] is None for row in foreign) for column in columns]
    kept: list[Row] = [
        [row[column] if alone[column] else foreign_row[column] for column in columns]
        for row, foreign_row in zip(rows, foreign, strict=True)
    ]
    owned = any(alone[column] and row[column] is not None for row in rows for column in columns)
    return kept, not owned


def standardised(row: Row) -> list[float | None]:
    """The row with mean 0 and spread 1; a judge that sees no difference says nothing (all 0)."""
    known = [value for value in row if value is not None]
    if not known:
        return list(row)
    middle, spread = fmean(known), pstdev(known)
    return [None if value is None else (value - middle) / spread if spread > EVEN else 0.0 for value in row]


def levelled(rows: Sequence[Row]) -> list[float | None]:
    """The mean of each column, as if all judges were equally lenient (None where nobody has a say).

    Without gaps that is just the mean. With them, a candidate must not lose because the lenient judge has no say about
    it: value = candidate + judge, fitted by least squares, the judges' part 0 on average.
    """
    lenience = [0.0] * len(rows)
    quality: list[float | None] = []
    for _ in range(ROUNDS):
        before = lenience
        quality = [
            fmean(known)
            if (known := [v - part for v, part in zip(column, lenience, strict=True) if v is not None])
            else None
            for column in zip(*rows, strict=True)
        ]
        parts = [
            fmean(known)
            if (known := [v - q for v, q in zip(row, quality, strict=True) if v is not None and q is not None])
            else 0.0
            for row in rows
        ]
        lenience = [part - fmean(parts) for part in parts]
        if max(abs(new - old) for new, old in zip(lenience, before, strict=True)) < EVEN**2:
            break
    return quality


def independent_votes(rows: Sequence[Row]) -> float | None:
    """How many independent judges would know as much: n / (1 + (n - 1) r), r the mean correlation between two of them.

    That is Kish's effective sample size (Survey Sampling, 1965), and what arXiv 2605.29800 measures for panels of
    judges. From 1 to n; None where no two judges tell LEAST_IN_COMMON or more candidates apart.
    """
    found = [known for one, other in combinations(rows, 2) if (known := _correlation(one, other)) is not None]
    if not found:
        return None
    return len(rows) / (1 + (len(rows) - 1) * max(0.0, fmean(found)))


def _correlation(one: Row, other: Row) -> float | None:
    common = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if len(common) < LEAST_IN_COMMON:
        return None
    firsts, seconds = standardised([a for a, _ in common]), standardised([b for _, b in common])
    if not any(firsts) or not any(seconds):
        return None
    return fmean(a * b for a, b in zip(firsts, seconds, strict=True) if a is not None and b is not None)
