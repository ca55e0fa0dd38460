"""`scripts/bench voting` replays the very rule by which a vote stops, and its questions can be counted."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from local_fusion.config.strategies import Adaptive
from local_fusion.fusion.extraction import extract

SCRIPTS = Path(__file__).parents[2] / "scripts"
SAMPLES = 40


@pytest.fixture
def voting(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("benchmarks.voting")


def test_there_are_questions_of_both_kinds_and_none_twice(voting: Any) -> None:
    asked = voting.questions()
    assert len(asked) >= 60
    assert len({question.text for question in asked}) == len(asked)
    assert {question.extract for question in asked} == {"choice", "number"}
    assert all(extract(f"The answer is {'B' if one.extract == 'choice' else '7'}.", one.extract) for one in asked)


def test_votes_that_agree_are_saved_but_for_their_first_wave_and_change_nothing(voting: Any) -> None:
    replayed = voting._replay([("x",) * SAMPLES], Adaptive(confidence=0.95, wave=4), SAMPLES, seed=1)
    assert (replayed.saved, replayed.changed) == ((1 - 4 / SAMPLES,), (0.0,))


def test_certain_stopping_changes_nothing_on_divided_votes(voting: Any) -> None:
    divided = [("x", "y") * (SAMPLES // 2), ("x", "x", "y", None) * (SAMPLES // 4), (None,) * SAMPLES]
    replayed = voting._replay(divided, Adaptive(confidence=1, wave=2), SAMPLES, seed=1)
    assert replayed.changed == (0.0, 0.0, 0.0)
    assert replayed.saved[2] == 0.0


def test_little_confidence_changes_some_outcomes_of_divided_votes(voting: Any) -> None:
    replayed = voting._replay(
        [("x", "y") * (SAMPLES // 2 - 1) + ("x", "x")], Adaptive(confidence=0.51, wave=1), SAMPLES, seed=1
    )
    assert replayed.saved[0] > 0.5
    assert replayed.changed[0] > 0.2


def test_the_interval_holds_the_mean_and_is_a_point_where_all_questions_are_alike(voting: Any) -> None:
    spread = voting._interval([[0.2], [0.4], [0.6], [0.8]])
    assert 0 < spread["low"] < 50 < spread["high"] < 100
    assert voting._interval([[0.5], [0.5]]) == {"low": 50.0, "high": 50.0}
