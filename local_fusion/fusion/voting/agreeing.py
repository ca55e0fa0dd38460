"""Which candidates of a vote agree: by their extracted answers, or by what a judge or a verifier says."""

from __future__ import annotations

from collections.abc import Sequence

from local_fusion.config.base import Command, Reference
from local_fusion.config.strategies import VoteConfig
from local_fusion.core.concurrency import together
from local_fusion.core.records import Candidate, Failure, Saving
from local_fusion.errors import LocalFusionError, VerifierFailed
from local_fusion.fusion.session import Session
from local_fusion.fusion.verifying import Accepted, verify
from local_fusion.fusion.voting.answers import Answers
from local_fusion.fusion.voting.clusters import clusters

ACCEPTED = "accepted by the verifier"
_SHOWN = 80  # characters of the text that a cluster is called by


async def agree(
    session: Session, config: VoteConfig, candidates: Sequence[Candidate], answers: Answers
) -> tuple[list[str | None], str]:
    """For each candidate the answer that it votes for (None: it abstains), and who says so."""
    found = [answers.of(candidate) for candidate in candidates]
    first: dict[str, Candidate] = {}
    for candidate, answer in zip(candidates, found, strict=True):
        if answer is not None:
            first.setdefault(answer, candidate)
    if not first:
        return found, "votes"
    if config.extract == "cluster" and config.judge is not None:
        same, judge = await _clustered(session, config.judge, first)
    elif config.extract == "code" and config.verifier is not None:
        same, judge = await _verified(session, config.verifier, first)
    else:
        return found, "votes"
    return [None if answer is None else same.get(answer) for answer in found], judge


async def _clustered(
    session: Session, judge: Reference, first: dict[str, Candidate]
) -> tuple[dict[str, str | None], str]:
    """What each text says, as the judge groups them; each only what it says itself, where the judge fails."""
    as_they_are: dict[str, str | None] = {text: text for text in first}
    if len(first) == 1:
        session.saved(Saving("agreed", 0, "all candidates are the same, so nobody was asked which of them agree"))
        return as_they_are, "votes"
    try:
        groups = await clusters(session, judge, list(first.values()))
    except LocalFusionError:
        session.note(f"{judge.model} could not say which answers agree: only those with the same text count as one")
        return as_they_are, "votes"
    called = {candidate.id: f"{group[0].id}: {_shown(group[0].text)}" for group in groups for candidate in group}
    return {text: called[candidate.id] for text, candidate in first.items()}, judge.model


async def _verified(
    session: Session, verifier: Command, first: dict[str, Candidate]
) -> tuple[dict[str, str | None], str]:
    """`ACCEPTED` for all code that the verifier accepts and nothing for any other; where it accepts none, the code."""

    async def accepts(code: str, candidate: Candidate) -> bool:
        try:
            return isinstance(await verify(session, verifier, code), Accepted)
        except VerifierFailed as error:
            told = Failure("judge", candidate.id, verifier.command[0], error.code, error.message, error.hint)
            session.fail(told)
            return False

    outcomes = await together(accepts(code, candidate) for code, candidate in first.items())
    accepted = [code for code, accept in zip(first, outcomes, strict=True) if accept]
    if not accepted:
        session.note("the verifier accepts no candidate: the code that most of them give was taken")
        return {code: code for code in first}, "votes"
    return dict.fromkeys(accepted, ACCEPTED), "verifier"


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
