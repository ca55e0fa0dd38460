"""`vote`: the answer that most candidates give (self-consistency, arXiv 2203.11171), compared exactly."""

from __future__ import annotations

from local_fusion.config.schema import VoteConfig
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate, Verdict
from local_fusion.fusion.extraction import extract
from local_fusion.fusion.panel import ask_panel
from local_fusion.fusion.session import Session
from local_fusion.fusion.strategies.verbatim import give


async def vote(session: Session) -> Choice:
    """The first candidate, in panel order, that gives the most frequent answer.

    Failed members have no vote and candidates without an extractable answer abstain. On a tie the answer given first in
    panel order wins, and the verdict says so.
    """
    config = session.config
    assert isinstance(config, VoteConfig)
    candidates = await ask_panel(session, verbatim=True)
    votes: dict[str, list[Candidate]] = {}
    abstained: list[Candidate] = []
    for candidate in candidates:
        answer = extract(candidate.text, config.extract)
        if answer is None:
            abstained.append(candidate)
        else:
            votes.setdefault(answer, []).append(candidate)
    if not votes:
        session.note(
            f"no candidate holds an answer of the kind '{config.extract}': the first candidate stands as it is"
        )
        winner, share, tied = candidates[0], 0, len(candidates) > 1
    else:
        share = max(len(voters) for voters in votes.values())
        leaders = [voters for voters in votes.values() if len(voters) == share]
        winner, tied = leaders[0][0], len(leaders) > 1
    session.judged(
        Verdict(
            judge="votes",
            winner=winner.id,
            reason=f"{share} of {len(candidates)} candidates agree",
            scores={voter.id: len(voters) for voters in votes.values() for voter in voters},
            votes={answer: [voter.id for voter in voters] for answer, voters in votes.items()},
            abstained=tuple(candidate.id for candidate in abstained),
            tied=tied,
        )
    )
    return give(session, winner)
