"""A request's reasoning effort reaches whoever answers the client, members and the writer of the answer; no judge."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.core.events import CallEnded
from local_fusion.core.records import Stage
from tests.scripted import Heard, Scripted, asking, fusion

CASES: dict[str, tuple[dict[str, Any], dict[str, set[str | None]]]] = {
    "single": ({"panel": ["a"]}, {"a": {"high"}}),
    "best_of": ({"panel": ["a", "b"], "judge": "j"}, {"a": {"high"}, "b": {"high"}}),
    "vote": ({"panel": [{"model": "a", "samples": 2, "rephrase": True}]}, {"a": {None, "high"}}),  # None: to rephrase
    "synthesize": (
        {"panel": ["a", "b"], "judge": "j", "synthesizer": "w"},
        {"a": {"high"}, "j": {None}, "w": {"high"}},
    ),
    "council": ({"panel": ["a", "b", "c"], "chairman": "w"}, {"a": {None, "high"}, "w": {"high"}}),  # None: to rank
    "debate": ({"panel": ["a", "b"], "max_rounds": 2, "moderator": "w"}, {"a": {"high"}, "w": {"high"}}),
    "refine": ({"panel": ["a"], "reviewer": "j"}, {"a": {"high"}, "j": {None}}),
    "review": ({"panel": ["a", "b"], "judge": "j"}, {"a": {"high"}}),
    "muse": ({"panel": ["a"], "muse": "j", "trigger": {"every": 1}}, {"a": {"high"}, "j": {None}}),
    "relay": ({"panel": ["a", "b"], "segment_tokens": 8}, {"a": {"high"}, "b": {"high"}}),
    "route": ({"panel": [{"model": "a", "samples": 2}], "otherwise": "w"}, {"a": {"high"}, "w": {"high"}}),
}


@pytest.mark.parametrize("strategy", CASES)
async def test_it_reaches_whoever_answers(strategy: str) -> None:
    config, efforts = CASES[strategy]
    said = ['{"problems": []}'] if strategy == "review" else ["one", "two"]
    models = {
        name: Scripted(name, [text if strategy == "review" else f"{text} {name}" for text in said]) for name in "abcjw"
    }
    await fusion([*models.values()], f={"strategy": strategy, **config})["f"].answer(asking(reasoning_effort="high"))
    asked = {name: {request.reasoning_effort for request in models[name].requests} for name in efforts}
    assert asked == efforts


async def test_it_passes_through_fusions_within_it_and_a_turn_that_one_model_answers() -> None:
    models = [Scripted("a"), Scripted("b")]
    inner = {"strategy": "single", "panel": ["a"]}
    outer = {"strategy": "vote", "panel": ["inner"], "cadence": "final", "solo": "b"}
    tools = ({"type": "function", "function": {"name": "look"}},)
    heard = Heard()
    await fusion(models, inner=inner, f=outer)["f"].answer(asking(reasoning_effort="low", tools=tools), heard)
    assert [[request.reasoning_effort for request in model.requests] for model in models] == [["low"], ["low"]]
    stages: list[Stage] = [event.call.stage for event in heard.of(CallEnded)]
    assert stages == ["panel", "panel"]
