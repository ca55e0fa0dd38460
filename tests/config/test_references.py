"""Who needs whom: every name in a fusion is found, at the key path the user wrote."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from local_fusion.config.references import beside_panel, engines_of, named_by
from local_fusion.config.schema import Config


def configured(fusion: str) -> Config:
    data: dict[str, Any] = {
        "models": {name: {"source": "x/y"} for name in "abcdef"},
        "fusions": {"top": yaml.safe_load(f"{{{fusion}}}"), "low": {"strategy": "single", "panel": ["e", "f"]}},
    }
    return Config.model_validate(data, strict=True)


PAIR = "panel: [a, b]"
IN_THE_PAIR = [(("panel", 0, "model"), "a"), (("panel", 1, "model"), "b")]


@pytest.mark.parametrize(
    ("fusion", "others"),
    [
        (f"strategy: single, {PAIR}", []),
        (f"strategy: best_of, {PAIR}, judge: c", [(("judge", "model"), "c")]),
        (f"strategy: best_of, {PAIR}, judge: [c]", [(("judge", "model"), "c")]),
        (f"strategy: best_of, {PAIR}, judge: [c, d]", [(("judge", 0, "model"), "c"), (("judge", 1, "model"), "d")]),
        (
            f"strategy: best_of, {PAIR}, judge: {{judges: [c, {{kind: likelihood, models: [d, e]}}]}}",
            [
                (("judge", "judges", 0, "model"), "c"),
                (("judge", "judges", 1, "models", 0, "model"), "d"),
                (("judge", "judges", 1, "models", 1, "model"), "e"),
            ],
        ),
        (
            f"strategy: best_of, {PAIR}, judge: {{kind: likelihood, models: [c]}}",
            [(("judge", "models", 0, "model"), "c")],
        ),
        (f"strategy: best_of, {PAIR}, judge: {{command: [a]}}", []),
        (f"strategy: vote, {PAIR}, extract: cluster, judge: c", [(("judge", "model"), "c")]),
        (f"strategy: vote, {PAIR}, extract: code, verifier: {{command: [a]}}", []),
        (
            f"strategy: synthesize, {PAIR}, judge: c, synthesizer: [d, e], cadence: first, solo: f",
            [
                (("solo", "model"), "f"),
                (("judge", "model"), "c"),
                (("synthesizer", 0, "model"), "d"),
                (("synthesizer", 1, "model"), "e"),
            ],
        ),
        (f"strategy: council, {PAIR}, chairman: c", [(("chairman", "model"), "c")]),
        (f"strategy: debate, {PAIR}, moderator: c", [(("moderator", "model"), "c")]),
        (f"strategy: refine, {PAIR}, reviewer: c", [(("reviewer", "model"), "c")]),
        (f"strategy: evolve, {PAIR}, judge: c, critic: d", [(("judge", "model"), "c"), (("critic", "model"), "d")]),
        (f"strategy: review, {PAIR}, judge: c", [(("judge", "model"), "c")]),
        (f"strategy: muse, {PAIR}, muse: c", [(("muse", "model"), "c")]),
        (f"strategy: route, {PAIR}, otherwise: low", [(("otherwise", "model"), "low")]),
    ],
)
def test_every_name_is_found_where_it_was_written(fusion: str, others: list[tuple[Any, str]]) -> None:
    assert named_by(configured(fusion).fusions["top"]) == IN_THE_PAIR + others


def test_the_engines_of_a_fusion_are_those_of_all_it_names() -> None:
    config = configured(f"strategy: route, {PAIR}, otherwise: low")
    assert engines_of(config, "top") == {"a", "b", "e", "f"}
    assert engines_of(config, "a") == {"a"}


def test_of_those_who_judge_after_each_other_or_together_one_is_enough() -> None:
    fusion = configured(
        f"strategy: synthesize, {PAIR}, judge: [c, d], synthesizer: e, cadence: first, solo: f"
    ).fusions["top"]
    assert beside_panel(fusion) == [{"c", "d"}, {"e"}]
    joint = configured(f"strategy: best_of, {PAIR}, judge: [{{judges: [c, d]}}, e]").fusions["top"]
    assert beside_panel(joint) == [{"c", "d", "e"}]
