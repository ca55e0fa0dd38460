"""Candidates that are judged again and again: by marks once, by comparison in every company."""

from __future__ import annotations

from typing import Any

from local_fusion.core.records import Candidate
from local_fusion.errors import EngineDied
from local_fusion.fusion.evolution.standing import Standing
from tests.fusion.judges.courts import Grader, court, likes, written
from tests.scripted import Scripted


def marks(name: str, **by_answer: float) -> Grader:
    return Grader(name, grade=lambda answer: by_answer[answer])


def standing(models: list[Scripted], *judges: Any) -> Standing:
    session = court(models, list(judges))
    return Standing(session, session.config.judge)  # type: ignore[union-attr,arg-type]


def pointwise(name: str) -> dict[str, str]:
    return {"kind": "pointwise", "model": name}


x, y, z = written("x", "y", "z")


async def test_marks_are_given_once_and_kept() -> None:
    judge = marks("m", x=1, y=9, z=5)
    found = standing([judge], pointwise("m"))
    await found.of([x, y])
    assert await found.of([x, y, z]) == {"c1": 0.0, "c2": 1.0, "c3": 0.5}
    assert len(judge.weighed) == 3


async def test_where_a_judge_that_marks_takes_over_nothing_of_the_other_is_left() -> None:
    first, second = marks("first", x=1, y=9), marks("second", x=3, y=7, z=5)
    found = standing([first, second], pointwise("first"), pointwise("second"))
    await found.of([x, y])
    first.error = EngineDied("gone")
    assert await found.of([x, y, z]) == {"c1": 0.25, "c2": 0.75, "c3": 0.5}
    assert (found.by, found.known) == ("second", {"c1": 0.25, "c2": 0.75, "c3": 0.5})


async def test_where_a_judge_that_only_compares_takes_over_no_mark_is_known_any_more() -> None:
    first, second = marks("first", x=1, y=9), Scripted("second", preference=likes("z", "x", "y"))
    found = standing([first, second], pointwise("first"), "second")
    await found.of([x, y])
    first.error = EngineDied("gone")
    compared = await found.of([x, y, z])
    assert compared["c3"] > compared["c1"] > compared["c2"]
    assert (found.by, found.known) == ("second", {})


async def test_what_judges_had_to_say_is_kept_by_candidate() -> None:
    script = 'read x; [ "$x" = y ] || { echo "$x is wrong"; exit 1; }'
    found = standing([], {"command": ["/bin/sh", "-c", script]})
    first: list[Candidate] = [x, y]
    await found.of(first)
    await found.of([*first, z])
    assert found.reasons == {"c1": "x is wrong", "c3": "z is wrong"}
