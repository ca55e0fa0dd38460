"""How much one request may order."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.config.limits import most_candidates, refuse_too_much
from local_fusion.config.overrides import override_fusion
from local_fusion.config.references import engines_of
from local_fusion.config.schema import Config
from local_fusion.errors import RequestError

CONFIG = Config.model_validate(
    {
        "models": {"a": {"source": "x"}, "b": {"source": "y"}},
        "fusions": {
            "small": {"strategy": "vote", "panel": [{"model": "a", "samples": 3}, "b"]},
            "large": {"strategy": "vote", "panel": [{"model": "a", "samples": 40}]},
        },
        "server": {"max_request_candidates": 20},
    }
)


def made(fusion: dict[str, Any]) -> int:
    return most_candidates(CONFIG, override_fusion(CONFIG, "small", fusion))


@pytest.mark.parametrize(
    ("fusion", "candidates"),
    [
        ({}, 4),
        ({"strategy": "best_of", "judge": ["a", "b"]}, 4 + 2),
        ({"strategy": "best_of", "judge": "large"}, 4 + 40),
        ({"panel": ["a", {"model": "large", "samples": 2}]}, 1 + 2 * 40),
        ({"strategy": "synthesize", "judge": "a", "layers": 3}, 3 * 4 + 1),
        ({"strategy": "debate", "max_rounds": 5}, 5 * 4),
        ({"strategy": "converge", "judge": "b", "max_rounds": 2}, 2 * (4 + 1)),
        ({"strategy": "refine", "panel": ["a"], "reviewer": "large", "max_rounds": 2}, 2 * (1 + 40)),
        ({"strategy": "evolve", "judge": "b", "generations": 2, "islands": 2, "population": 3}, 4 + 2 * 2 * 3 + 3),
        ({"strategy": "route", "otherwise": "large"}, 4 + 40),
    ],
)
def test_rounds_and_fusions_within_count_in_full(fusion: dict[str, Any], candidates: int) -> None:
    assert made(fusion) == candidates


def order(name: str, answers: int = 1, **overrides: Any) -> None:
    refuse_too_much(CONFIG, name, override_fusion(CONFIG, name, overrides), answers)


def test_a_request_may_order_up_to_the_limit_and_what_is_configured() -> None:
    order("small", 5)
    order("small", panel=[{"model": "a", "samples": 20}])
    order("large")
    order("large", quorum=3)


@pytest.mark.parametrize(
    ("name", "answers", "overrides", "param", "message"),
    [
        ("small", 6, {}, "n", "up to 4 candidates for each of 6 answers, and one request may order 20"),
        ("small", 1, {"panel": [{"model": "a", "samples": 21}]}, "fusion", "up to 21 candidates, and"),
        ("small", 1, {"panel": ["a", "large"]}, "fusion", "up to 41 candidates"),
        ("large", 1, {"strategy": "debate"}, "fusion", "up to 120 candidates, and one request may order 40"),
    ],
)
def test_more_is_refused(name: str, answers: int, overrides: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        order(name, answers, **overrides)
    assert refused.value.param == param
    assert "max_request_candidates" in refused.value.hint


def test_a_fusion_that_many_ways_lead_to_is_looked_at_once() -> None:
    deep = {"f0": {"strategy": "single", "panel": ["a"]}}
    for level in range(1, 60):  # every way by itself would be 2 ** 59 of them
        deep[f"f{level}"] = {"strategy": "vote", "panel": [f"f{level - 1}", f"f{level - 1}"]}
    config = Config.model_validate({"models": {"a": {"source": "unused"}}, "fusions": deep})
    assert most_candidates(config, config.fusions["f59"]) == 2**59
    assert engines_of(config, "f59") == {"a"}
