"""What came of a panel, in the shape of the original."""

from __future__ import annotations

import pytest

from local_fusion.core.model import FusionReport
from local_fusion.core.records import Analysis, Candidate, Contradiction, Failure, Stage, Verdict
from local_fusion.errors import EngineUnavailable
from local_fusion.server.openrouter.result import result_of, result_of_error

CALLED = {"gemma #1": "openai/gpt-5.5", "gemma #2": "google/gemini"}


def candidate(number: int, member: str, text: str) -> Candidate:
    return Candidate(f"c{number}", member, member.split(" ")[0], text, "stop", 0.1)


def failure(member: str, code: str, stage: Stage = "panel") -> Failure:
    return Failure(stage, member, "gemma", code, f"{member} failed")


def report(verdict: Verdict | None = None, *failed: Failure) -> FusionReport:
    candidates = (candidate(1, "gemma #1", "one"), candidate(2, "gemma #2", "two"), candidate(3, "qwen", "three"))
    return FusionReport("r1", "quality", "synthesize", failed, bool(failed), candidates, verdict)


def test_everybody_is_called_as_the_client_does() -> None:
    analysis = Analysis(
        consensus=("same",),
        contradictions=(Contradiction("topic", (("c1", "yes"), ("c3", "no"))),),
        partial_coverage=((("c1", "c2"), "point"),),
        unique_insights=(("c2", "insight"),),
        blind_spots=("blind",),
    )
    assert result_of(report(Verdict("judge", analysis=analysis)), CALLED) == {
        "status": "ok",
        "analysis": {
            "consensus": ["same"],
            "contradictions": [
                {
                    "topic": "topic",
                    "stances": [{"model": "openai/gpt-5.5", "stance": "yes"}, {"model": "qwen", "stance": "no"}],
                }
            ],
            "partial_coverage": [{"models": ["openai/gpt-5.5", "google/gemini"], "point": "point"}],
            "unique_insights": [{"model": "google/gemini", "insight": "insight"}],
            "blind_spots": ["blind"],
        },
        "responses": [
            {"model": "openai/gpt-5.5", "content": "one"},
            {"model": "google/gemini", "content": "two"},
            {"model": "qwen", "content": "three"},
        ],
        "failed_models": [],
    }


def test_who_failed_is_told_with_the_cause() -> None:
    failed = [failure("gemma #2", "deadline_exceeded"), failure("vote › gemma", "empty_answer")]
    assert result_of(report(None, *failed), CALLED)["failed_models"] == [
        {"model": "google/gemini", "error": "gemma #2 failed", "status_code": 504}
    ]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("not_json", "judge_not_valid_json"),
        ("not_the_schema", "judge_schema_mismatch"),
        ("empty_answer", "judge_empty_completion"),
        ("engine_died", "judge_upstream_error"),
    ],
)
def test_a_judge_that_fails_leaves_the_analysis_out_and_says_why(code: str, reason: str) -> None:
    told = result_of(report(None, failure("judge", code, "judge")), CALLED)
    assert (told["status"], told["failure_reason"], told["error"]) == ("ok", reason, "judge failed")
    assert "analysis" not in told
    assert told["failed_models"] == []


def test_a_judge_that_stood_in_for_another_is_no_failure() -> None:
    told = result_of(report(Verdict("other", analysis=Analysis()), failure("judge", "not_json", "judge")), CALLED)
    assert "failure_reason" not in told
    assert told["analysis"]["consensus"] == []


def test_what_is_no_failure_of_the_panel_is_told_as_unexpected() -> None:
    assert result_of_error(EngineUnavailable("gone"), CALLED) == {
        "status": "error",
        "failure_reason": "unexpected_error",
        "error": "gone",
        "failed_models": [],
    }
