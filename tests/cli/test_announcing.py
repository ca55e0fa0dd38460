"""The lines that `serve` writes about its engines."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from local_fusion.cli.announcing import States, made_of
from local_fusion.config.schema import Config
from tests.server.controlled import snapshot


def told(*states: tuple[str, dict[str, Any]]) -> list[str]:
    """The lines about `a` in these states, one after the other."""
    file = io.StringIO()
    lines = States(Console(file=file, width=200))
    for state, changes in states:
        lines.hear(snapshot("a", state, **changes))
    return file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [
        ({"strategy": "single", "panel": ["a", "b", "a"]}, "panel of a, b"),
        ({"strategy": "best_of", "panel": ["a", "b"], "judge": ["b", "c"]}, "panel of a, b; judge b, c"),
        ({"strategy": "best_of", "panel": ["a", "b"], "judge": {"command": ["x"]}}, "panel of a, b"),
        (
            {"strategy": "synthesize", "panel": ["a"], "judge": "b", "synthesizer": "c"},
            "panel of a; judge b; synthesizer c",
        ),
        ({"strategy": "route", "panel": ["a", "b"], "otherwise": "c"}, "panel of a, b; otherwise c"),
        ({"strategy": "relay", "panel": ["a", "b"]}, "panel of a, b (experimental)"),
    ],
)
def test_a_fusion_tells_who_is_what_in_it(fusion: dict[str, Any], expected: str) -> None:
    models = {name: {"source": "x/y"} for name in "abc"}
    config = Config.model_validate({"models": models, "fusions": {"f": fusion}}, strict=True)
    assert made_of(config.fusions["f"]) == expected


def test_a_start_tells_its_seconds() -> None:
    assert told(("starting", {}), ("awake", {"seconds_to_ready": 3.14})) == [
        "engine a: starting",
        "engine a: awake ready after 3.1 s",
    ]


def test_sleep_and_waking_tell_their_level_and_seconds() -> None:
    asleep = {"level": 1, "seconds_to_sleep": 2.52}
    waking = asleep | {"seconds_to_wake": 0.81}
    states = (("falling_asleep", {"level": 1}), ("asleep", asleep), ("waking", asleep), ("awake", waking))
    assert told(*states) == [
        "engine a: falling asleep at level 1",
        "engine a: asleep at level 1 after 2.5 s",
        "engine a: waking from level 1",
        "engine a: awake again after 0.8 s",
    ]


def test_what_changes_within_a_state_is_no_line_of_its_own() -> None:
    assert told(("starting", {}), ("starting", {"pid": 7})) == ["engine a: starting"]


def test_failures_tell_their_cause() -> None:
    crashed = {"last_error": "a crashed: out of memory [cuda]"}
    assert told(("backing_off", crashed), ("starting", {}), ("broken", crashed), ("stopped", crashed)) == [
        "engine a: backing off a crashed: out of memory [cuda]; trying again",
        "engine a: starting",
        "engine a: broken a crashed: out of memory [cuda]",
        "engine a: stopped a crashed: out of memory [cuda]",
    ]


def test_what_an_engine_wrote_cannot_change_the_terminal() -> None:
    assert told(("broken", {"last_error": "its last words: \x1b[31mred\x07"})) == [
        "engine a: broken its last words: \\x1b[31mred\\x07"
    ]
