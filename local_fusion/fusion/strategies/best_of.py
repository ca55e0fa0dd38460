"""`best_of`: one candidate, verbatim: the one that the judge prefers. Safe for strict formats and code."""

from __future__ import annotations

from collections.abc import Sequence

from local_fusion.config.strategies import BestOfConfig
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate, Saving, Verdict
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.judges import judge
from local_fusion.fusion.panel.polling import Put, ask_panel
from local_fusion.fusion.session import Session
from local_fusion.fusion.strategies.verbatim import give


async def best_of(session: Session) -> Choice:
    """The preferred candidate; the first one, labelled as such, where every judge fails."""
    config = session.config
    assert isinstance(config, BestOfConfig)
    candidates = await ask_panel(session, Put(verbatim=True))
    try:
        verdict = _agreed(session, candidates) or await judge(session, config.judge, candidates)
    except LocalFusionError:
        session.note(f"nobody judged: {candidates[0].id} is simply the first candidate in panel order")
        return give(session, candidates[0])
    session.judged(verdict)
    if verdict.absolute and not verdict.scores[verdict.winner or ""]:
        session.note(f"no candidate was found good at all: {verdict.winner} is simply the first of them")
    return give(session, next(candidate for candidate in candidates if candidate.id == verdict.winner))


def _agreed(session: Session, candidates: Sequence[Candidate]) -> Verdict | None:
    """The verdict where there is nothing to choose."""
    if len({_folded(candidate.text) for candidate in candidates}) > 1:
        return None
    many = len(candidates) > 1
    reason = f"all {len(candidates)} candidates are the same" if many else "there is only one candidate"
    session.saved(Saving("agreed", 0, f"no judge was asked: {reason}"))
    return Verdict(judge="none", winner=candidates[0].id, reason=reason)


def _folded(text: str) -> tuple[str, ...]:
    """The text by lines, to compare: white space that nobody sees does not count, indentation does."""
    lines = text.strip().splitlines()
    return tuple(line[: len(line) - len(line.lstrip())] + " ".join(line.split()) for line in lines if line.strip())
