"""A request's own version of a fusion."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.config.loading import override_fusion
from local_fusion.config.schema import BestOfConfig, Config, SynthesizeConfig, VoteConfig
from local_fusion.errors import RequestError, UnknownModel

CONFIG = Config.model_validate(
    {
        "models": {"qwen": {"source": "a/b"}, "gemma": {"source": "c/d"}},
        "fusions": {
            "quality": {
                "strategy": "synthesize",
                "panel": ["qwen", {"model": "gemma", "samples": 2}],
                "judge": {"model": "gemma", "temperature": 0},
                "quorum": 2,
                "deadlines": {"panel": 10, "judge": 20},
            },
            "outer": {"strategy": "synthesize", "panel": ["quality", "qwen"], "judge": "qwen"},
        },
    }
)


def refusal(overrides: dict[str, Any], name: str = "quality") -> RequestError:
    with pytest.raises(RequestError) as caught:
        override_fusion(CONFIG, name, overrides)
    return caught.value


def test_no_overrides_give_the_same_fusion() -> None:
    assert override_fusion(CONFIG, "quality", {}) == CONFIG.fusions["quality"]


def test_a_field_replaces_the_fusions_own_and_deadlines_are_merged() -> None:
    fusion = override_fusion(CONFIG, "quality", {"panel": ["qwen"], "quorum": 1, "deadlines": {"judge": 5}})
    assert isinstance(fusion, SynthesizeConfig)
    assert [member.model for member in fusion.panel] == ["qwen"]
    assert fusion.judge.model == "gemma"
    assert (fusion.deadlines.panel, fusion.deadlines.judge, fusion.deadlines.synthesis) == (10, 5, 600)


def test_another_strategy_keeps_what_both_strategies_have() -> None:
    fusion = override_fusion(CONFIG, "quality", {"strategy": "vote", "extract": "number"})
    assert isinstance(fusion, VoteConfig)
    assert [member.samples for member in fusion.panel] == [1, 2]
    assert fusion.quorum == 2
    assert fusion.deadlines.panel == 10
    assert "judge" not in fusion.deadlines.model_fields_set


@pytest.mark.parametrize("overrides", [{"strategy": "best_of"}, {"analysis": False}])
def test_what_an_override_leaves_without_effect_goes(overrides: dict[str, Any]) -> None:
    fusion = override_fusion(CONFIG, "quality", overrides)
    assert isinstance(fusion, BestOfConfig | SynthesizeConfig)
    assert (fusion.judge.model, fusion.judge.set_fields()) == ("gemma", {})
    assert ("judge" in fusion.deadlines.model_fields_set) is (fusion.strategy == "best_of")


@pytest.mark.parametrize(
    ("overrides", "param", "message"),
    [
        ({"panel": [{"model": "qwne"}], "quorum": 1}, "fusion.panel[0].model", "did you mean 'qwen'?"),
        ({"panle": []}, "fusion.panle", "unknown key; did you mean 'panel'?"),
        ({"panel": [{"model": "qwen", "smaples": 2}]}, "fusion.panel[0].smaples", "did you mean 'samples'?"),
        ({"strategy": "synthesis"}, "fusion.strategy", "unknown strategy 'synthesis'; did you mean 'synthesize'?"),
        ({"strategy": ["vote"]}, "fusion.strategy", "unknown strategy"),
        ({"strategy": "vote", "judge": "qwen"}, "fusion.judge", "strategy vote takes no 'judge'"),
        ({"strategy": "best_of", "judge": {"model": "qwen", "seed": 1}}, "fusion.judge.seed", "nothing is generated"),
        ({"analysis": False, "deadlines": {"judge": 1}}, "fusion.deadlines.judge", "nothing is generated"),
        ({"judge": "nobody"}, "fusion.judge.model", "no model or fusion is called 'nobody'"),
        ({"quorum": 9}, "fusion.quorum", "9 candidates are needed but the panel gives 3"),
        ({"quorum": "2"}, "fusion.quorum", "expected a whole number, got the text '2'"),
        ({"panel": "qwen"}, "fusion.panel", "expected a list"),
        ({"deadlines": 3}, "fusion.deadlines", "expected a mapping"),
        ({"deadlines": {"pannel": 3}}, "fusion.deadlines.pannel", "did you mean 'panel'?"),
        ({"panel": [{"model": "qwen", "persona": "skeptik"}], "quorum": 1}, "fusion.panel[0].persona", "'skeptic'"),
        ({"panel": ["outer", "qwen"]}, "fusion.panel[0].model", "in a circle: quality → outer → quality"),
        ({"strategy": "vote", "panel": ["qwen"], "quorum": 1}, "fusion.panel", "one candidate only"),
    ],
)
def test_a_bad_override_is_refused_with_the_path_of_the_field(
    overrides: dict[str, Any], param: str, message: str
) -> None:
    error = refusal(overrides)
    assert error.param == param
    assert message in error.message


def test_several_bad_fields_are_all_told() -> None:
    assert refusal({"quorum": 0, "judge": 3}).message.count("\n") == 1


def test_only_fusions_can_be_overridden() -> None:
    assert refusal({}, "qwen").param == "fusion"
    with pytest.raises(UnknownModel, match="did you mean 'quality'"):
        override_fusion(CONFIG, "qualty", {})
