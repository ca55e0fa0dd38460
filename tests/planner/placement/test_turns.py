"""Places that engines in turns fill, and how whoever makes room sleeps: over problems made up of a few numbers."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.planner.placement.problem import Assignment, Home, Option
from local_fusion.planner.placement.turns import levels, places_of, with_neighbours
from tests.planner.placement.instances import GIB, need


def home(*devices: int, resident: bool = True, **sizes: Any) -> Home:
    """A place for an engine of so many GiB in all on these devices."""
    sizes = {name: int(size * GIB) for name, size in {"weights": 8, **sizes}.items()}
    return Home(Option(devices, need(ranks=len(devices), **sizes)), resident)


# --- places ---


def test_a_place_is_what_a_resident_makes_free_and_what_the_engine_leaves_asleep_itself() -> None:
    engines = {0: home(0, weights=10, sleeping=3), 1: home(0, weights=6, sleeping=1, resident=False)}
    assert places_of(engines, {0: 4 * GIB, 1: 0}, 1) == [(10 + 4 - 3 + 1) * GIB]


def test_only_residents_on_all_of_its_devices_have_a_place_for_an_engine() -> None:
    engines = {
        0: home(0, 1, weights=20),
        1: home(0, weights=5),
        2: home(1, weights=6, resident=False),
        3: home(0, 1, weights=4, resident=False),
        4: home(0, weights=3, resident=False),
    }
    cache = dict.fromkeys(engines, 0)
    assert places_of(engines, cache, 2) == [10 * GIB]
    assert places_of(engines, cache, 3) == [10 * GIB]
    assert places_of(engines, cache, 4) == [10 * GIB, 5 * GIB]


# --- neighbours ---


def test_neighbours_of_those_that_move_may_rest_too_and_nobody_farther_away() -> None:
    """1 moves on GPU 0; 0 is there, too, and on GPU 1, which 2 shares with it, but not with 1."""
    engines = {0: home(0, 1), 1: home(0), 2: home(1), 3: home(2)}
    assert with_neighbours(engines, frozenset({1})) == {0, 1}
    assert with_neighbours(engines, frozenset({0})) == {0, 1, 2}


def test_where_nobody_moves_nobody_rests() -> None:
    assert with_neighbours({0: home(0), 1: home(0)}, frozenset()) == frozenset()


# --- levels ---

SLEEPERS: Assignment = {
    0: home(0, weights=10, sleeping=1),
    1: home(0, weights=6, sleeping=1),
    2: home(0, 1, weights=8, sleeping=1),
    3: home(0, weights=2, sleeping=0),
}


@pytest.mark.parametrize(
    ("ram", "in_ram"),
    [(None, {0, 1, 2}), (24, {0, 1, 2}), (23, {1, 2}), (14, {1, 2}), (13, {1}), (6, {1}), (5, set())],
)
def test_small_engines_have_host_ram_first_and_who_cannot_sleep_is_stopped(ram: int | None, in_ram: set[int]) -> None:
    everybody = frozenset(SLEEPERS)
    found = levels(SLEEPERS, everybody, everybody, None if ram is None else ram * GIB)
    assert {engine for engine, asleep in found.items() if asleep == "level 1"} == in_ram
    assert {engine for engine, asleep in found.items() if asleep == "level 2"} == {0, 1, 2} - in_ram
    assert found[3] == "stopped"


def test_who_must_move_has_host_ram_before_smaller_ones_that_only_may() -> None:
    found = levels(SLEEPERS, frozenset({0}), frozenset({0, 1, 2}), 12 * GIB)
    assert found == {0: "level 1", 1: "level 2", 2: "level 2"}


def test_who_may_not_rest_is_awake_for_good() -> None:
    assert levels(SLEEPERS, frozenset(), frozenset(), None) == {}
