"""Judges in order: the next one judges where those before it fail, and no failure is lost."""

from __future__ import annotations

import pytest

from local_fusion.config.judging import JUDGES as CONFIGURED
from local_fusion.errors import EngineDied
from local_fusion.fusion.judges import JUDGES
from tests.fusion.judges.courts import court, judged, likes, written
from tests.scripted import Scripted


def test_every_kind_that_can_be_configured_judges() -> None:
    assert set(JUDGES) == set(CONFIGURED)


async def test_the_third_judge_judges_where_the_first_two_fail_and_all_failures_are_kept() -> None:
    models = [Scripted("a", error=EngineDied("gone")), Scripted("judge", preference=likes("y"))]
    order = [{"kind": "likelihood"}, {"command": ["sh", "-c", "exit 7"], "seconds": 20}, "judge"]
    session = court(models, order, panel="a")
    verdict = await judged(session, written("x", "y"))
    assert (verdict.judge, verdict.winner) == ("judge", "c2")
    assert sorted((failure.stage, failure.member, failure.code) for failure in session.failures) == [
        ("judge", "a", "engine_died"),
        ("judge", "sh on c1", "verifier_failed"),
        ("judge", "sh on c2", "verifier_failed"),
    ]
    assert session.notes == [
        "judge 1 failed: judge 2 is asked in its place",
        "judge 2 failed: judge 3 is asked in its place",
    ]


async def test_a_judge_that_judges_leaves_those_after_it_alone() -> None:
    first, second = Scripted("first"), Scripted("second")
    await judged(court([first, second], ["first", "second"]), written("x", "y"))
    assert first.weighed
    assert second.weighed == []


async def test_where_all_fail_the_last_error_is_raised_and_every_one_is_kept() -> None:
    models = [Scripted("first", error=EngineDied("one")), Scripted("second", error=EngineDied("two"))]
    session = court(models, ["first", "second"])
    with pytest.raises(EngineDied, match="two"):
        await judged(session, written("x", "y"))
    assert [failure.message for failure in session.failures] == ["one", "two"]
