"""`debate`: members see each other's answers and revise their own until nothing moves; then they vote.

Most of what debates gain is that vote (arXiv 2508.17536), so it ends as soon as another round could hardly change it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from local_fusion.config.strategies import DebateConfig
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate, Saving
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.calls import write
from local_fusion.fusion.panel.polling import number_of
from local_fusion.fusion.prompts import debate as prompts
from local_fusion.fusion.refusals import substantial, without_refusals
from local_fusion.fusion.rounds.table import Table
from local_fusion.fusion.session import Session
from local_fusion.fusion.strategies.verbatim import give, may_stand_in, stand_in
from local_fusion.fusion.voting.answers import Answers
from local_fusion.fusion.voting.counting import Ballot, count, verdict


async def debate(session: Session) -> Choice:
    """The answer that most debaters give in the last round, or what the moderator makes of that round.

    A debater that fails keeps its last answer. Where the moderator fails before its first word, the vote decides;
    raises what the moderator does where no draft may stand in.
    """
    config = session.config
    assert isinstance(config, DebateConfig)
    table = await Table.opened(session, verbatim=config.moderator is None)
    answers = Answers(session, config.extract)
    if len(table.standing) > 1:
        await _until_settled(table, answers, config.max_rounds)
    else:
        session.note(f"there was no debate: {table.candidates[0].id} is the only answer")
        if config.moderator is None:
            return give(session, table.candidates[0])
    answering = substantial(session, table.candidates)
    if config.moderator is not None:
        messages, rounds = session.request.messages, table.round
        try:
            return await write(
                session,
                [config.moderator],
                lambda texts: prompts.moderation(messages, texts, rounds),
                table.shown,
            )
        except LocalFusionError:
            if not may_stand_in(session):
                raise
            session.note("the moderator failed: the answer was decided by a vote")
            return await stand_in(session, _vote(session, answering, answers))
    return give(session, _vote(session, answering, answers))


async def _until_settled(table: Table, answers: Answers, most: int) -> None:
    """Rounds, until another one is pointless or none is left."""
    before: dict[int, str | None] | None = None
    while True:
        given = {number_of(each): answers.of(each) for each in without_refusals(table.candidates)}
        if (reason := _settled(given, before, table.round)) is not None:
            if left := table.saved_rounds(most):
                table.session.saved(Saving("agreed", left, reason))
            return
        if table.round == most:
            return
        before = given
        if not await table.revise():
            table.session.note(f"the debate ended with round {table.round - 1}: nobody answered in the next one")
            return


def _settled(given: Mapping[int, str | None], before: Mapping[int, str | None] | None, number: int) -> str | None:
    """Why another round is pointless, if it is."""
    if len(given) > 1 and None not in given.values() and len(set(given.values())) == 1:
        return f"all answers agreed in round {number}"
    return f"nobody changed the answer in round {number}" if given == before else None


def _vote(session: Session, candidates: Sequence[Candidate], answers: Answers) -> Candidate:
    """A candidate that gives the most frequent answer; the first of all where none can be found in any."""
    counted = count([Ballot(candidate, answers.of(candidate)) for candidate in candidates])
    if not counted.standings:
        session.note(f"no debater gave an answer of the kind asked for: {candidates[0].id} is simply the first one")
        return candidates[0]
    leader = counted.standings[0]
    winner = leader.given()
    agreed = f"{len(leader.ballots)} of {len(candidates)} debaters agree in the end"
    session.judged(verdict(counted, winner, agreed))
    return winner
