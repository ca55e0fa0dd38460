"""Counting votes: a candidate with an answer is a ballot, and the answer with most of them wins. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, fsum
from typing import Literal

from local_fusion.core.records import Candidate, Verdict
from local_fusion.fusion.panel.polling import number_of

Weights = Literal["none", "logprob", "certainty"]
EVEN = 1e-9  # of the larger: sums of floats that differ by less are the same


@dataclass(frozen=True, slots=True)
class Ballot:
    """The vote of one candidate; without an `answer` it abstains."""

    candidate: Candidate
    answer: str | None
    weight: float = 1.0

    @property
    def place(self) -> int:
        """In panel order, from 1."""
        return number_of(self.candidate)


@dataclass(frozen=True, slots=True)
class Standing:
    """All votes for one answer, in panel order."""

    answer: str
    ballots: tuple[Ballot, ...]

    @property
    def total(self) -> float:
        """The sum of their weights."""
        return fsum(ballot.weight for ballot in self.ballots)

    @property
    def place(self) -> int:
        """Of the first of them."""
        return self.ballots[0].place

    def given(self) -> Candidate:
        """The candidate that is handed out where this answer wins: one that its limit did not cut, of these the one
        that weighs most, of equals the first in panel order.
        """
        best = min(self.ballots, key=lambda ballot: (_cut(ballot.candidate), -ballot.weight, ballot.place))
        return best.candidate


@dataclass(frozen=True, slots=True)
class Count:
    """What is known so far: every answer with its votes, the leader first, then in panel order; and who abstained."""

    standings: tuple[Standing, ...]
    abstained: tuple[Ballot, ...]

    @property
    def tied(self) -> bool:
        """Whether only panel order puts the leader first."""
        return len(self.standings) > 1 and _even(
            self.standings[0].total, max(other.total for other in self.standings[1:])
        )


def count(ballots: Sequence[Ballot]) -> Count:
    """Who is ahead. Answers with equally many votes stand in the order in which the panel gives them."""
    votes: dict[str, list[Ballot]] = {}
    abstained = []
    for ballot in sorted(ballots, key=lambda ballot: ballot.place):
        if ballot.answer is None:
            abstained.append(ballot)
        else:
            votes.setdefault(ballot.answer, []).append(ballot)
    standings = [Standing(answer, tuple(voters)) for answer, voters in votes.items()]
    if standings:
        most = max(standing.total for standing in standings)
        leader = next(standing for standing in standings if _even(standing.total, most))
        standings.sort(key=lambda standing: standing is not leader)
    return Count(tuple(standings), tuple(abstained))


def weigh(candidates: Sequence[Candidate], how: Weights) -> tuple[list[float], list[Candidate]]:
    """What each candidate's vote counts, and those that do not tell how sure they are: they count as the mean of those
    that do, and all count one where nobody does.

    `logprob`: the probability of a token (geometric mean). `certainty`: self-certainty (arXiv 2502.18581).
    """
    if how == "none":
        return [1.0] * len(candidates), []
    known = [_sureness(candidate, how) for candidate in candidates]
    told = [weight for weight in known if weight is not None]
    mean = fsum(told) / len(told) if told else 1.0
    silent = [candidate for candidate, weight in zip(candidates, known, strict=True) if weight is None]
    return [mean if weight is None else weight for weight in known], silent


def verdict(counted: Count, winner: Candidate | None, reason: str, judge: str = "votes") -> Verdict:
    """The count as a record; `scores` are the votes for each candidate's answer."""
    return Verdict(
        judge=judge,
        winner=None if winner is None else winner.id,
        reason=reason,
        scores={ballot.candidate.id: standing.total for standing in counted.standings for ballot in standing.ballots},
        votes={standing.answer: [ballot.candidate.id for ballot in standing.ballots] for standing in counted.standings},
        abstained=tuple(ballot.candidate.id for ballot in counted.abstained),
        tied=counted.tied,
    )


def _sureness(candidate: Candidate, how: Weights) -> float | None:
    if candidate.certainty is None:
        return None
    # Certainty is above 0 but for a model to which all tokens are alike; a vote never counts against its answer.
    return exp(candidate.certainty.mean_logprob) if how == "logprob" else max(0.0, candidate.certainty.self_certainty)


def _cut(candidate: Candidate) -> bool:
    return candidate.finish_reason == "length"


def _even(one: float, other: float) -> bool:
    return abs(one - other) <= EVEN * max(abs(one), abs(other))
