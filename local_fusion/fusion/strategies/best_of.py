"""`best_of`: one candidate, verbatim: the one that the probability judge prefers."""

from __future__ import annotations

from local_fusion.config.schema import BestOfConfig
from local_fusion.core.model import Choice
from local_fusion.core.records import Verdict
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.judges.pairwise import judge_pairwise
from local_fusion.fusion.panel import ask_panel
from local_fusion.fusion.session import Session
from local_fusion.fusion.strategies.verbatim import give


async def best_of(session: Session) -> Choice:
    """The preferred candidate; the first one, labelled as such, where the judge fails."""
    config = session.config
    assert isinstance(config, BestOfConfig)
    candidates = await ask_panel(session, verbatim=True)
    if len({candidate.text for candidate in candidates}) == 1:
        winner = candidates[0]
        session.judged(Verdict(judge=config.judge.model, winner=winner.id, reason="all candidates are the same"))
        return give(session, winner)
    try:
        verdict = await judge_pairwise(session, config.judge, candidates)
    except LocalFusionError:
        session.note(f"nobody judged: {candidates[0].id} is simply the first candidate in panel order")
        return give(session, candidates[0])
    session.judged(verdict)
    return give(session, next(candidate for candidate in candidates if candidate.id == verdict.winner))
