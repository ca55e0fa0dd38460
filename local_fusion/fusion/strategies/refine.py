"""`refine`: an author answers, a reviewer accepts or says what is wrong, and the author tries again.

It fails closed: only a reviewer that says so has accepted an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, StrictBool

from local_fusion.config.base import Command, Reference
from local_fusion.config.strategies import RefineConfig
from local_fusion.core.chat import Message
from local_fusion.core.events import StageStarted
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate, Failure, Verdict
from local_fusion.errors import LocalFusionError, VerifierFailed
from local_fusion.fusion import structured
from local_fusion.fusion.fitting import ANSWER_ROOM
from local_fusion.fusion.panel.polling import Put, ask_panel, poll
from local_fusion.fusion.panel.seats import Seat, sampling_of, seats_of
from local_fusion.fusion.prompts import refining
from local_fusion.fusion.prompts.layout import Messages, shortened, with_persona
from local_fusion.fusion.prompts.schemas import fields, response_format, text
from local_fusion.fusion.session import Session
from local_fusion.fusion.strategies.verbatim import give
from local_fusion.fusion.verifying import Accepted, verify

MOST_TOKENS = 1024  # of a review, unless the reviewer is configured otherwise
FEEDBACK_CHARACTERS = 2000  # of a model's; half of its tokens in most languages
SHOWN_CHARACTERS = 500  # of feedback in a note
NO_REASON = "No reason was given."


@dataclass(frozen=True, slots=True)
class _Review:
    by: str
    accepted: bool
    feedback: str


class _Opinion(BaseModel):
    feedback: str
    accepted: StrictBool


_OPINION = response_format("review", fields(feedback=text(FEEDBACK_CHARACTERS), accepted={"type": "boolean"}))


async def refine(session: Session) -> Choice:
    """The first answer that the reviewer accepts, verbatim; otherwise the last one, with a note that says why.

    Raises what `ask_panel` does where there is not even a first answer.
    """
    config = session.config
    assert isinstance(config, RefineConfig)
    (seat,) = seats_of(config.panel)
    answer = (await ask_panel(session, Put(verbatim=True), [seat]))[0]
    turns: list[Message] = []
    for number in range(1, config.max_rounds + 1):
        try:
            review = await _review(session, config.reviewer, answer)
        except LocalFusionError:
            session.note(f"{answer.id} is unreviewed, because the reviewer failed, and stands as it is")
            return give(session, answer)
        session.judged(_verdict(review, answer))
        if review.accepted:
            return give(session, answer)
        rejection = f"{review.by} did not accept it: {review.feedback[:SHOWN_CHARACTERS]}"
        if number == config.max_rounds:
            break
        turns += [
            Message("assistant", answer.text),
            Message("user", refining.revision(review.feedback)),
        ]
        revised = await _revise(session, seat, turns, number + 1)
        if revised is None:
            session.note(f"the author failed to revise {answer.id}, which stands although {rejection}")
            return give(session, answer)
        answer = revised
    session.note(f"{answer.id} is the author's last answer after {config.max_rounds} rounds; {rejection}")
    return give(session, answer)


def _verdict(review: _Review, answer: Candidate) -> Verdict:
    shown = shortened(review.feedback, refining.FEEDBACK_CHARACTERS)
    return Verdict(
        judge=review.by,
        winner=answer.id if review.accepted else None,
        reason="accepted" if review.accepted else f"not accepted: {shown}",
        scores={answer.id: float(review.accepted)},
        absolute=True,
    )


async def _review(session: Session, reviewer: Reference | Command, answer: Candidate) -> _Review:
    """Raises what makes the reviewer's opinion unknown, kept as a failure."""
    if isinstance(reviewer, Command):
        return await _review_by_program(session, reviewer, answer)
    session.emit(StageStarted("judge", (reviewer.model,), answer.round))
    messages = session.request.messages
    opinion = await structured.consult_for(
        _Opinion,
        session,
        "judge",
        reviewer,
        lambda texts: refining.review(messages, texts[0]),
        [answer],
        most=MOST_TOKENS,
        response_format=_OPINION,
        alone=True,  # else one that only speaks of acceptance might be taken for it
    )
    return _Review(reviewer.model, opinion.accepted, opinion.feedback.strip() or NO_REASON)


async def _review_by_program(session: Session, command: Command, answer: Candidate) -> _Review:
    program = Path(command.command[0]).name
    session.emit(StageStarted("judge", (program,), answer.round))
    try:
        said = await verify(session, command, answer.text)
    except VerifierFailed as error:
        session.fail(Failure("judge", program, program, error.code, error.message, error.hint))
        raise
    if isinstance(said, Accepted):
        return _Review(program, accepted=True, feedback="")
    return _Review(program, accepted=False, feedback=said.reason or NO_REASON)


async def _revise(session: Session, seat: Seat, turns: list[Message], number: int) -> Candidate | None:
    """The author's next answer; None where there is none, and why has been kept."""
    try:
        async with session.stage("panel", seat.label, seat.member.model, session.config.deadlines.panel):
            messages, seat = await _fitting(session, seat, turns)
    except LocalFusionError:
        return None
    revised, _ = await poll(session, Put(verbatim=True, messages=lambda _: messages, round=number), [seat])
    return revised[0] if revised else None


async def _fitting(session: Session, seat: Seat, turns: list[Message]) -> tuple[Messages, Seat]:
    """The conversation, continued by as many of the last turns as leave room for an answer, by the last two at least;
    and the author, who may write no more than that room.

    It only grows where it can, so the prefix cache has all but what was said last.
    """
    request, member = session.request, seat.member
    model = session.resolve(member.model)
    limit = sampling_of(seat, request.sampling, verbatim=True).max_tokens
    for first in range(0, len(turns), 2):
        messages = (*request.messages, *turns[first:])
        worn = messages if member.persona is None else with_persona(messages, session.personas[member.persona])
        room = await model.measure(session.asks(worn, reasoning_effort=request.reasoning_effort))
        if room.left >= min(limit or ANSWER_ROOM, room.limit // 4):
            break
    return messages, seat if limit is None else seat.writing_at_most(min(limit, max(1, room.left)))
