"""`scripts/bench scheduler`: others take turns as they do, and figures are what they say. No times are tested."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from local_fusion.engines.gate import Call
from local_fusion.scheduler.situation import Footprint
from tests.scheduler.machine import Ledger, Machine, Seconds, StagedEngine, now, takes, virtual

SCRIPTS = Path(__file__).parents[2] / "scripts"
THREE = {name: takes(5) for name in "abc"}  # two of them fit into the 10 bytes of device 0
ALONE = {name: takes(10) for name in "abc"}

Load = Callable[[str], Any]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Imports a module of the benchmarks as `scripts/bench` does."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@asynccontextmanager
async def taking_turns(rival: Any, footprints: Mapping[str, Footprint]) -> AsyncIterator[Machine]:
    """Engines of which none is awake; at the end no task is left, nobody is in flight, and memory was never short."""
    ledger = Ledger({0: 10})
    engines = {name: StagedEngine(name, each, ledger, Seconds()) for name, each in footprints.items()}
    before = asyncio.all_tasks()
    scheduler = rival(engines, footprints, ledger.usable)
    yield Machine(scheduler, engines, ledger)
    assert not any(scheduler.in_flight.values())
    await scheduler.aclose()
    assert asyncio.all_tasks() == before
    assert ledger.faults == []


async def order(staged: Machine, names: str) -> str:
    """Who was woken in which order when calls to these came at once, in this order."""
    async with asyncio.TaskGroup() as calls:
        for number, name in enumerate(names):
            calls.create_task(staged.call(name, request=f"r{number}"))
    woken = [
        (at, name)
        for name, engine in staged.engines.items()
        for at, state in engine.states
        if state in ("starting", "waking")
    ]
    return "".join(name for _, name in sorted(woken))


# --- llama-swap's matrix


@virtual
async def test_the_matrix_has_all_largest_sets_that_fit_and_evicts_as_few_as_it_can(load: Load) -> None:
    baselines = load("baselines")
    sizes = {"a": takes(5), "b": takes(5), "c": takes(4), "d": takes(1)}
    async with taking_turns(baselines.ArrivalOrder, sizes) as staged:
        matrix = baselines._Matrix(staged.scheduler)
        assert [sorted(each) for each in matrix.sets] == [["a", "c", "d"], ["b", "c", "d"], ["a", "b"]]
        assert matrix.evicted_for("a", ["a", "b"]) == []
        assert matrix.evicted_for("d", ["a", "c"]) == []
        assert matrix.evicted_for("b", ["a", "c"]) == ["a"]
        assert matrix.evicted_for("c", ["a", "b"]) == ["b"]  # as good as a: the first set counts


@virtual
async def test_the_matrix_counts_what_sleepers_leave_behind(load: Load) -> None:
    baselines = load("baselines")
    async with taking_turns(baselines.ArrivalOrder, {name: takes(5, sleeping=1) for name in "abc"}) as staged:
        assert [sorted(each) for each in baselines._Matrix(staged.scheduler).sets] == [["a"], ["b"], ["c"]]


# --- the order of turns


@pytest.mark.parametrize(
    ("rival", "woken"), [("ArrivalOrder", "abab"), ("Collating", "ab"), ("KeepAlive", "abab")], ids=lambda each: each
)
def test_of_calls_in_turn_only_the_new_router_makes_one_batch_each(load: Load, rival: str, woken: str) -> None:
    @virtual
    async def body() -> None:
        async with taking_turns(getattr(load("baselines"), rival), ALONE) as staged:
            assert await order(staged, "abab") == woken

    body()


@pytest.mark.parametrize("rival", ["ArrivalOrder", "Collating", "KeepAlive"])
def test_models_that_fit_are_awake_together_and_not_swapped(load: Load, rival: str) -> None:
    @virtual
    async def body() -> None:
        async with taking_turns(getattr(load("baselines"), rival), THREE) as staged:
            assert await order(staged, "ababab") == "ab"

    body()


@pytest.mark.parametrize("rival", ["ArrivalOrder", "Collating", "KeepAlive"])
def test_nobody_is_stopped_in_the_middle_of_a_call_and_whoever_gives_up_leaves_nothing(load: Load, rival: str) -> None:
    @virtual
    async def body() -> None:
        async with taking_turns(getattr(load("baselines"), rival), ALONE) as staged:
            calls = [staged.calling(name, 30, request=f"r{number}") for number, name in enumerate("abcab")]
            await asyncio.sleep(25)
            calls[2].cancel()  # waits
            await asyncio.sleep(10)
            calls[0].cancel()  # in flight
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [isinstance(each, asyncio.CancelledError) for each in results] == [True, False, True, False, False]

    body()


@virtual
async def test_the_new_router_serves_a_running_model_at_once_however_long_others_wait(load: Load) -> None:
    async with taking_turns(load("baselines").Collating, ALONE) as staged:
        busy = [staged.calling("a", 5)]
        await asyncio.sleep(22)
        waits = staged.calling("b")
        for _ in range(100):  # never idle
            busy.append(staged.calling("a", 5))
            await asyncio.sleep(3)
        assert [await each for each in busy] == [20, *range(22, 322, 3)]
        assert await waits == 319 + 5 + 1 + 20  # when the last one is done, after one rest and one start


@virtual
async def test_ollama_serves_loaded_models_at_once_and_others_one_after_the_other(load: Load) -> None:
    async with taking_turns(load("baselines").KeepAlive, THREE) as staged:
        await asyncio.gather(staged.call("a"), staged.call("b"))
        keeps, also = staged.calling("a", 100), staged.calling("b", 50)
        await asyncio.sleep(0)
        blocked = staged.calling("c")
        await asyncio.sleep(1)
        assert await staged.call("a") == now() - 1
        await also
        # The victim was chosen while both were busy, and is awaited though the other one is idle first.
        assert await blocked == await keeps + 100 + 1 + 20
        assert staged.states() == {"a": "asleep", "b": "awake", "c": "awake"}


@virtual
async def test_ollama_gives_up_an_idle_model_before_a_busy_one(load: Load) -> None:
    async with taking_turns(load("baselines").KeepAlive, THREE) as staged:
        await asyncio.gather(staged.call("a"), staged.call("b"))
        keeps = staged.calling("a", 100)
        assert await staged.call("c") == 20 + 20 + 1 + 1 + 20
        await keeps
        assert staged.states() == {"a": "awake", "b": "asleep", "c": "awake"}


@pytest.mark.parametrize("rival", ["ArrivalOrder", "Collating", "KeepAlive"])
def test_counting_tokens_costs_others_nothing(load: Load, rival: str) -> None:
    @virtual
    async def body() -> None:
        async with taking_turns(getattr(load("baselines"), rival), ALONE) as staged:
            async with staged.scheduler.gate("a").turn(Call("r1", 0)):
                assert now() == 0
            assert staged.states() == dict.fromkeys("abc", "stopped")

    body()


# --- figures


def test_the_plan_of_the_benchmark_has_two_of_six_awake(load: Load) -> None:
    scheduler, baselines = load("scheduler"), load("baselines")
    _, plan = scheduler.rig()
    footprints = {each.model: Footprint.of(each) for each in plan.placements}
    usable = dict(zip((device.index for device in plan.devices), plan.usable, strict=True))
    engines: dict[str, Any] = dict.fromkeys(footprints)
    sets = baselines._Matrix(baselines.Collating(engines, footprints, usable)).sets
    assert plan.refusals == ()
    assert len(footprints) == 6
    assert {len(each) for each in sets} == {2}


def test_offline_every_engine_gets_one_turn_and_the_judge_perhaps_another(load: Load) -> None:
    scheduler = load("scheduler")
    run = scheduler.run_once(scheduler._batch(1), scheduler.OURS)
    assert run.wakes <= scheduler.MOST_SWAPS * 6
    assert (run.unanswered, run.overdrafts) == (0, 0)


async def test_every_figure_is_a_finite_number_and_every_way_is_a_row(
    load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler, report = load("scheduler"), load("report")
    monkeypatch.setattr(scheduler, "REQUESTS", 8)
    monkeypatch.setattr(scheduler, "RATES", ("2/min",))
    monkeypatch.setattr(scheduler, "BUSY", "20/min")
    told: list[str] = []
    figures = await scheduler.measure_scheduler(2, told.append)
    assert len(told) == len(scheduler.WAYS) * (2 + 2 + 2 + 2)
    json.dumps([figure.to_json() for figure in figures], allow_nan=False)
    tables = [rows for figure in figures for rows in figure.details.values()]
    assert len(tables) == 5
    assert all(rows.keys() == scheduler.WAYS.keys() for rows in tables)
    assert all(row["unanswered"] == row["overdrafts"] == 0 for rows in tables for row in rows.values())
    monkeypatch.setenv("COLUMNS", "240")
    report.print_table(0.0, 0.0, figures)
    shown = capsys.readouterr().out
    assert all(shown.count(f"\n{way} ") == len(tables) for way in scheduler.WAYS)
