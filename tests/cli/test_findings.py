"""What people are told of candidates, verdicts and savings."""

from __future__ import annotations

import io

from rich.console import Console

from local_fusion.cli.findings import SHOWN_CHARACTERS, finding, print_summary
from local_fusion.core.chat import ToolCall
from local_fusion.core.events import MemberFinished, VerdictReached
from local_fusion.core.model import FusionReport, Reply
from local_fusion.core.records import Candidate, Saving, Verdict

WEATHER = ToolCall("call_1", "weather", '{"city":\n "Bonn"}')


def shown(event: MemberFinished | VerdictReached) -> list[str]:
    console = Console(file=io.StringIO(), width=1000)
    with console.capture() as capture:
        console.print(finding(event))
    return [line.strip() for line in capture.get().splitlines()]


def of_candidate(candidate: Candidate) -> list[str]:
    return shown(MemberFinished(candidate.member, (candidate,), 1.0))


def summary(*savings: Saving) -> list[str]:
    file = io.StringIO()
    print_summary(Reply((), report=FusionReport("r1", "panel", "vote", savings=savings)), Console(file=file, width=80))
    return file.getvalue().splitlines()


def test_a_candidate_that_calls_tools_is_shown_by_its_calls() -> None:
    calls = Candidate("c1", "gemma", "gemma", "", "tool_calls", 1.0, tool_calls=(WEATHER, WEATHER))
    assert of_candidate(calls) == ["c1 gemma", 'weather({"city": "Bonn"})', 'weather({"city": "Bonn"})']


def test_what_a_candidate_says_comes_before_its_calls() -> None:
    both = Candidate("c1", "gemma", "gemma", "I look.", "tool_calls", 1.0, tool_calls=(WEATHER,))
    assert of_candidate(both) == ["c1 gemma", "I look.", 'weather({"city": "Bonn"})']


def test_long_calls_are_cut_like_long_texts() -> None:
    long = ToolCall("call_1", "note", "x" * 2 * SHOWN_CHARACTERS)
    (_, call) = of_candidate(Candidate("c1", "gemma", "gemma", "", "tool_calls", 1.0, tool_calls=(long,)))
    assert call.endswith("more characters)")
    assert call.count("x") < SHOWN_CHARACTERS


def test_a_candidate_of_a_later_round_says_so() -> None:
    assert of_candidate(Candidate("c7", "gemma", "gemma", "42", "stop", 1.0, round=3)) == ["c7 gemma, round 3", "42"]


def test_a_verdict_of_several_judges_tells_what_they_are_worth() -> None:
    combined = Verdict("gemma + qwen", winner="c1", independent=1.26)
    assert shown(VerdictReached(combined))[-1] == "these judges are worth 1.3 independent ones"
    assert "independent" not in " ".join(shown(VerdictReached(Verdict("gemma", winner="c1"))))


def test_what_was_saved_is_one_line_with_every_reason_once() -> None:
    told = summary(
        Saving("decided", 8, "42 is ahead"), Saving("straggler", 1, "b is slow"), Saving("decided", 4, "42 is ahead")
    )
    assert told[-1] == "saved 13 answers: 42 is ahead (12); b is slow (1)"
    assert summary(Saving("straggler", 1, "b is slow"))[-1] == "saved 1 answer: b is slow (1)"
    assert summary(Saving("agreed", 0, "no judge was needed"))[-1] == "saved: no judge was needed"


def test_where_nothing_was_saved_nothing_is_said_of_it() -> None:
    assert "saved" not in " ".join(summary())
