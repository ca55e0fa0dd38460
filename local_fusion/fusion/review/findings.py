"""What reviewers found in a document: the same problems joined, counted by reviewer, sorted by how sure they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel

from local_fusion.core.records import Analysis, Candidate, Contradiction
from local_fusion.fusion.prompts.schemas import fields, items, text

Severity = Literal["critical", "major", "minor"]
SEVERITIES: tuple[Severity, ...] = ("critical", "major", "minor")

MOST_PROBLEMS = 12  # of one reviewer; bounds in a schema keep a weak model from filling its budget with one list
MOST_BLIND_SPOTS = 6
MOST_CHARACTERS = 300
LEAST_CHARACTERS = 8


class Problem(BaseModel):
    """A problem as a model reports it; one that says nothing is none."""

    where: str = ""
    problem: str = ""
    why: str = ""
    severity: Severity = "major"


class Problems(BaseModel):
    """A reviewer's list."""

    problems: list[Problem] = []


class Group(BaseModel):
    """Findings, by number, that are one problem to the judge."""

    findings: list[int] = []
    problem: str = ""
    dispute: str = ""


class Grouping(BaseModel):
    """What the judge makes of all findings."""

    groups: list[Group] = []
    blind_spots: list[Problem] = []


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem as its gravest report has it, how it was rated, and by whom: each reviewer with a candidate of its."""

    problem: Problem
    rated: frozenset[Severity]
    by: dict[str, str]

    def __str__(self) -> str:
        where = f" ({self.problem.where})" if self.problem.where else ""
        why = f": {self.problem.why}" if self.problem.why else ""
        return f"[{self.problem.severity}] {self.problem.problem}{where}{why}"


@dataclass(frozen=True, slots=True)
class Point:
    """One problem of the report: what its findings say, as different reviewers do, and in which way they disagree."""

    problem: str
    findings: tuple[Finding, ...]
    dispute: str = ""

    @property
    def by(self) -> dict[str, str]:
        """Each reviewer that reported it once, with a candidate that does."""
        return {reviewer: candidate for finding in self.findings for reviewer, candidate in finding.by.items()}

    @property
    def severity(self) -> Severity:
        """The worst that anybody gives it."""
        return min((finding.problem.severity for finding in self.findings), key=SEVERITIES.index)


@dataclass(frozen=True, slots=True)
class Review:
    """The outcome: what at least two found, what they disagree on, what one found, and what the judge adds to that.

    `reviewers` of those `asked` could be heard. `grouped`: a judge has brought their findings together.
    """

    reviewers: int
    asked: int
    agreed: tuple[Point, ...] = ()
    disputed: tuple[Point, ...] = ()
    single: tuple[Point, ...] = ()
    blind_spots: tuple[Problem, ...] = ()
    grouped: bool = True

    @property
    def problems(self) -> int:
        """How many there are, blind spots left out."""
        return len(self.agreed) + len(self.disputed) + len(self.single)


def problems_schema(most: int) -> dict[str, Any]:
    """The schema of a list of at most `most` problems."""
    sentence = text(MOST_CHARACTERS, LEAST_CHARACTERS)
    one = fields(
        where=text(MOST_CHARACTERS // 2),
        problem=sentence,
        why=sentence,
        severity={"type": "string", "enum": list(SEVERITIES)},
    )
    return items(one, most)


def grouping_schema(count: int) -> dict[str, Any]:
    """The schema of a `Grouping` of `count` findings."""
    number = {"type": "integer", "minimum": 1, "maximum": count}
    group = fields(
        findings=items(number, count, 1),
        problem=text(MOST_CHARACTERS, LEAST_CHARACTERS),
        dispute=text(MOST_CHARACTERS),
    )
    return fields(groups=items(group, count), blind_spots=problems_schema(MOST_BLIND_SPOTS))


def collected(lists: Iterable[tuple[Candidate, Problems]]) -> list[Finding]:
    """All findings, the worst first; the same words are one finding, and count once for a reviewer, however many of
    its samples say them.
    """
    found: dict[tuple[str, str], Finding] = {}
    for candidate, reported in lists:
        for problem in reported.problems:
            if not problem.problem.strip():
                continue
            key = (_folded(problem.problem), _folded(problem.where))
            known = found.get(key, Finding(problem, frozenset(), {}))
            found[key] = Finding(
                min(known.problem, problem, key=lambda each: SEVERITIES.index(each.severity)),
                known.rated | {problem.severity},
                {**known.by, candidate.member: known.by.get(candidate.member, candidate.id)},
            )
    return sorted(found.values(), key=lambda finding: SEVERITIES.index(finding.problem.severity))


def joined(findings: Sequence[Finding], grouping: Grouping | None, *, reviewers: int, asked: int) -> Review:
    """The findings as the judge grouped them by numbers from 1; None where no judge did.

    No finding is lost: what the judge forgot stands alone, what it names twice counts where it is named first, and
    numbers that do not exist are nothing.
    """
    left = dict(enumerate(findings, start=1))
    points: list[Point] = []
    said = grouping or Grouping()
    for group in said.groups:
        members = tuple(left.pop(number) for number in dict.fromkeys(group.findings) if number in left)
        if members:
            points.append(Point(group.problem.strip() or members[0].problem.problem, members, group.dispute.strip()))
    points += [Point(finding.problem.problem, (finding,)) for finding in left.values()]
    points = [
        _with_dispute(point) for point in sorted(points, key=lambda p: (SEVERITIES.index(p.severity), -len(p.by)))
    ]
    return Review(
        reviewers,
        asked,
        agreed=tuple(point for point in points if not point.dispute and len(point.by) > 1),
        disputed=tuple(point for point in points if point.dispute),
        single=tuple(point for point in points if not point.dispute and len(point.by) == 1),
        blind_spots=tuple(spot for spot in said.blind_spots if spot.problem.strip()),
        grouped=grouping is not None,
    )


def _with_dispute(point: Point) -> Point:
    """A problem is also disputed where it is critical to one reviewer and minor to another; never by one alone."""
    if len(point.by) < 2:
        return replace(point, dispute="")
    rated = frozenset().union(*(finding.rated for finding in point.findings))
    if not point.dispute and {"critical", "minor"} <= rated:
        return replace(point, dispute="reviewers rate it from critical to minor")
    return point


def analysis(review: Review) -> Analysis:
    """The review in the shape of an analysis; who found what stands here only."""
    most = [point for point in review.agreed if 2 * len(point.by) > review.reviewers]
    some = [point for point in review.agreed if 2 * len(point.by) <= review.reviewers]
    return Analysis(
        consensus=tuple(point.problem for point in most),
        contradictions=tuple(
            Contradiction(
                point.problem,
                tuple((id, str(finding)) for finding in point.findings for id in finding.by.values()),
            )
            for point in review.disputed
        ),
        partial_coverage=tuple((tuple(point.by.values()), point.problem) for point in some),
        unique_insights=tuple((id, point.problem) for point in review.single for id in point.by.values()),
        blind_spots=tuple(spot.problem for spot in review.blind_spots),
    )


def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .")
