"""Options that could have no effect, or contradict each other, are refused."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from local_fusion.config.checks import check_config
from local_fusion.config.schema import Config


def found(fusion: str) -> list[str]:
    """What is wrong with a fusion `f` of the models a, b and c, beside a fusion `g`, as `key: message`."""
    data: dict[str, Any] = {
        "models": {name: {"source": "x/y"} for name in "abc"},
        "fusions": {
            "f": yaml.safe_load(f"{{{fusion}}}"),
            "g": {"strategy": "single", "panel": ["a"]},
        },
    }
    problems = check_config(Config.model_validate(data, strict=True))
    return [f"{problem.key.removeprefix('fusions.f.')}: {problem.message}" for problem in problems]


BEST = "strategy: best_of, panel: [a, b], judge: "
VOTE = "strategy: vote, panel: [a, b], "
SYNTHESIZE = "strategy: synthesize, panel: [a, b], judge: "
EVOLVE = "strategy: evolve, panel: [{model: a, samples: 8}], judge: {kind: pointwise, model: b}, "
ONE = {
    "single": "strategy: single, ",
    "refine": "strategy: refine, reviewer: b, ",
    "muse": "strategy: muse, muse: b, ",
}


@pytest.mark.parametrize(
    "fusion",
    [
        "strategy: vote, panel: [a]",
        "strategy: best_of, panel: [a], judge: b",
        "strategy: council, panel: [a]",
        "strategy: debate, panel: [a]",
        "strategy: converge, panel: [a]",
        "strategy: evolve, panel: [a], judge: b, islands: 1",
        "strategy: relay, panel: [a]",
        "strategy: route, panel: [a], otherwise: b",
    ],
)
def test_what_needs_several_candidates_does_not_take_one(fusion: str) -> None:
    assert found(fusion)[0].startswith("panel: the panel gives one candidate only, so strategy ")


@pytest.mark.parametrize(
    ("panel", "accepted"),
    [
        ("[a, b]", False),
        ("[a, b, c]", True),
        ("[{model: a, samples: 2}, b]", True),
        ("[{model: a, samples: 2}, {model: a, persona: skeptic}]", True),
        ("[{model: a, samples: 3}]", True),
    ],
)
def test_in_a_council_somebody_has_two_answers_to_rank(panel: str, accepted: bool) -> None:
    problems = found(f"strategy: council, panel: {panel}")
    assert [problem.partition("; ")[0] for problem in problems] == (
        [] if accepted else ["panel: nobody has two answers of others, so there is nothing to rank"]
    )


@pytest.mark.parametrize("strategy", ["refine", "muse"])
def test_what_works_on_one_answer_does_not_take_several_members(strategy: str) -> None:
    (problem,) = found(f"{ONE[strategy]} panel: [a, b]")
    assert problem == f"panel: strategy {strategy} takes one member, got 2; leave one"


@pytest.mark.parametrize("strategy", ONE)
@pytest.mark.parametrize(
    ("panel", "expected"),
    [
        ("panel: [{model: a, samples: 2}]", "panel[0].samples: strategy {} gives one answer, so 2 samples have no use"),
        ("panel: [a], quorum: 2", "quorum: strategy {} gives one answer, so 2 cannot be reached; remove `quorum`"),
        ("panel: [a], grace_seconds: 2", "grace_seconds: strategy {} waits for one answer at a time"),
        ("panel: [{model: a, rephrase: true}]", "panel[0].rephrase: the first answer sees the question as it is"),
        ("panel: [a], member_format: true", "member_format: members' answers are returned, and bound, as they are"),
        ("panel: [a], deadlines: {synthesis: 3}", "deadlines.synthesis: strategy {} has no such stage; remove it"),
    ],
)
def test_what_works_on_one_answer_refuses_what_only_several_need(strategy: str, panel: str, expected: str) -> None:
    (problem,) = found(ONE[strategy] + panel)
    assert problem.startswith(expected.format(strategy))


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [
        (VOTE + "quorum: 3", "quorum: 3 candidates are needed but the panel gives 2"),
        (
            VOTE + "quorum: 2, grace_seconds: 3",
            "grace_seconds: has no use while all 2 candidates are needed; lower the",
        ),
        (VOTE + "solo: a", "solo: has no use with cadence every; remove it, or choose first or final"),
        ("strategy: single, panel: [a], cadence: final", "cadence: strategy single calls one model in every turn"),
        ("strategy: muse, panel: [a], muse: b, cadence: first", "cadence: strategy muse calls one model in every turn"),
        ("strategy: review, panel: [a], judge: a, cadence: every", "cadence: a review is no turn of an agent's"),
        (
            "strategy: review, judge: a, panel: [{model: a, samples: 2, rephrase: true}]",
            "panel[0].rephrase: a document is never put in other words",
        ),
        ("strategy: vote, panel: [{model: a, rephrase: true}, b]", "panel[0].rephrase: the first answer sees the"),
    ],
)
def test_what_all_strategies_have_must_fit_the_panel(fusion: str, expected: str) -> None:
    (problem,) = found(fusion)
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("fusion", "stage", "expected"),
    [
        (VOTE, "synthesis", "strategy vote has no such stage; remove it"),
        (VOTE, "judge", "no model is called in this stage with these options"),
        (BEST + "c, ", "synthesis", "strategy best_of has no such stage"),
        (BEST + "{command: [x]}, ", "judge", "no model is called in this stage"),
        (BEST + "{judges: [{command: [x]}, {command: [y]}]}, ", "judge", "no model is called in this stage"),
        (SYNTHESIZE + "c, analysis: false, ", "judge", "no model is called in this stage"),
        ("strategy: debate, panel: [a, b], ", "judge", "strategy debate has no such stage"),
        ("strategy: debate, panel: [a, b], ", "synthesis", "no model is called in this stage"),
        ("strategy: refine, panel: [a], reviewer: {command: [x]}, ", "judge", "no model is called in this stage"),
    ],
)
def test_a_stage_that_does_not_exist_has_no_deadline(fusion: str, stage: str, expected: str) -> None:
    (problem,) = found(f"{fusion} deadlines: {{{stage}: 3}}")
    assert problem.startswith(f"deadlines.{stage}: {expected}")


@pytest.mark.parametrize(
    ("fusion", "stage"),
    [
        ("strategy: vote, panel: [a, b], extract: cluster, judge: c, ", "judge"),
        (BEST + "[{command: [x]}, c], ", "judge"),
        ("strategy: debate, panel: [a, b], moderator: c, ", "synthesis"),
        ("strategy: refine, panel: [a], reviewer: b, ", "judge"),
        ("strategy: converge, panel: [a, b], ", "judge"),
        ("strategy: council, panel: [a, b, c], ", "synthesis"),
        ("strategy: review, panel: [a], judge: b, ", "synthesis"),
        ("strategy: single, panel: [a], ", "panel"),
    ],
)
def test_a_stage_that_exists_has_one(fusion: str, stage: str) -> None:
    assert found(f"{fusion} deadlines: {{{stage}: 3}}") == []


@pytest.mark.parametrize(
    ("fusion", "key"),
    [
        (BEST + "{model: c, temperature: 0}", "judge.temperature"),
        (BEST + "[a, {kind: pointwise, model: c, top_p: 1}]", "judge[1].top_p"),
        (BEST + "{kind: likelihood, models: [a, {model: c, seed: 1}]}", "judge.models[1].seed"),
        (BEST + "{judges: [a, {model: b, max_tokens: 1}]}", "judge.judges[1].max_tokens"),
        (SYNTHESIZE + "{model: c, stop: x}, analysis: false", "judge.stop"),
        (SYNTHESIZE + "{model: c, stop: x}, analysis: false, synthesizer: a", "judge.stop"),
        ("strategy: converge, panel: [a, b], judge: {kind: pointwise, model: c, min_p: 0.1}", "judge.min_p"),
    ],
)
def test_a_judge_that_generates_nothing_has_no_sampling(fusion: str, key: str) -> None:
    assert found(fusion) == [f"{key}: nothing is generated by this judge, so it has no effect; remove it"]


@pytest.mark.parametrize(
    "fusion",
    [
        BEST + "{kind: rubric, model: c, temperature: 0}",
        SYNTHESIZE + "{model: c, temperature: 0}",
        "strategy: review, panel: [a], judge: {model: c, temperature: 0}",
        "strategy: refine, panel: [a], reviewer: {model: c, temperature: 0}",
    ],
)
def test_a_judge_that_writes_may_have_sampling(fusion: str) -> None:
    assert found(fusion) == []


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [
        (BEST + "[a, b, a]", "judge[2]: the same once more"),
        (BEST + "{judges: [a, a]}", "judge.judges[1]: the same once more"),
        (SYNTHESIZE + "[c, c]", "judge[1]: the same once more"),
        ("strategy: council, panel: [a, b, c], chairman: [c, c]", "chairman[1]: the same once more"),
        (BEST + "{kind: likelihood, models: [a, b, a]}", "judge.models[2]: 'a' scores already; each model counts once"),
    ],
)
def test_whoever_judges_is_asked_once(fusion: str, expected: str) -> None:
    (problem,) = found(fusion)
    assert problem.startswith(expected)


def test_judges_of_one_model_that_judge_otherwise_are_not_the_same() -> None:
    assert (
        found(BEST + "[{kind: pairwise, model: a}, {kind: rubric, model: a}, {kind: rubric, model: a, seed: 1}]") == []
    )


@pytest.mark.parametrize(
    ("fusion", "accepted"),
    [
        (SYNTHESIZE + "a", True),
        ("strategy: council, panel: [a, b, c]", True),
        ("strategy: review, panel: [a, b], judge: a", False),
        ("strategy: debate, panel: [a, b], moderator: c", True),
        ("strategy: debate, panel: [a, b]", False),
        (VOTE, False),
        (BEST + "a", False),
        (EVOLVE, False),
        ("strategy: converge, panel: [a, b]", False),
        ("strategy: relay, panel: [a, b]", False),
        ("strategy: route, panel: [a, b], otherwise: c", False),
    ],
)
def test_members_are_bound_on_request_only_where_another_writes_the_answer(fusion: str, accepted: bool) -> None:
    problems = found(f"{fusion.removesuffix(', ')}, member_format: true")
    assert [problem.partition(":")[0] for problem in problems] == ([] if accepted else ["member_format"])


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [
        (VOTE + "judge: c", "judge: has no use with extract auto; remove it, or extract cluster"),
        (VOTE + "verifier: {command: [x]}", "verifier: has no use with extract auto; remove it, or extract code"),
        (VOTE + "extract: cluster, judge: c, adaptive: {}", "adaptive: answers can only be counted one by one, so not"),
        (VOTE + "adaptive: {}", "adaptive: its first wave of 4 is the whole panel of 2; lower `wave`"),
        (
            "strategy: relay, panel: [a, {model: b, samples: 2}]",
            "panel[1].samples: strategy relay asks each member for",
        ),
        (
            "strategy: relay, panel: [a, {model: b, max_tokens: 2}]",
            "panel[1].max_tokens: `segment_tokens` says how long",
        ),
        ("strategy: relay, panel: [a, g]", "panel[1].model: 'g' is a fusion, which cannot go on with an answer"),
        ("strategy: muse, panel: [g], muse: a", "panel[0].model: 'g' is a fusion, which cannot go on with an answer"),
        (EVOLVE + "islands: 1, migrate_every: 2", "migrate_every: there is one island only"),
        (EVOLVE + "generations: 2, migrate_every: 3", "migrate_every: the search ends after 2 generations; lower it"),
    ],
)
def test_options_of_one_strategy_must_fit_each_other(fusion: str, expected: str) -> None:
    (problem,) = found(fusion)
    assert problem.startswith(expected)


def test_a_fusion_may_have_a_muse_that_does_not_break_into_its_answers() -> None:
    assert found("strategy: muse, panel: [g], muse: a, trigger: {repetition: false, every: 2}") == []


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [
        (VOTE + "early_cut: {warmup: 2}", "early_cut: its warm-up of 2 is the whole panel of 2; lower `warmup`"),
        ("strategy: converge, panel: [a, b], max_rounds: 2, stable_rounds: 3", "stable_rounds: 3 rounds are never"),
        ("strategy: converge, panel: [a, b], judge: c, threshold: 0.9", "threshold: a pairwise judge only compares"),
        (
            "strategy: evolve, panel: [a, b], judge: {kind: likelihood}, threshold: 1",
            "threshold: a likelihood judge only compares",
        ),
        (
            "strategy: converge, panel: [a, b], judge: {judges: [{kind: rubric, model: a}, b]}, threshold: 0.9",
            "threshold: a pairwise judge only compares",
        ),
        (EVOLVE + "tournament: 5", "tournament: 5 candidates of a population of 4; lower it"),
        (EVOLVE + "islands: 9", "islands: 9 for the panel's 8 candidates; lower it"),
        ("strategy: muse, panel: [a], muse: b, trigger: {repetition: false}", "the muse would never speak"),
    ],
)
def test_what_can_never_be_reached_is_no_valid_fusion(fusion: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected.replace("(", r"\(")):
        found(fusion)
