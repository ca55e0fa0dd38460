"""Findings are joined without losing one, counted once for each reviewer, and sorted by who agrees."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from local_fusion.core.records import Candidate, Contradiction
from local_fusion.fusion.review.findings import (
    Finding,
    Group,
    Grouping,
    Problem,
    Problems,
    Review,
    Severity,
    analysis,
    collected,
    joined,
)
from local_fusion.fusion.review.report import as_json, markdown


def candidate(id: str, member: str) -> Candidate:
    return Candidate(id, member, member, "", "stop", 0.0)


def problem(text: str, severity: Severity = "major", where: str = "", why: str = "") -> Problem:
    return Problem(problem=text, severity=severity, where=where, why=why)


def reported(**by: list[Problem]) -> list[Finding]:
    """What each reviewer, by its letter, reports."""
    return collected(
        (candidate(f"c{number}", member), Problems(problems=problems))
        for number, (member, problems) in enumerate(by.items(), start=1)
    )


def group(*numbers: int, problem: str = "", dispute: str = "") -> Group:
    return Group(findings=list(numbers), problem=problem, dispute=dispute)


def review(findings: list[Finding], *groups: Group, reviewers: int = 3) -> Review:
    return joined(findings, Grouping(groups=list(groups)), reviewers=reviewers, asked=reviewers)


def test_the_same_words_are_one_finding_of_several_reviewers_rated_as_by_the_gravest() -> None:
    (found,) = reported(a=[problem("No limit.", "minor")], b=[problem("no  LIMIT", "critical")])
    assert (found.by, found.problem.severity) == ({"a": "c1", "b": "c2"}, "critical")


def test_a_reviewer_counts_once_however_many_of_its_samples_say_it() -> None:
    lists = [(candidate(f"c{number}", "a"), Problems(problems=[problem("No limit.")])) for number in range(3)]
    (found,) = collected(lists)
    assert found.by == {"a": "c0"}


def test_the_same_words_about_another_place_are_another_finding() -> None:
    assert len(reported(a=[problem("No limit.", where="1"), problem("No limit.", where="2")])) == 2


def test_the_worst_come_first_and_what_says_nothing_is_no_finding() -> None:
    found = reported(a=[problem("m", "minor"), problem("  "), problem("c", "critical")], b=[problem("j")])
    assert [each.problem.problem for each in found] == ["c", "j", "m"]


def test_what_two_reviewers_found_is_agreed_and_what_one_found_is_single() -> None:
    found = reported(a=[problem("x"), problem("y")], b=[problem("z")])
    outcome = review(found, group(1, 3, problem="x or z"), group(2))
    assert [(point.problem, list(point.by)) for point in outcome.agreed] == [("x or z", ["a", "b"])]
    assert [point.problem for point in outcome.single] == ["y"]


def test_one_reviewer_does_not_agree_with_itself_nor_dispute() -> None:
    found = reported(a=[problem("x", "critical"), problem("y", "minor")])
    outcome = review(found, group(1, 2, dispute="they contradict"))
    assert (outcome.agreed, outcome.disputed, len(outcome.single)) == ((), (), 1)


def test_what_the_judge_says_is_contradictory_or_is_rated_far_apart_is_disputed() -> None:
    found = reported(
        a=[problem("too strict"), problem("slow", "critical")], b=[problem("too lax"), problem("slow", "minor")]
    )
    slow, strict, lax = range(1, 4)
    outcome = review(found, group(strict, lax, problem="the limit", dispute="strict or lax"), group(slow))
    assert {(point.problem, point.dispute) for point in outcome.disputed} == {
        ("the limit", "strict or lax"),
        ("slow", "reviewers rate it from critical to minor"),
    }


def test_problems_stand_in_order_of_severity_and_then_of_how_many_found_them() -> None:
    found = reported(a=[problem("one"), problem("two"), problem("bad", "critical")], b=[problem("two")])
    outcome = review(found)
    assert [point.problem for point in outcome.agreed] == ["two"]
    assert [point.problem for point in outcome.single] == ["bad", "one"]


texts = st.sampled_from(["p1", "p2", "p3", "p4", "p5"])
lists = st.dictionaries(
    st.sampled_from("abcd"),
    st.lists(st.builds(problem, texts, st.sampled_from(["critical", "major", "minor"])), max_size=5),
)
groups = st.lists(
    st.builds(Group, findings=st.lists(st.integers(-2, 12), max_size=6), dispute=st.sampled_from(["", "no"])),
    max_size=6,
)


@given(lists, st.one_of(st.none(), groups))
def test_whatever_the_judge_says_every_finding_is_in_the_report_exactly_once(
    by: dict[str, list[Problem]], said: list[Group] | None
) -> None:
    found = reported(**by)
    grouping = None if said is None else Grouping(groups=said)
    outcome = joined(found, grouping, reviewers=len(by), asked=len(by))
    points = (*outcome.agreed, *outcome.disputed, *outcome.single)
    kept = [id(finding) for point in points for finding in point.findings]
    assert sorted(kept) == sorted(map(id, found))
    assert all(len(point.by) > 1 for point in (*outcome.agreed, *outcome.disputed))
    assert outcome.grouped == (said is not None)
    assert outcome.problems == len(points)


def test_the_analysis_says_who_found_what() -> None:
    found = reported(
        a=[problem("x")], b=[problem("x")], c=[problem("y"), problem("z", "critical")], d=[problem("z", "minor")]
    )
    outcome = joined(found, Grouping(blind_spots=[problem("dark")]), reviewers=4, asked=4)
    said = analysis(outcome)
    assert said.consensus == ()
    assert said.partial_coverage == ((("c1", "c2"), "x"),)
    assert said.contradictions == (Contradiction("z", (("c3", "[critical] z"), ("c4", "[critical] z"))),)
    assert said.unique_insights == (("c3", "y"),)
    assert said.blind_spots == ("dark",)


def full() -> Review:
    found = reported(
        anna=[problem("No limit.", "critical", "section 3", "a file fills the disk"), problem("Odd names.", "minor")],
        bert=[problem("Uploads are unbounded.", "critical"), problem("Slow.", "critical")],
        cleo=[problem("Slow.", "minor")],
    )
    grouping = Grouping(
        groups=[group(1, 2, problem="Uploads have no limit.")], blind_spots=[problem("No backups.", why="all is lost")]
    )
    return joined(found, grouping, reviewers=3, asked=4)


def test_the_report_for_people_tells_how_many_found_what_and_never_who() -> None:
    assert (
        markdown(full())
        == """\
# Review

3 of 4 reviewers (nothing came of the others): 3 problems.

## Agreed problems

1. **critical**: Uploads have no limit. (2 of 3 reviewers)
   - section 3 — No limit. — a file fills the disk
   - Uploads are unbounded.

## Disputed

1. **critical**: Slow. (2 of 3 reviewers)
   - disputed: reviewers rate it from critical to minor

## Found by one reviewer

1. **minor**: Odd names.

## Blind spots

Found by no reviewer, added by the judge:

1. **major**: No backups.
   - all is lost
"""
    )


def test_the_report_for_programs_tells_the_same() -> None:
    text = as_json(full())
    assert "anna" not in text
    said = json.loads(text)
    assert {name: len(value) for name, value in said.items() if isinstance(value, list)} == {
        "agreed": 1,
        "disputed": 1,
        "single": 1,
        "blind_spots": 1,
    }
    assert said["agreed"][0]["reviewers"] == 2
    assert (said["reviewers"], said["asked"], said["grouped"]) == (3, 4, True)


def test_what_a_reviewer_writes_is_no_heading_of_the_report() -> None:
    text = markdown(review(reported(a=[problem("x\n\n# All is well\n", why="y\n## z")]), reviewers=1))
    assert [line for line in text.splitlines() if line.startswith("#")] == ["# Review", "## Found by one reviewer"]


def test_a_review_without_findings_says_so() -> None:
    assert markdown(review([], reviewers=1)) == "# Review\n\n1 reviewer: no problem found.\n"
