"""A review as it is handed out: Markdown for people, JSON for programs. It tells how many found what, never who."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from local_fusion.fusion.review.findings import Finding, Point, Problem, Review


def markdown(review: Review) -> str:
    """The report for people."""
    return "\n".join(_lines(review)) + "\n"


def _lines(review: Review) -> Iterator[str]:
    heard = _counted(review.reviewers, "reviewer")
    if review.reviewers < review.asked:
        heard = f"{review.reviewers} of {_counted(review.asked, 'reviewer')} (nothing came of the others)"
    yield "# Review"
    yield ""
    yield f"{heard}: {_counted(review.problems, 'problem') if review.problems else 'no problem found'}."
    if not review.grouped:
        yield ""
        yield "No judge has brought the findings together: the same problem may be listed more than once."
    for title, points in (
        ("Agreed problems", review.agreed),
        ("Disputed", review.disputed),
        ("Found by one reviewer", review.single),
    ):
        yield from _section(title, points, review.reviewers)
    if review.blind_spots:
        yield from ("", "## Blind spots", "", "Found by no reviewer, added by the judge:", "")
        for number, spot in enumerate(review.blind_spots, start=1):
            yield f"{number}. **{spot.severity}**: {_line(spot.problem)}"
            yield from _detail(spot, spot.problem)


def _section(title: str, points: Sequence[Point], reviewers: int) -> Iterator[str]:
    if not points:
        return
    yield from ("", f"## {title}", "")
    for number, point in enumerate(points, start=1):
        count = f" ({len(point.by)} of {reviewers} reviewers)" if len(point.by) > 1 else ""
        yield f"{number}. **{point.severity}**: {_line(point.problem)}{count}"
        if point.dispute:
            yield f"   - disputed: {_line(point.dispute)}"
        for finding in point.findings:
            yield from _detail(finding.problem, point.problem)


def _detail(problem: Problem, told: str) -> Iterator[str]:
    """What a finding says beyond what has been `told`."""
    said = [] if _line(problem.problem) == _line(told) else [_line(problem.problem)]
    more = [text for text in (_line(problem.where), *said, _line(problem.why)) if text]
    if more:
        yield f"   - {' — '.join(more)}"


def _line(text: str) -> str:
    """On one line, so that what a model wrote is no heading and no list of its own."""
    return " ".join(text.split())


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def as_json(review: Review) -> str:
    """The report for programs."""
    return json.dumps(
        {
            "reviewers": review.reviewers,
            "asked": review.asked,
            "grouped": review.grouped,
            "agreed": [_point(point) for point in review.agreed],
            "disputed": [{**_point(point), "dispute": point.dispute} for point in review.disputed],
            "single": [_point(point) for point in review.single],
            "blind_spots": [spot.model_dump() for spot in review.blind_spots],
        },
        ensure_ascii=False,
    )


def _point(point: Point) -> dict[str, Any]:
    return {
        "problem": point.problem,
        "severity": point.severity,
        "reviewers": len(point.by),
        "findings": [_finding(finding) for finding in point.findings],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {**finding.problem.model_dump(), "reviewers": len(finding.by)}
