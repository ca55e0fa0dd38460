"""Members as judges of each other: each marks the others' answers, from the probabilities of 1 to 9.

Nothing is generated, nobody sees its own answer, and a severe reviewer's own answer gains nothing by its severity
(`levelled`; of two members with one answer each, severity cannot be told from merit).
"""

from __future__ import annotations

from collections.abc import Sequence

from local_fusion.core.concurrency import together
from local_fusion.core.events import StageStarted
from local_fusion.core.records import Candidate, Verdict
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.fitting import fit
from local_fusion.fusion.judges.combining import levelled
from local_fusion.fusion.judges.deciding import decided, distinct
from local_fusion.fusion.judges.pointwise import expected
from local_fusion.fusion.judges.weighing import weighed
from local_fusion.fusion.panel.seats import Seat
from local_fusion.fusion.peer_review.assignment import others_of
from local_fusion.fusion.prompts import judging
from local_fusion.fusion.prompts.layout import Messages, with_persona
from local_fusion.fusion.session import Session

Marks = dict[str, float]
"""By the id of the first candidate with that text."""


async def cross_review(session: Session, seats: Sequence[Seat], candidates: Sequence[Candidate], round: int) -> Verdict:
    """Each candidate's mean mark, from 0 to 1, absolute. Reviewers that fail are left out.

    Raises what the last of them raised where nobody could review.
    """
    asked = [(seat, shown) for seat, shown in zip(seats, others_of(session, seats, candidates), strict=True) if shown]
    session.emit(StageStarted("judge", tuple(dict.fromkeys(seat.member.model for seat, _ in asked)), round))

    async def review(seat: Seat, shown: Sequence[Candidate]) -> Marks | LocalFusionError:
        try:
            return await _review(session, seat, shown)
        except LocalFusionError as error:
            return error

    outcomes = await together(review(seat, shown) for seat, shown in asked)
    marks = [outcome for outcome in outcomes if not isinstance(outcome, LocalFusionError)]
    if not marks:
        raise next(outcome for outcome in reversed(outcomes) if isinstance(outcome, LocalFusionError))
    apart = distinct(candidates)
    levels = levelled([[mark.get(each.id) for each in apart] for mark in marks])
    by_text = {each.text: level for each, level in zip(apart, levels, strict=True) if level is not None}
    scores = {each.id: min(1.0, max(0.0, by_text[each.text])) for each in candidates if each.text in by_text}
    reason = f"the mean marks of {len(marks)} of {len(asked)} members for the others' answers"
    return decided("members", candidates, scores, reason, absolute=True)


async def _review(session: Session, seat: Seat, shown: Sequence[Candidate]) -> Marks:
    member = seat.member
    conversation = session.request.messages
    if member.persona is not None:
        conversation = with_persona(conversation, session.personas[member.persona])

    def build(texts: Sequence[str]) -> Messages:
        return judging.score(conversation, texts[0], ())

    async with session.stage("judge", seat.label, member.model, session.config.deadlines.judge):
        fitted = await fit(session, session.resolve(member.model), build, shown, wanted=1, at_once=1)
        weights = await weighed(session, member, (build([text]) for text in fitted.texts), judging.GRADES)
    return {each.id: expected(weight) for each, weight in zip(shown, weights, strict=True)}
