"""Presets become whole fusions of the user's models, best first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from local_fusion.config.checks import check_config
from local_fusion.config.loading import load_config
from local_fusion.config.presets import PRESETS
from local_fusion.config.schema import Config
from local_fusion.config.strategies import BestOfConfig, FusionConfig, RouteConfig, SynthesizeConfig, VoteConfig
from local_fusion.errors import ConfigError


def made(preset: str, models: str = "abc", **beside: Any) -> FusionConfig:
    data = {
        "models": {name: {"source": "x/y"} for name in models},
        "fusions": {"made": {"preset": preset, **beside}},
    }
    config = Config.model_validate(data, strict=True)
    assert check_config(config) == []
    return config.fusions["made"]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("models", ["a", "ab", "abc", "abcdefghijkl"])
def test_every_preset_works_with_as_many_models_as_there_are(preset: str, models: str) -> None:
    fusion = made(preset, models)
    assert {member.model for member in fusion.panel} <= set(models)
    assert PRESETS[preset].explanation.endswith(".")


def test_fast_asks_the_last_model_first_and_the_best_one_only_where_its_samples_disagree() -> None:
    fusion = made("fast")
    assert isinstance(fusion, RouteConfig)
    assert [(member.model, member.samples) for member in fusion.panel] == [("c", 3)]
    assert fusion.otherwise.model == "a"


def test_fast_with_one_model_is_a_vote_that_stops_once_it_is_decided() -> None:
    fusion = made("fast", "a")
    assert isinstance(fusion, VoteConfig)
    assert fusion.adaptive is not None


def test_balanced_chooses_among_all_and_the_second_best_model_judges_where_the_best_fails() -> None:
    fusion = made("balanced")
    assert isinstance(fusion, BestOfConfig)
    assert [member.model for member in fusion.panel] == ["a", "b", "c"]
    assert [(judge.kind, getattr(judge, "model", None)) for judge in fusion.judge] == [
        ("pairwise", "a"),
        ("pairwise", "b"),
    ]


def test_self_is_one_models_samples_made_into_one_answer_by_itself() -> None:
    fusion = made("self")
    assert isinstance(fusion, SynthesizeConfig)
    assert [(member.model, member.samples) for member in fusion.panel] == [("a", 6)]
    assert ([judge.model for judge in fusion.judge], fusion.analysis) == (["a"], False)


@pytest.mark.parametrize("preset", ["council", "review"])
def test_where_views_must_differ_one_model_wears_different_personas(preset: str) -> None:
    personas = [member.persona for member in made(preset, "a").panel]
    assert len(personas) >= 3
    assert len(set(personas)) == len(personas)


def test_what_stands_beside_a_preset_replaces_its_own() -> None:
    fusion = made("balanced", panel=["b", "c"], judge={"kind": "rubric", "model": "c"}, description="mine")
    assert isinstance(fusion, BestOfConfig)
    assert [member.model for member in fusion.panel] == ["b", "c"]
    assert [judge.kind for judge in fusion.judge] == ["rubric"]
    assert fusion.description == "mine"


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [
        ("{preset: fats}", "fusions.f.preset: unknown preset 'fats'; did you mean 'fast'?"),
        ("{preset: 3}", "fusions.f.preset: expected the name of a preset: fast, balanced, quality, self, council,"),
        ("{preset: fast, strategy: vote, panel: [a]}", "fusions.f.preset: a preset has a strategy of its own; remove"),
        ("{preset: balanced, panle: [a]}", "fusions.f.panle: unknown key; did you mean 'panel'?"),
        ("{preset: balanced, chairman: a}", "fusions.f.chairman: strategy best_of takes no 'chairman'; remove it"),
        ("{preset: balanced, judge: {model: b}}", "fusions.f.judge.model: no model or fusion is called 'b'"),
        ("{preset: balanced, panel: [a]}", "fusions.f.panel: the panel gives one candidate only"),
        ("{preset: balanced, quorum: x}", "fusions.f.quorum: expected a whole number, got the text 'x'"),
    ],
)
def test_a_mistake_beside_a_preset_is_told_at_the_users_line(tmp_path: Path, fusion: str, expected: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"models:\n  a: {{source: x/y}}\nfusions:\n\n  f: {fusion}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert any(problem.startswith(f"{file}:5: {expected}") for problem in caught.value.problems), caught.value.problems


def test_a_preset_without_models_says_so(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("models: {}\nfusions:\n  f: {preset: fast}\n")
    with pytest.raises(ConfigError, match=r":3: fusions\.f\.preset: there are no models to make it of"):
        load_config(file)
