"""Engines of a fusion that cannot be awake as a whole: any few of them can, where that is worth its price."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from local_fusion.planner.placement.places import share_places
from local_fusion.planner.placement.problem import EngineChoice, FusionNeeds, Home, Option, Problem
from tests.planner.placement.instances import GIB, need


def home(*, resident: bool = False, devices: tuple[int, ...] = (0,), **sizes: Any) -> Home:
    """An engine of so many GiB in all, with requests of one GiB."""
    sizes = {name: int(size * GIB) for name, size in {"weights": 10, "request": 1, **sizes}.items()}
    return Home(Option(devices, need(ranks=len(devices), **sizes)), resident)


def shared(homes: list[Home], kv: list[float], *, room: float, fusion: set[int] | None = None) -> list[float]:
    """KV cache of each engine in GiB, of one fusion of all engines or of some."""
    engines = tuple(EngineChoice(f"m{number}", (each.option,)) for number, each in enumerate(homes))
    members = frozenset(range(len(homes)) if fusion is None else fusion)
    devices = 1 + max(device for each in homes for device in each.option.devices)
    problem = Problem((int(room * GIB),) * devices, engines, (FusionNeeds("f", members, members),))
    found = share_places(problem, dict(enumerate(homes)), {number: int(size * GIB) for number, size in enumerate(kv)})
    return [found[number] / GIB for number in range(len(homes))]


def test_any_as_many_as_are_resident_can_be_awake_together() -> None:
    """Residents of 16 and 14, and two that took 20 in place of one: now each takes 15 of 30."""
    homes = [home(resident=True), home(resident=True), home(), home()]
    assert shared(homes, [6, 4, 10, 10], room=30) == [5, 4, 5, 5]


def test_what_sleepers_leave_is_counted() -> None:
    homes = [home(resident=True, sleeping=1), home(resident=True, sleeping=1), home(sleeping=1), home(sleeping=1)]
    assert shared(homes, [6, 6, 8, 8], room=30) == [4, 4, 4, 4]


def test_nobody_loses_more_than_half_of_its_cache_and_the_largest_goes_alone_before() -> None:
    """Beside the one of 25 others would have 5 of 30 bytes: it keeps its cache, and the others share without it."""
    homes = [home(resident=True), home(resident=True), home(), home(weights=24)]
    assert shared(homes, [5, 5, 9, 6], room=30) == [5, 5, 5, 6]


def test_where_nobody_could_be_awake_beside_another_nothing_changes() -> None:
    homes = [home(resident=True, weights=20), home(weights=20), home(weights=20)]
    assert shared(homes, [10, 10, 10], room=30) == [10, 10, 10]


def test_a_fusion_that_is_awake_as_a_whole_gives_nothing_up_for_others() -> None:
    homes = [home(resident=True), home(resident=True), home()]
    assert shared(homes, [6, 4, 10], room=30, fusion={0, 1}) == [6, 4, 10]


def test_only_engines_on_the_same_devices_take_each_others_places() -> None:
    homes = [home(resident=True), home(resident=True), home(), home(devices=(0, 1), weights=20)]
    assert shared(homes, [6, 4, 10, 9], room=30) == [5, 4, 5, 9]


@given(st.data())
def test_whoever_shares_fits_with_any_other_that_does_and_keeps_half(data: st.DataObject) -> None:
    count = data.draw(st.integers(3, 7))
    awake = data.draw(st.integers(2, 3))
    weights = data.draw(st.lists(st.integers(1, 12), min_size=count, max_size=count))
    kv = data.draw(st.lists(st.integers(1, 12), min_size=count, max_size=count))
    asleep = data.draw(st.integers(0, 1))
    homes = [home(weights=weights[each], sleeping=asleep, resident=each < awake) for each in range(count)]
    room = data.draw(st.integers(10, 60))
    found = shared(homes, [float(each) for each in kv], room=room)
    smaller = [each for each in range(count) if found[each] < kv[each]]
    assert all(2 * found[each] >= kv[each] - 1e-6 for each in smaller)
    for together in combinations(smaller, awake):
        taken = sum(weights[each] + found[each] for each in together) + asleep * (count - awake)
        assert taken <= room + 1e-6
