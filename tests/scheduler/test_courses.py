"""Where requests stand is counted as if each of them were looked at anew."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as some

from local_fusion.core.chat import Priority
from local_fusion.scheduler.courses import Courses
from local_fusion.scheduler.situation import Course

PRIORITY: dict[str, Priority] = {"r1": "interactive", "r2": "interactive", "r3": "batch"}

_steps = some.lists(
    some.tuples(some.sampled_from(sorted(PRIORITY)), some.sampled_from("abc"), some.booleans(), some.booleans())
)


@given(_steps)
def test_requests_that_stand_alike_are_counted_together(steps: list[tuple[str, str, bool, bool]]) -> None:
    courses = Courses()
    calls: Counter[tuple[str, str, bool]] = Counter()
    for request, engine, announced, begins in steps:
        if begins:
            courses.add(request, engine, PRIORITY[request], announced=announced)
            calls[request, engine, announced] += 1
        elif calls[request, engine, announced]:
            courses.remove(request, engine, announced=announced)
            calls[request, engine, announced] -= 1
        assert courses.counts == _counted(calls)
        for name in "abc":
            assert courses.announced(name) == sum(calls[request, name, True] > 0 for request in PRIORITY)
            for each in PRIORITY:
                outstanding = any(calls[each, other, False] for other in "abc")
                assert courses.between_calls(each, name) == (calls[each, name, True] > 0 and not outstanding)


def _counted(calls: Counter[tuple[str, str, bool]]) -> Counter[Course]:
    counted: Counter[Course] = Counter()
    for request, priority in PRIORITY.items():
        outstanding, announced = (
            frozenset(engine for engine in "abc" if calls[request, engine, kind]) for kind in (False, True)
        )
        if outstanding or announced:
            counted[Course(priority, outstanding, announced)] += 1
    return counted


def test_nothing_is_remembered_of_requests_that_are_over() -> None:
    courses = Courses()
    courses.add("r1", "a", "interactive", announced=True)
    courses.add("r1", "a", "interactive", announced=False)
    courses.remove("r1", "a", announced=True)
    assert courses.counts == {Course("interactive", frozenset("a"), frozenset()): 1}
    courses.remove("r1", "a", announced=False)
    assert courses.counts == {}
    assert courses.announced("a") == 0
