"""How a panel's answers compare, in the shape of the original: what `fusion.result` and the tool's result hold."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from local_fusion import errors
from local_fusion.core.model import FusionReport
from local_fusion.core.records import Analysis, Failure
from local_fusion.errors import LocalFusionError, PanelFailed
from local_fusion.fusion.session import NESTED

# The original's words for why there is no analysis: they keep its older word for the analyst.
_OF_THE_JUDGE = {
    "not_json": "judge_not_valid_json",
    "not_the_schema": "judge_schema_mismatch",
    "empty_answer": "judge_empty_completion",
}
CAPPED = "fusion_invocation_capped"
_STATUS = {
    kind.code: kind.status
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, LocalFusionError)
}


def result_of(report: FusionReport, called: Mapping[str, str]) -> dict[str, Any]:
    """What came of a panel. `called`: what the client calls each member, by its label; without it, its model's name."""
    names = {candidate.id: called.get(candidate.member, candidate.model) for candidate in report.candidates}
    told: dict[str, Any] = {"status": "ok"}
    if report.verdict is not None and report.verdict.analysis is not None:
        told["analysis"] = analysis_of(report.verdict.analysis, names)
    elif (failed := next((each for each in report.failed if each.stage == "judge"), None)) is not None:
        told |= {
            "failure_reason": _OF_THE_JUDGE.get(failed.code, "judge_upstream_error"),
            "error": failed.message,
        }
    told["responses"] = [{"model": names[candidate.id], "content": candidate.text} for candidate in report.candidates]
    told["failed_models"] = failed_models(report.failed, called)
    return told


def result_of_error(error: LocalFusionError, called: Mapping[str, str]) -> dict[str, Any]:
    """What is told of a panel that gave nothing."""
    failures = error.failures if isinstance(error, PanelFailed) else ()
    return {
        "status": "error",
        "failure_reason": "all_panels_failed" if failures else "unexpected_error",
        "error": error.message,
        "failed_models": failed_models(failures, called),
    }


def capped() -> dict[str, Any]:
    """What is told where the panel was consulted already."""
    told = "the panel was consulted already; write the answer from what it said"
    return {"status": "error", "failure_reason": CAPPED, "error": told}


def failed_models(failures: tuple[Failure, ...], called: Mapping[str, str]) -> list[dict[str, Any]]:
    """The members that failed, and why; what failed within a fusion that is a member is that fusion's affair."""
    return [
        {
            "model": called.get(failure.member, failure.model),
            "error": failure.message,
            "status_code": _STATUS.get(failure.code, 500),
        }
        for failure in failures
        if failure.stage == "panel" and NESTED not in failure.member
    ]


def analysis_of(analysis: Analysis, names: Mapping[str, str]) -> dict[str, Any]:
    """How candidates compare; `names` are those of whoever wrote them, by their ids."""
    return {
        "consensus": list(analysis.consensus),
        "contradictions": [
            {
                "topic": each.topic,
                "stances": [{"model": names.get(one, one), "stance": stance} for one, stance in each.stances],
            }
            for each in analysis.contradictions
        ],
        "partial_coverage": [
            {"models": list(dict.fromkeys(names.get(one, one) for one in ids)), "point": point}
            for ids, point in analysis.partial_coverage
        ],
        "unique_insights": [
            {"model": names.get(one, one), "insight": insight} for one, insight in analysis.unique_insights
        ],
        "blind_spots": list(analysis.blind_spots),
    }
