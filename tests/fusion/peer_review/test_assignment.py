"""Who is asked about whose answers: never about what only oneself wrote, and about copies once."""

from __future__ import annotations

import pytest

from local_fusion.core.records import Candidate
from local_fusion.core.sampling import Sampling
from local_fusion.fusion.peer_review.assignment import others_of, reviewers
from local_fusion.fusion.session import Session
from tests.scripted import Heard, Scripted, asking, fusion


def session(*names: str, seed: int = 1) -> Session:
    built = fusion([Scripted(name) for name in names], f={"strategy": "council", "panel": list(names)})["f"]
    return Session("f", built.config, asking(sampling=Sampling(seed=seed)), built.resolve, {}, Heard())


def written(**texts: str) -> list[Candidate]:
    """By each member the texts of its answers, one for each letter."""
    told = [(member, text) for member, letters in texts.items() for text in letters]
    return [Candidate(f"c{n}", member, member, text, "stop", 0.0) for n, (member, text) in enumerate(told, start=1)]


def asked(made: Session, candidates: list[Candidate]) -> dict[str, list[str]]:
    seats = reviewers(made, candidates)
    shown = others_of(made, seats, candidates)
    return {seat.label: [each.text for each in some] for seat, some in zip(seats, shown, strict=True)}


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({"b": "x", "c": "yz", "d": "w"}, {"b": "wyz", "c": "wx", "d": "xyz"}),
        ({"b": "xy", "c": "xz"}, {"b": "xz", "c": "xy"}),  # x is both's, so nobody's own
        ({"b": "xy", "c": "xy"}, {"b": "xy", "c": "xy"}),
        ({"b": "xy", "c": "x", "d": "z"}, {"b": "z", "c": "yz", "d": "xy"}),
        ({"b": "xyz"}, {"b": "xyz"}),  # alone
    ],
)
async def test_nobody_is_asked_about_its_own_answer_unless_everybody_wrote_it(
    texts: dict[str, str], expected: dict[str, str]
) -> None:
    found = asked(session("a", "b", "c", "d"), written(**texts))
    assert {member: "".join(sorted(some)) for member, some in found.items()} == expected


async def test_who_gave_no_answer_is_not_asked_and_who_refused_is() -> None:
    made = session("a", "b", "c")
    answered = written(b="x", c="yz")
    seats = reviewers(made, answered)
    assert [seat.label for seat in seats] == ["b", "c"]
    shown = others_of(made, seats, [each for each in answered if each.member == "c"])
    assert ["".join(sorted(each.text for each in some)) for some in shown] == ["yz", ""]
