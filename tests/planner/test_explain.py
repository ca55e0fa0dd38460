"""A plan in words: errors that say what to do, and why a model is where it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from local_fusion.config.references import engines_of
from local_fusion.config.schema import Config
from local_fusion.errors import Refused
from local_fusion.hardware.devices import Rig
from local_fusion.planner.explain import Alternative, Reason, explain, refusal_error
from local_fusion.planner.facts.model import ModelFacts
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.plan import Plan
from local_fusion.planner.planning import make_plan
from tests.planner.placement.plans import awake, cards, cpu, facts, gpus, inputs, lawful, panel, planned, where

BIG_AND_SMALL = Rig((*cards(24), *cards(48, name="big", first=1)), None)


def reasons(known: dict[str, ModelFacts], rig: Rig, **more: Any) -> dict[str, Reason]:
    given = inputs(known, rig, **more)
    return {reason.model: reason for reason in explain(given, lawful(given))}


def alternatives(reason: Reason) -> dict[str, str]:
    return {alternative.what: alternative.worse for alternative in reason.alternatives}


# --- errors


def test_a_refusal_says_who_is_refused_and_what_would_help() -> None:
    error = refusal_error(planned({"a": facts(10), "b": facts(40)}, gpus(24)))
    assert isinstance(error, Refused)
    lines = error.message.splitlines()
    assert lines[0] == "1 of 2 models cannot be placed:"
    assert lines[1].startswith(
        "  b: it needs 43 GiB on one GPU (weights 40 GiB, KV cache 514 MiB for a context of 4096"
    )
    assert "      would fit: 3 more GPUs like GPU 0 (card)" in lines
    assert error.hint == "Make one of these changes to the configuration, or take the models out of it."


def test_a_model_that_nothing_helps_says_so() -> None:
    error = refusal_error(planned({"a": facts(10**7)}, gpus(24)))
    assert error.message.splitlines()[0] == "the model cannot be placed:"
    assert error.hint is not None
    assert error.hint.startswith("No single change was found")


# --- why this and not another


def test_a_gpu_without_room_is_told_with_its_bytes() -> None:
    reason = reasons({"a": facts(30)}, BIG_AND_SMALL)["a"]
    assert reason.chosen == "on GPU 1"
    assert alternatives(reason) == {"on GPU 0": "it needs 33 GiB there, and 23.5 GiB are free"}


def test_a_gpu_where_fewer_would_be_awake_is_told_so() -> None:
    reason = reasons({"a": facts(12), "b": facts(12)}, gpus(24, 24), models={"b": {"gpus": [1]}})["a"]
    assert alternatives(reason)["on GPU 1"] == "1 model would be awake all the time, not 2"


def test_a_gpu_where_a_fusion_would_not_be_awake_as_a_whole_is_told_so() -> None:
    pinned = {"b": {"gpus": [1]}}
    fusions = {"f": panel("a", "b")}
    reason = reasons({"a": facts(12), "b": facts(12)}, gpus(24, 24), models=pinned, fusions=fusions)["a"]
    assert alternatives(reason)["on GPU 1"] == "0 fusions could be awake as a whole, not 1"


def test_a_gpu_shared_with_a_panel_mate_is_told_so() -> None:
    pinned = {"b": {"gpus": [1]}}
    fusions = {"f": panel("a", "b")}
    reason = reasons({"a": facts(4), "b": facts(4)}, gpus(24, 24), models=pinned, fusions=fusions)["a"]
    assert reason.chosen == "on GPU 0"
    assert alternatives(reason)["on GPU 1"] == "1 pair of a panel's models would share a GPU, not 0"


def test_less_concurrency_is_told_in_requests() -> None:
    reason = reasons({"a": facts(15)}, gpus(24, 24))["a"]
    assert reason.chosen == "split over GPUs 0 and 1"
    (worse,) = alternatives(reason).values()
    assert re.fullmatch(r"the weakest would have 6\.0\d requests at once, not 23\.\d\d", worse)


def test_where_a_model_would_lack_memory_that_it_has_here_is_told_without_infinities() -> None:
    """On the chosen GPU it has all that it can use."""
    reason = reasons({"a": facts(18)}, BIG_AND_SMALL, models={"a": {"max_num_seqs": 8}})["a"]
    assert reason.chosen == "on GPU 1"
    (worse,) = alternatives(reason).values()
    assert "the weakest would have 3.8" in worse
    assert "inf" not in worse


def test_more_gpus_for_nothing_are_told_so_and_what_is_alike_is_not_told_again() -> None:
    """GPUs 1 to 3 are like GPU 0."""
    reason = reasons({"a": facts(4)}, gpus(24, 24, 24, 24), models={"a": {"max_num_seqs": 4}})["a"]
    assert alternatives(reason) == {
        "split over GPUs 0 and 1": "it would take 2 GPUs in all, not 1",
        "split over GPUs 0 to 3": "it would take 4 GPUs in all, not 1",
    }


def test_on_the_cpu_there_is_nothing_else() -> None:
    reason = reasons({"a": facts(1)}, cpu(16))["a"]
    assert reason == Reason("a", "on the CPU, the only place that there is for it", ())


def test_a_pinned_model_is_nowhere_else() -> None:
    reason = reasons({"a": facts(1)}, gpus(24, 24), models={"a": {"gpus": [1]}})["a"]
    assert reason == Reason("a", "on GPU 1, where it is pinned", ())


def test_gpus_that_are_alike_are_told_together() -> None:
    reason = reasons({"a": facts(40, heads=3, kv_heads=3)}, gpus(48, 48))["a"]
    assert reason == Reason("a", "on GPU 0; others that are alike would do as well", ())


@pytest.mark.parametrize(
    ("known", "rig", "fusions"),
    [
        ({"a": facts(15), "b": facts(4), "c": facts(9)}, gpus(24, 24), {"f": panel("a", "b")}),
        ({"a": facts(15), "b": facts(14), "c": facts(3)}, gpus(24), {}),
        ({"a": facts(20), "b": facts(18), "c": facts(30)}, BIG_AND_SMALL, {"f": panel("a", "c"), "g": panel("b")}),
    ],
)
def test_every_alternative_is_true(known: dict[str, ModelFacts], rig: Rig, fusions: dict[str, Any]) -> None:
    """The model pinned there, and everything else planned anew: then what is said to be worse is worse."""
    given = inputs(known, rig, fusions=fusions)
    made = lawful(given)
    for reason in explain(given, made):
        for alternative in reason.alternatives:
            there = make_plan(pinned(given, reason.model, alternative))
            assert is_true(alternative.worse, given.config, made, there), (reason.model, alternative)


def pinned(given: Inputs, model: str, alternative: Alternative) -> Inputs:
    indices = [int(number) for number in re.findall(r"\d+", alternative.what)]
    if " to " in alternative.what:
        indices = list(range(indices[0], indices[1] + 1))
    options = given.config.models[model].model_copy(update={"gpus": indices})
    models = {**given.config.models, model: options}
    return replace(given, config=given.config.model_copy(update={"models": models}))


def is_true(worse: str, config: Config, here: Plan, there: Plan) -> bool:
    """Judged by the two plans alone."""
    if worse.startswith("it needs"):
        return bool(there.refusals)
    if worse.startswith("nothing"):
        return not any(
            is_worse(phrase, measure(config, there), measure(config, here)) for phrase, measure in MEASURES.items()
        )
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", worse)]
    (measure,) = (measure for phrase, measure in MEASURES.items() if re.search(phrase, worse))
    return numbers == [pytest.approx(measure(config, plan), rel=0.02) for plan in (there, here)]


def is_worse(phrase: str, there: float, here: float) -> bool:
    return there > here if phrase in FEWER_IS_BETTER else there < here * 0.98


def together(config: Config, plan: Plan) -> int:
    """Fusions for which there is room while all others sleep."""

    def fits(engines: set[str]) -> bool:
        return engines <= where(plan).keys() and all(
            sum(
                placement.awake_bytes if placement.model in engines else placement.sleeping_bytes
                for placement in plan.placements
                if device.index in placement.devices
            )
            <= usable
            for device, usable in zip(plan.devices, plan.usable, strict=True)
        )

    return sum(fits(engines_of(config, name)) for name in config.fusions)


def shared(config: Config, plan: Plan) -> int:
    """Pairs of a panel on one GPU, for each GPU."""
    homes = where(plan)
    panels = ({member.model for member in fusion.panel} & awake(plan) for fusion in config.fusions.values())
    return sum(
        len(set(homes[one]) & set(homes[other])) for names in panels for one, other in combinations(sorted(names), 2)
    )


MEASURES: dict[str, Callable[[Config, Plan], float]] = {
    "fusions? could be awake as a whole": together,
    "fusions? would be awake all the time": lambda config, plan: sum(
        engines_of(config, name) <= awake(plan) for name in config.fusions
    ),
    "models? would be awake all the time": lambda config, plan: len(awake(plan)),
    "pairs? of a panel's models": shared,
    "requests at once": lambda config, plan: min(
        placement.max_concurrent_requests for placement in plan.placements if placement.resident
    ),
    "GPUs in all": lambda config, plan: sum(placement.tensor_parallel for placement in plan.placements),
}
FEWER_IS_BETTER = ("pairs? of a panel's models", "GPUs in all")
