"""A request's own version of a fusion."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.config.base import Reference
from local_fusion.config.loading import override_fusion
from local_fusion.config.references import references
from local_fusion.config.schema import Config
from local_fusion.config.strategies import (
    STRATEGY_CONFIGS,
    BestOfConfig,
    ConvergeConfig,
    DebateConfig,
    FusionConfig,
    RouteConfig,
    SynthesizeConfig,
    VoteConfig,
)
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
            "checked": {
                "strategy": "evolve",
                "panel": [{"model": "qwen", "samples": 8}],
                "judge": [{"command": ["check"]}, {"judges": ["gemma", {"kind": "rubric", "model": "qwen"}]}],
                "migrate_every": 2,
            },
            "sorted": {
                "strategy": "vote",
                "panel": [{"model": "qwen", "samples": 8, "rephrase": True}],
                "extract": "regex:[A-F]",
                "adaptive": {"wave": 2},
                "cadence": "final",
                "solo": "gemma",
                "quorum": 3,
                "grace_seconds": 5,
            },
            "clustered": {
                "strategy": "vote",
                "panel": [{"model": "qwen", "samples": 4}],
                "extract": "cluster",
                "judge": "gemma",
            },
            "converging": {
                "strategy": "converge",
                "panel": ["qwen", "gemma"],
                "judge": {"kind": "rubric", "model": "gemma"},
                "threshold": 0.9,
            },
            "programmed": {"strategy": "best_of", "panel": ["qwen", "gemma"], "judge": {"command": ["check"]}},
            "outer": {"strategy": "synthesize", "panel": ["quality", "qwen"], "judge": "qwen"},
        },
    }
)


def refusal(overrides: dict[str, Any], name: str = "quality") -> RequestError:
    with pytest.raises(RequestError) as caught:
        override_fusion(CONFIG, name, overrides)
    return caught.value


def judges_of(fusion: FusionConfig) -> list[Reference]:
    return [reference for path, reference in references(fusion) if path[0] == "judge"]


def test_no_overrides_give_the_same_fusion() -> None:
    assert override_fusion(CONFIG, "quality", {}) == CONFIG.fusions["quality"]


def test_a_field_replaces_the_fusions_own_and_deadlines_are_merged() -> None:
    fusion = override_fusion(CONFIG, "quality", {"panel": ["qwen"], "quorum": 1, "deadlines": {"judge": 5}})
    assert isinstance(fusion, SynthesizeConfig)
    assert [member.model for member in fusion.panel] == ["qwen"]
    assert [judge.model for judge in fusion.judge] == ["gemma"]
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
    assert [(reference.model, reference.set_fields()) for reference in judges_of(fusion)] == [("gemma", {})]
    assert ("judge" in fusion.deadlines.model_fields_set) is (fusion.strategy == "best_of")


def test_what_another_strategy_does_not_need_goes_with_all_that_hangs_on_it() -> None:
    fusion = override_fusion(CONFIG, "sorted", {"strategy": "single"})
    assert fusion.model_fields_set == {"strategy", "panel"}
    assert [member.model_fields_set for member in fusion.panel] == [{"model"}]


def test_an_option_of_the_fusions_own_goes_where_one_of_the_request_leaves_it_without_effect() -> None:
    assert override_fusion(CONFIG, "sorted", {"cadence": "every"}).solo is None
    assert override_fusion(CONFIG, "sorted", {"quorum": 8}).grace_seconds is None
    clustered = override_fusion(CONFIG, "sorted", {"extract": "cluster", "judge": "gemma"})
    assert isinstance(clustered, VoteConfig)
    assert clustered.adaptive is None


@pytest.mark.parametrize("strategy", ["debate", "route"])
def test_a_way_to_find_answers_that_another_strategy_does_not_know_goes(strategy: str) -> None:
    more = {"otherwise": "gemma"} if strategy == "route" else {}
    fusion = override_fusion(CONFIG, "clustered", {"strategy": strategy, **more})
    assert isinstance(fusion, DebateConfig | RouteConfig)
    assert fusion.extract == "auto"


def test_a_threshold_of_the_fusions_own_goes_with_the_judge_that_knew_it() -> None:
    fusion = override_fusion(CONFIG, "converging", {"judge": "gemma"})
    assert isinstance(fusion, ConvergeConfig)
    assert fusion.threshold is None
    error = refusal({"judge": "gemma", "threshold": 0.9}, "converging")
    assert (error.param, "only compares" in error.message) == ("fusion.threshold", True)


NEEDS: dict[str, dict[str, Any]] = {
    **{strategy: {"judge": "gemma"} for strategy in ("best_of", "synthesize", "evolve", "review")},
    "refine": {"panel": ["qwen"], "reviewer": "gemma", "quorum": 1},
    "muse": {"panel": ["qwen"], "muse": "gemma", "quorum": 1},
    "council": {"panel": [{"model": "qwen", "samples": 2}, {"model": "gemma", "samples": 2}]},
    "relay": {"panel": ["qwen", "gemma"], "quorum": 1},
    "route": {"otherwise": "gemma"},
}


@pytest.mark.parametrize("strategy", STRATEGY_CONFIGS)
@pytest.mark.parametrize("name", ["quality", "checked", "sorted", "programmed", "clustered", "converging"])
def test_every_fusion_takes_every_strategy_with_what_that_needs(name: str, strategy: str) -> None:
    assert override_fusion(CONFIG, name, {"strategy": strategy, **NEEDS.get(strategy, {})}).strategy == strategy


def test_judges_stay_where_another_strategy_takes_judges_also_a_command_of_the_configuration() -> None:
    fusion = override_fusion(CONFIG, "checked", {"strategy": "best_of"})
    assert isinstance(fusion, BestOfConfig)
    assert [judge.kind for judge in fusion.judge] == ["command", "joint"]


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ({"strategy": "synthesize"}, ["gemma", "qwen"]),
        ({"strategy": "review"}, ["gemma", "qwen"]),
        ({"strategy": "vote", "extract": "cluster"}, ["gemma"]),
        ({"strategy": "vote"}, []),
        ({"strategy": "debate"}, []),
    ],
)
def test_of_judges_only_the_models_stay_where_another_strategy_takes_no_kinds(
    overrides: dict[str, Any], names: list[str]
) -> None:
    assert [judge.model for judge in judges_of(override_fusion(CONFIG, "checked", overrides))] == names


def test_a_judge_without_models_is_missed_where_models_are_needed() -> None:
    error = refusal({"strategy": "synthesize"}, "programmed")
    assert error.param == "fusion.judge"
    assert "missing: expected the name of a model or fusion" in error.message


@pytest.mark.parametrize(
    ("overrides", "param"),
    [
        ({"strategy": "best_of", "judge": {"command": ["rm", "-r", "/"]}}, "fusion.judge.command"),
        ({"strategy": "best_of", "judge": ["qwen", {"command": ["x"]}]}, "fusion.judge[1].command"),
        ({"strategy": "best_of", "judge": {"judges": ["qwen", {"command": ["x"]}]}}, "fusion.judge.judges[1].command"),
        ({"strategy": "refine", "panel": ["qwen"], "reviewer": {"command": ["x"]}}, "fusion.reviewer.command"),
        ({"strategy": "vote", "extract": "code", "verifier": {"command": ["x"]}}, "fusion.verifier.command"),
        ({"strategy": "vote", "extract": "code", "verifier": {"command": 3}}, "fusion.verifier.command"),
        ({"preset": "balanced", "judge": {"command": ["x"]}}, "fusion.judge.command"),
    ],
)
def test_a_request_brings_no_commands(overrides: dict[str, Any], param: str) -> None:
    error = refusal(overrides)
    assert (error.param, error.message) == (param, "commands are taken from the configuration only")


def test_a_request_brings_no_patterns_but_may_use_the_configurations() -> None:
    error = refusal({"strategy": "vote", "extract": "regex:(a+)+$"})
    assert (error.param, error.message) == ("fusion.extract", "patterns are taken from the configuration only")
    fusion = override_fusion(CONFIG, "sorted", {"quorum": 2})
    assert isinstance(fusion, VoteConfig)
    assert fusion.extract == "regex:[A-F]"


def test_a_request_that_is_nested_without_end_is_refused_and_not_crashed_upon() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    assert refusal({"judge": deep}).param == "fusion.judge[0]"


def test_a_preset_takes_the_place_of_the_whole_fusion() -> None:
    fusion = override_fusion(CONFIG, "quality", {"preset": "balanced", "quorum": 1})
    assert isinstance(fusion, BestOfConfig)
    assert fusion.deadlines.model_fields_set == set()
    assert [member.model for member in fusion.panel] == ["qwen", "gemma"]


@pytest.mark.parametrize(
    ("overrides", "param", "message"),
    [
        ({"panel": [{"model": "qwne"}], "quorum": 1}, "fusion.panel[0].model", "did you mean 'qwen'?"),
        ({"panle": []}, "fusion.panle", "unknown key; did you mean 'panel'?"),
        ({"panel": [{"model": "qwen", "smaples": 2}]}, "fusion.panel[0].smaples", "did you mean 'samples'?"),
        ({"strategy": "synthesis"}, "fusion.strategy", "unknown strategy 'synthesis'; did you mean 'synthesize'?"),
        ({"strategy": ["vote"]}, "fusion.strategy", "unknown strategy"),
        ({"strategy": "single", "judge": "qwen"}, "fusion.judge", "strategy single takes no 'judge'"),
        ({"strategy": "vote", "judge": "qwen"}, "fusion.judge", "has no use with extract auto"),
        ({"strategy": "council", "panel": ["qwen", "gemma"]}, "fusion.panel", "nobody has two answers of others"),
        ({"strategy": "council", "chairman": ["qwen", "qwen"]}, "fusion.chairman[1]", "the same once more"),
        ({"strategy": "refine", "reviewer": "qwen"}, "fusion.panel", "takes one member, got 2"),
        ({"strategy": "refine", "panel": ["qwen"]}, "fusion.reviewer", "missing: expected the name of a model"),
        ({"preset": "fats"}, "fusion.preset", "unknown preset 'fats'; did you mean 'fast'?"),
        ({"preset": 3}, "fusion.preset", "expected the name of a preset"),
        ({"preset": "fast", "judge": "qwen"}, "fusion.judge", "strategy route takes no 'judge'"),
        ({"strategy": "best_of", "judge": {"model": "qwen", "seed": 1}}, "fusion.judge.seed", "nothing is generated"),
        ({"analysis": False, "deadlines": {"judge": 1}}, "fusion.deadlines.judge", "no model is called"),
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
