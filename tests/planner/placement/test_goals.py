"""The goals of a placement in their order: in each of these problems exactly one of them decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from local_fusion.planner.placement.cp_sat import Limits
from local_fusion.planner.placement.place import Found, place
from local_fusion.planner.placement.problem import EngineChoice, FusionNeeds, Problem
from tests.planner.placement.instances import GIB, MIB, engine, fleet


def model(name: str, gibs: float, *on: int, asleep: float = 0, request: int = 0) -> EngineChoice:
    """An engine of `gibs`, which may run on any one of the devices `on`, and leaves `asleep` GiB there."""
    blocks = [(device,) for device in on or (0,)]
    return engine(name, blocks, weights=int(gibs * GIB), sleeping=int(asleep * GIB), request=request)


@dataclass(frozen=True)
class Outcome:
    """Who has a home on which devices, and who of them is awake all the time."""

    found: Found
    homes: dict[str, tuple[int, ...]]
    awake: set[str]


def best(rooms: Sequence[float], engines: Sequence[EngineChoice], *fusions: str) -> Outcome:
    """The best placement on devices of these GiB; a fusion is named by its panel's one-letter engines."""
    position = {each.name: index for index, each in enumerate(engines)}
    members = [frozenset(position[name] for name in fusion) for fusion in fusions]
    problem = Problem(
        tuple(int(room * GIB) + MIB for room in rooms),  # a little more: an engine has one byte of KV cache at least
        tuple(engines),
        tuple(FusionNeeds(name, panel, panel) for name, panel in zip(fusions, members, strict=True)),
    )
    found = place(problem, Limits())
    homes = {engines[index].name: home.option.devices for index, home in found.assignment.items()}
    return Outcome(found, homes, {engines[index].name for index, home in found.assignment.items() if home.resident})


def test_first_as_many_fusions_as_possible_can_be_served() -> None:
    """Beside `a` nobody may sleep: it alone has a home, though two others could have one."""
    engines = [model("a", 10, asleep=3), model("b", 8, asleep=1), model("c", 8, asleep=1)]
    assert set(best([10], engines, "a").homes) == {"a"}
    assert set(best([10], engines).homes) == {"b", "c"}


def test_then_as_many_models_as_possible_have_a_home() -> None:
    """The home of `c` costs the fusion of `a` and `b` being awake as a whole."""
    engines = [model("a", 5, asleep=1), model("b", 5, asleep=1), model("c", 6, asleep=1)]
    outcome = best([10], engines, "ab")
    assert set(outcome.homes) == {"a", "b", "c"}
    assert outcome.found.goals.together == 0
    assert best([10], engines[:2], "ab").found.goals.together == 1


def test_then_as_many_fusions_as_possible_can_be_awake_as_a_whole() -> None:
    """Asleep on device 1, `a` would let everyone else be awake; but it could never be awake together with `b`."""
    engines = [model("a", 9, 0, 1, asleep=1), model("b", 6, 1), model("c", 9, 0, asleep=1), model("d", 4, 1)]
    engines.append(model("e", 1, 0))
    outcome = best([10, 11], engines, "ab")
    assert outcome.homes["a"] == (0,)
    assert len(outcome.awake) == 3
    alone = best([10, 11], engines)
    assert alone.homes["a"] == (1,)
    assert alone.awake == {"b", "c", "d", "e"}


def test_then_as_many_fusions_as_possible_are_awake_all_the_time() -> None:
    engines = [model("a", 10), model("b", 5), model("c", 5)]
    assert best([10], engines, "a").awake == {"a"}


def test_then_as_many_models_as_possible_are_awake_all_the_time() -> None:
    """Even if panel mates share a device for that."""
    engines = [model("a", 4, 0, 1), model("b", 4, 0, 1), model("c", 9, 0, 1)]
    assert best([10, 10], engines).awake == {"a", "b", "c"}
    outcome = best([10, 10], engines, "ab")
    assert outcome.awake == {"a", "b", "c"}
    assert outcome.homes["a"] == outcome.homes["b"]


def test_then_panel_mates_are_on_different_devices() -> None:
    """Even if that leaves less for the weakest."""
    engines = [model("a", 4, 0, 1, request=GIB), model("b", 8, 0, 1, request=GIB)]
    together, apart = best([20, 6], engines), best([20, 6], engines, "ab")
    assert together.homes["a"] == together.homes["b"]
    assert apart.homes["a"] != apart.homes["b"]
    assert apart.found.goals.concurrency < together.found.goals.concurrency


def test_then_the_weakest_has_as_much_concurrency_as_possible() -> None:
    """Over as many devices as that takes."""
    wide = engine("a", [(0,), (1,), (0, 1)], weights=8 * GIB, request=GIB)
    outcome = best([10, 10], [wide])
    assert outcome.homes["a"] == (0, 1)
    assert outcome.found.goals.concurrency == pytest.approx(12, rel=0.01)


def test_then_models_take_as_few_devices_as_possible() -> None:
    """One device holds all that the engine can use: the second is left alone."""
    wide = engine("a", [(0, 1), (0,), (1,)], weights=8 * GIB, request=GIB, most=2)
    assert len(best([10, 10], [wide]).homes["a"]) == 1


def test_the_weakest_is_the_one_of_which_a_request_asks_most() -> None:
    """Of two alike, the one that runs four sequences for each request has the larger device."""
    engines = [model("a", 4, 0, 1, request=GIB), model("b", 4, 0, 1, request=GIB)]
    busy = EngineChoice("a", engines[0].options, load=4)
    assert best([10, 20], [busy, engines[1]]).homes == {"a": (1,), "b": (0,)}
    assert best([10, 20], [engines[0], EngineChoice("b", engines[1].options, load=4)]).homes == {"a": (0,), "b": (1,)}


def test_without_time_to_prove_it_a_good_placement_comes_with_its_gap() -> None:
    problem = fleet(24, 8, seed=3)
    found = place(problem, Limits(seconds=0.0))
    assert found.solver.status == "feasible"
    assert found.solver.gap is not None
    assert 0 < found.solver.gap < 1
    assert found.goals.residents == 24
