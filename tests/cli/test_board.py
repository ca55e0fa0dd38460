"""What a terminal shows of rounds, and of a call that waits for its engine's turn."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from local_fusion.cli.board import Board
from local_fusion.core.events import (
    Event,
    MemberFinished,
    MemberProgress,
    MemberStarted,
    Nested,
    Queued,
    StageStarted,
    TextDelta,
)

BUSY = "qwen has its memory, at most"


def queued(ahead: int = 3, reason: str = "swap in progress") -> Queued:
    return Queued("gemma", ahead, reason)


def picture(*events: Event) -> str:
    """What stands on the terminal after these events."""
    console = Console(file=io.StringIO(), width=120)
    board = Board(console)
    for event in events:
        board.show(event)
    with console.capture() as capture:
        console.print(board._picture())
    return capture.get()


def lines(*events: Event) -> list[str]:
    """What a pipe gets of these events."""
    file = io.StringIO()
    board = Board(Console(file=file, width=120))
    for event in events:
        board.show(event)
    return file.getvalue().splitlines()


def row(shown: str, title: str) -> str:
    return next(line for line in shown.splitlines() if title in line)


MEMBERS = (MemberStarted("gemma", "gemma", 1), MemberStarted("qwen", "qwen", 2))


def test_a_member_that_waits_says_for_what_in_its_row() -> None:
    shown = picture(*MEMBERS, Nested("gemma", queued()))
    assert "waiting for gemma: 3 ahead, swap in progress" in row(shown, "member gemma")
    assert "waiting" not in row(shown, "member qwen")


def test_the_row_goes_on_to_tokens_and_candidates() -> None:
    begun = (*MEMBERS, Nested("gemma", queued()), MemberProgress("gemma", 7))
    assert "7 tokens" in row(picture(*begun), "member gemma")
    assert "waiting" not in picture(*begun, MemberFinished("gemma", (), 1.0))


@pytest.mark.parametrize("stage", ["judge", "synthesis"])
def test_a_judge_or_synthesizer_that_waits_says_so_in_its_own_row_also_where_it_was_a_member(stage: str) -> None:
    panel = (*MEMBERS, MemberFinished("gemma", (), 1.0), MemberFinished("qwen", (), 1.0))
    shown = picture(*panel, StageStarted(stage, ("gemma",)), Nested("gemma", queued()))  # type: ignore[arg-type]
    title = {"judge": "judge gemma", "synthesis": "synthesizer gemma"}[stage]
    assert "waiting for gemma" in row(shown, title)
    assert "waiting" not in row(shown, "member gemma")


def test_an_engine_that_is_asked_alone_has_a_row_until_it_answers() -> None:
    assert "waiting for gemma" in row(picture(queued()), "the question")
    assert picture(queued(), TextDelta("It is")).strip() == ""


def test_what_a_fusion_inside_waits_for_is_told_in_its_row() -> None:
    shown = picture(MemberStarted("council", "council", 1), Nested("council", Nested("gemma", queued())))
    assert "waiting for gemma" in row(shown, "member council")


def test_a_pipe_is_told_again_only_where_more_than_numbers_change() -> None:
    told = lines(
        MEMBERS[0],
        Nested("gemma", queued(3, f"{BUSY} 12 s more")),
        Nested("gemma", queued(2, f"{BUSY} 11 s more")),
        Nested("gemma", queued(2)),
    )
    assert told[1:] == [
        f"… member gemma: waiting for gemma: 3 ahead, {BUSY} 12 s more",
        "… member gemma: waiting for gemma: 2 ahead, swap in progress",
    ]


def test_whoever_works_in_a_later_round_says_in_which() -> None:
    first = (StageStarted("panel", ("gemma",)), MemberStarted("gemma", "gemma", 1), MemberFinished("gemma", (), 1.0))
    assert row(picture(*first), "member gemma").split() == ["✓", "member", "gemma", "0.0", "s", "0", "candidates"]
    second = (StageStarted("panel", ("gemma",), 2), MemberStarted("gemma", "gemma", 1))
    shown = picture(*first, *second, StageStarted("judge", ("qwen",), 2))
    assert "member gemma, round 2" in shown
    assert "judge qwen, round 2" in shown
    assert shown.count("member gemma") == 1
    assert lines(*first, *second) == ["… member gemma", "✓ member gemma 0.0 s  0 candidates", "… member gemma, round 2"]


def test_who_thinks_before_answering_is_seen_to_think() -> None:
    thinking = (TextDelta("", reasoning="Hm."), TextDelta("", reasoning=" Six sevens."))
    assert "thinking" in picture(*thinking)
    assert lines(*thinking, TextDelta("It is"), TextDelta(" 42.")) == ["… thinking", "✓ thinking 0.0 s"]
    assert lines(TextDelta("It is 42.")) == []
