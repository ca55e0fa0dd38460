"""The program judge: a command accepts or rejects, and its errors never count as acceptance."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.errors import VerifierFailed
from tests.fusion.judges.courts import court, judged, written

# Accepts `good`, rejects `bad` and says why, breaks on anything else.
CHECK = 'read -r text; case "$text" in good*) exit 0;; bad) echo "it is bad"; exit 1;; *) echo oops >&2; exit 3;; esac'


def program(script: str = CHECK, **options: Any) -> dict[str, Any]:
    return {"command": ["sh", "-c", script], "seconds": 20, **options}


async def test_an_accepted_candidate_beats_a_rejected_one() -> None:
    session = court([], program())
    verdict = await judged(session, written("bad", "good"))
    assert verdict.scores == {"c1": 0.0, "c2": 1.0}
    assert verdict.absolute
    assert (verdict.winner, verdict.tied) == ("c2", False)
    assert verdict.reason == "sh accepted 1 of 2 candidates; c1: it is bad"
    assert verdict.reasons == {"c1": "it is bad"}
    assert session.failures == []


async def test_of_several_accepted_ones_the_first_wins_and_the_tie_is_told() -> None:
    verdict = await judged(court([], program()), written("bad", "good 1", "good 2"))
    assert (verdict.winner, verdict.tied) == ("c2", True)


async def test_an_error_of_the_program_is_kept_and_is_neither_acceptance_nor_rejection() -> None:
    session = court([], program())
    verdict = await judged(session, written("strange", "bad"))
    assert verdict.scores == {"c1": 0.0, "c2": 0.0}
    assert (verdict.winner, verdict.abstained) == ("c2", ("c1",))
    (failure,) = session.failures
    assert (failure.stage, failure.member, failure.code) == ("judge", "sh on c1", "verifier_failed")


async def test_where_it_breaks_on_every_candidate_the_judge_has_failed() -> None:
    session = court([], program())
    with pytest.raises(VerifierFailed):
        await judged(session, written("strange", "odd"))
    assert {failure.member for failure in session.failures} == {"sh on c1", "sh on c2"}


async def test_a_program_that_is_not_there_is_a_failed_judge() -> None:
    session = court([], {"command": ["/no/such/program"]})
    with pytest.raises(VerifierFailed):
        await judged(session, written("good"))
    assert [failure.code for failure in session.failures] == ["verifier_failed"]


async def test_copies_are_checked_once() -> None:
    session = court([], program())
    verdict = await judged(session, written("strange", "good", "strange", "good"))
    assert verdict.scores == {"c1": 0.0, "c2": 1.0, "c3": 0.0, "c4": 1.0}
    assert [failure.member for failure in session.failures] == ["sh on c1"]
    assert verdict.abstained == ("c1", "c3")
    assert not verdict.tied
