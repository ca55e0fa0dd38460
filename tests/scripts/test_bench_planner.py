"""`scripts/bench planner`: configurations, other programs' rules and figures are what they say. No times are tested."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from local_fusion.planner.placement.problem import FusionNeeds, Home, Problem
from tests.planner.placement.instances import GIB, blocks, engine

SCRIPTS = Path(__file__).parents[2] / "scripts"
# Where the name does not tell: billions of parameters by the model cards.
PARAMETERS = {"phi-4": 14.7, "mixtral-8x7b": 46.7}

Load = Callable[[str], Any]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Imports a module of the benchmarks as `scripts/bench` does."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def rig(*weights: float, overhead: float = 2, request: float = 1, gpus: int = 2) -> tuple[Problem, dict[str, Any]]:
    """Engines of so many GiB on cards of 80 GiB, all in one fusion, and their facts as far as the rules want them."""
    engines = tuple(
        engine(
            f"m{position}",
            blocks(range(gpus)),
            weights=int(each * GIB),
            overhead=int(overhead * GIB),
            request=int(request * GIB),
        )
        for position, each in enumerate(weights)
    )
    everyone = frozenset(range(len(weights)))
    facts = {
        each.name: SimpleNamespace(weights_bytes=int(size * GIB), cache=())
        for each, size in zip(engines, weights, strict=True)
    }
    return Problem((80 * GIB,) * gpus, engines, (FusionNeeds("all", everyone, everyone),)), facts


def devices(chosen: list[tuple[int, Any]]) -> list[tuple[int, ...]]:
    return [option.devices for _, option in chosen]


# --- configurations


def test_the_published_models_have_as_many_parameters_as_their_names_say(load: Load) -> None:
    fleets = load("fleets")
    for name in load("published").PUBLISHED:
        model = name.rpartition("-")[0]
        told = PARAMETERS.get(model) or float(re.findall(r"-(\d+)b", model)[0])
        assert fleets.facts_of(name).parameters / 1e9 == pytest.approx(told, rel=0.1), name


@pytest.mark.parametrize(("models", "range_"), [(12, "FITS"), (32, "FITS"), (24, "TOO_MUCH")])
def test_a_configuration_needs_the_share_of_memory_it_was_drawn_for(load: Load, models: int, range_: str) -> None:
    fleets = load("fleets")
    low, high = getattr(fleets, range_)
    inputs = fleets.fleet(models, 1, (low, high))
    problem = load("planner").problem_of(inputs)
    needed = sum(
        min(option.need.least_bytes * len(option.devices) for option in each.options) for each in problem.engines
    )
    free = sum(device.free_bytes for device in inputs.rig.devices)
    assert len(problem.engines) == models
    assert 0.9 * low <= needed / free <= high


def test_the_same_seed_draws_the_same_configuration_and_another_one_another(load: Load) -> None:
    fleet = load("fleets").fleet
    assert fleet(12, 3) == fleet(12, 3)
    assert fleet(12, 3).config != fleet(12, 4).config


@pytest.mark.parametrize("seed", range(5))
def test_every_model_is_in_a_panel_of_two_to_seven(load: Load, seed: int) -> None:
    config = load("fleets").fleet(12, seed).config
    panels = [[member.model for member in fusion.panel] for fusion in config.fusions.values()]
    assert {model for panel in panels for model in panel} == config.models.keys()
    assert all(2 <= len(set(panel)) == len(panel) <= 7 for panel in panels)


# --- rules


def test_first_fit_fills_one_gpu_before_the_next_by_what_models_claim(load: Load) -> None:
    problem, facts = rig(30, 30, 30, 1)  # claims of 38, 38, 38 and 3.2 GiB
    assert devices(load("rules").first_fit(problem, facts)) == [(0,), (0,), (1,), (0,)]


def test_first_fit_splits_what_no_gpu_holds_and_leaves_out_what_none_has_room_for(load: Load) -> None:
    problem, facts = rig(90, 60, 10)  # claims of 110, 74 and 14 GiB
    chosen = load("rules").first_fit(problem, facts)
    assert [(position, option.devices) for position, option in chosen] == [(0, (0, 1)), (2, (0,))]


def test_four_fifths_takes_the_gpu_with_most_free_and_at_most_that_share_of_it(load: Load) -> None:
    problem, facts = rig(40, 20, 20, 50)  # 50 GiB are more than 80 % of the 37 and 34 that are left
    assert devices(load("rules").four_fifths(problem, facts)) == [(0,), (1,), (1,), (0, 1)]


def test_a_model_that_finds_too_little_memory_is_an_out_of_memory_start(load: Load) -> None:
    rules = load("rules")
    problem, facts = rig(*[1] * 20, overhead=4)  # 3.2 GiB claimed, 6 GiB needed: 13 of 20 run on the first card
    came = rules.start(problem, rules.first_fit(problem, facts))
    assert (came.awake, came.served, came.out_of_memory) == (13, 13, 7)
    assert (came.fusions, came.weakest) == (0, 0)


def test_a_placement_is_worth_the_requests_that_its_weakest_kv_cache_holds(load: Load) -> None:
    problem, _ = rig(50, 18, request=2)
    apart = {position: Home(problem.engines[position].options[position]) for position in (0, 1)}
    came = load("rules").outcome(problem, apart)
    assert (came.awake, came.fusions, came.out_of_memory) == (2, 1, 0)
    assert came.weakest == pytest.approx((80 - 50 - 2) / 2)


# --- figures


@pytest.mark.parametrize("seed", range(4))
def test_no_rule_beats_our_plan_in_the_order_of_the_goals(load: Load, seed: int) -> None:
    planner = load("planner")
    run = planner.plan_once(load("fleets").fleet(4, seed))
    ours = run.outcomes.pop(planner.OURS)
    assert run.proven
    for theirs in run.outcomes.values():
        first = (ours.fusions, ours.served, ours.awake, -ours.meetings)
        second = (theirs.fusions, theirs.served, theirs.awake, -theirs.meetings)
        assert first > second or (first == second and ours.weakest >= theirs.weakest * 0.98)


async def test_every_figure_is_a_finite_number_and_every_way_is_a_row(
    load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planner, report = load("planner"), load("report")
    for name, models in {"FEW": 3, "MANY": 4, "TOO_MANY": 5}.items():
        monkeypatch.setattr(planner, name, models)
    for name in ("TIGHT", "TOO_MUCH"):
        monkeypatch.setattr(planner, name, (0.5, 0.7))  # no five models need as much as there is
    told: list[str] = []
    figures = await planner.measure_planner(2, told.append)
    assert len(told) == 2 + 1 + 2 + 1
    json.dumps([figure.to_json() for figure in figures], allow_nan=False)
    assert all(min(figure.values) > 0 for figure in figures if figure.unit == "s")
    assert all(0 <= value <= 100 for figure in figures if figure.unit == "%" for value in figure.values)
    tables = [rows for figure in figures for rows in figure.details.values() if isinstance(rows, dict)]
    assert [rows[planner.OURS]["models served"] for rows in tables] == [3, 4, 5]
    assert all(rows[planner.OURS]["out of memory"] == 0 for rows in tables)
    monkeypatch.setenv("COLUMNS", "240")
    report.print_table(0.0, 0.0, figures)
    shown = capsys.readouterr().out
    assert all(shown.count(f"\n{way} ") == len(tables) for way in (planner.OURS, planner.GREEDY, planner.CLAIM))
