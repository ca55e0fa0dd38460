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
from local_fusion.core.sampling import Sampling
from local_fusion.errors import LocalFusionError, VerifierFailed
from local_fusion.fusion import structured
from local_fusion.fusion.fitting import ANSWER_ROOM, fit
from local_fusion.fusion.panel import Put, ask_panel, poll
from local_fusion.fusion.prompts import refining
from local_fusion.fusion.prompts.layout import Messages
from local_fusion.fusion.seats import Seat, sampling_of, seats_of
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


_OPINION = structured.response_format(
    "review", structured.fields(feedback=structured.text(FEEDBACK_CHARACTERS), accepted={"type": "boolean"})
)


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
            Message("assistant", session.request.prefix + answer.text),
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
    return Verdict(
        judge=review.by,
        winner=answer.id if review.accepted else None,
        reason="accepted" if review.accepted else f"not accepted: {refining.shortened(review.feedback)}",
        scores={answer.id: float(review.accepted)},
        absolute=True,
    )


async def _review(session: Session, reviewer: Reference | Command, answer: Candidate) -> _Review:
    """Raises what makes the reviewer's opinion unknown, kept as a failure."""
    if isinstance(reviewer, Command):
        return await _review_by_program(session, reviewer, answer)
    session.emit(StageStarted("judge", (reviewer.model,), answer.round))
    messages = session.request.messages
    sampling = Sampling.of(reviewer).over(
        Sampling(temperature=0, max_tokens=MOST_TOKENS, seed=session.request.sampling.seed)
    )
    async with session.stage("judge", reviewer.model, reviewer.model, session.config.deadlines.judge):
        model = session.resolve(reviewer.model)
        fitted = await fit(
            session, model, lambda texts: refining.review(messages, texts[0]), [answer], wanted=sampling.max_tokens
        )
    request = session.asks(
        refining.review(messages, fitted.texts[0]), sampling.capped(fitted.left), response_format=_OPINION
    )
    opinion = await structured.consult_for(_Opinion, session, "judge", reviewer, request)
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
            messages = await _fitting(session, seat, turns)
    except LocalFusionError:
        return None
    revised, _ = await poll(session, Put(verbatim=True, messages=lambda _: messages, round=number), [seat])
    return revised[0] if revised else None


async def _fitting(session: Session, seat: Seat, turns: list[Message]) -> Messages:
    """The conversation, continued by as many of the last turns as leave room for an answer, by the last two at least.

    It only grows where it can, so the prefix cache has all but what was said last.
    """
    request = session.request
    model = session.resolve(seat.member.model)
    wanted = sampling_of(seat, request.sampling, verbatim=True).max_tokens or ANSWER_ROOM
    for first in range(0, len(turns), 2):
        messages = (*request.messages, *turns[first:])
        room = await model.measure(request.but(messages=messages))
        if room.left >= min(wanted, room.limit // 4):
            break
    return messages
