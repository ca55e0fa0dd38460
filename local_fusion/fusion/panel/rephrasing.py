"""The last question in other words: samples of one model differ more when each is asked a little differently."""

from __future__ import annotations

from local_fusion.core.chat import ChatRequest
from local_fusion.core.model import Choice
from local_fusion.core.sampling import Sampling
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.panel.seats import Seat
from local_fusion.fusion.prompts import rephrasing
from local_fusion.fusion.prompts.layout import question
from local_fusion.fusion.session import Session
from local_fusion.fusion.thinking import without_thinking

SAMPLING = Sampling(temperature=0.9, max_tokens=512)


async def rephrased(session: Session, seat: Seat, request: ChatRequest) -> list[ChatRequest]:
    """`request` as it is, or, for a member that rephrases, a request for each sample, of which only the member's first
    holds the question as it was asked.

    Where nothing comes of it, because the model fails or the user did not speak last, the question stays as it is.
    """
    asked = question(request.messages)
    wanted = seat.samples if seat.offset else seat.samples - 1
    if not seat.member.rephrase or not asked or not wanted:
        return [request]
    model = session.resolve(seat.member.model)
    try:
        reply = await model.answer(
            session.asks(rephrasing.rephrase(asked), SAMPLING.with_fields(seed=request.sampling.seed), samples=wanted),
            session.relay("panel", seat.label, lambda _: None),
        )
    except LocalFusionError as error:
        session.note(f"{seat.label} could not put the question in other words ({error.message}): it was asked as it is")
        return [request]
    others = [_wording(without_thinking(choice), asked) for choice in reply.choices]
    others += [asked] * (wanted - len(others))  # a fusion whose runs partly failed
    if same := others.count(asked):
        session.note(
            f"{seat.label} found no other words for {same} of {wanted} samples, which saw the question as it is"
        )
    questions = others if seat.offset else [asked, *others]
    last = request.messages[-1]
    return [
        request.but(
            messages=(*request.messages[:-1], last.saying(text)),
            samples=1,
            sampling=request.sampling.shifted(number),
        )
        for number, text in enumerate(questions)
    ]


def _wording(choice: Choice, asked: str) -> str:
    """The new wording; what its limit cut off would be another question."""
    return asked if choice.finish_reason == "length" else choice.text.strip() or asked
