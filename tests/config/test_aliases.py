"""Other names for models, and what OpenRouter's names stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from local_fusion.config.aliases import meant_by
from local_fusion.config.loading import load_config
from local_fusion.config.openrouter import OpenRouterConfig
from local_fusion.errors import ConfigError

ALIASES = {
    "gpt-4o": "exact",
    "gpt-*": "short",
    "gpt-4*": "longer",
    "anthropic/*:thinking": "ends",
    "anthropic/*": "begins",
    "*": "anything",
}


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("gpt-4o", "exact"),
        ("gpt-4o-mini", "longer"),
        ("gpt-5", "short"),
        ("gpt-", "short"),
        ("anthropic/claude-opus-4.8", "begins"),
        ("anthropic/claude-opus-4.8:thinking", "ends"),
        ("anthropic/:thinking", "ends"),
        ("GPT-4o", "anything"),
    ],
)
def test_an_exact_name_comes_first_then_the_pattern_that_says_most(called: str, name: str) -> None:
    assert meant_by(called, ALIASES) == name
    assert meant_by(called, dict(reversed(ALIASES.items()))) == name


@pytest.mark.parametrize(
    ("called", "pattern", "fits"),
    [
        ("a-b-c", "a*c", True),
        ("a-b-c", "a*b*c", True),
        ("a-c", "a*b*c", False),
        ("aba", "ab*ba", False),  # no letter counts twice
        ("abba", "ab*ba", True),
        ("ab", "a*b*b", False),
        ("a.b", "a*", True),
        ("axb", "a.b", False),
        ("abab", "*ab*ab*", True),
        ("ab", "*ab*ab*", False),
    ],
)
def test_a_star_stands_for_any_part(called: str, pattern: str, fits: bool) -> None:
    assert (meant_by(called, {pattern: "x"}) == "x") is fits


def test_long_names_and_many_stars_take_no_time() -> None:
    assert meant_by("a" * 1_000_000, {"*a" * 60 + "*b": "x"}) is None


def load(folder: Path, text: str) -> object:
    file = folder / "local-fusion.yaml"
    file.write_text(f"models: {{a: {{source: /x}}}}\nfusions: {{f: {{strategy: single, panel: [a]}}}}\n{text}")
    return load_config(file)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("aliases: {gpt: g}", "3: aliases.gpt: no model or fusion is called 'g'"),
        ("aliases: {a: f}", "3: aliases.a: 'a' is the name of a model, which an alias would hide"),
        ("aliases: {f: a}", "3: aliases.f: 'f' is the name of a fusion, which an alias would hide"),
        ("aliases: {x y: a}", '3: aliases["x y"]: expected a name, in which `*` may stand for any part'),
        ("aliases: {openrouter/fusion: f}", '3: aliases["openrouter/fusion"]: this stands for `openrouter.fusion`'),
        ("aliases: [f]", "3: aliases: expected a mapping"),
        ("openrouter: {fusion: a}", "3: openrouter.fusion: 'a' is a model, and a fusion is needed"),
        ("openrouter: {fusion: g}", "3: openrouter.fusion: no fusion is called 'g'"),
        ("openrouter: {presets: {x: qualty}}", "3: openrouter.presets.x: no fusion is called 'qualty'; did you mean"),
        ("openrouter: {preset: {}}", "3: openrouter.preset: unknown key; did you mean 'presets'?"),
    ],
)
def test_what_cannot_be_is_told_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text)
    assert problem in refused.value.problems[0]
    assert len(refused.value.problems) == 1


def test_a_pattern_may_fit_names_of_models_which_go_before_it(tmp_path: Path) -> None:
    load(tmp_path, "aliases: {'*': f, 'a*': a}")


def test_presets_that_are_not_given_stand_for_the_usual() -> None:
    assert OpenRouterConfig(presets={"general-fast": "f", "mine": "debate"}).presets == {
        "general-high": "quality",
        "general-budget": "balanced",
        "general-fast": "f",
        "mine": "debate",
    }


def test_the_slug_stands_for_the_first_fusion_unless_told() -> None:
    assert OpenRouterConfig().meant(["f", "g"]) == "f"
    assert OpenRouterConfig(fusion="g").meant(["f", "g"]) == "g"
    assert OpenRouterConfig().meant([]) is None
