"""Asking the panel: all members at the same time, each member's samples in one request, every failure kept."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from local_fusion.config.schema import MemberConfig
from local_fusion.core.chat import ChatRequest
from local_fusion.core.concurrency import together
from local_fusion.core.events import MemberFinished, MemberProgress, MemberStarted, StageStarted, TextDelta
from local_fusion.core.model import Reply
from local_fusion.core.records import Candidate, Failure
from local_fusion.core.sampling import Sampling
from local_fusion.errors import LocalFusionError, PanelFailed, RequestError
from local_fusion.fusion import prompts
from local_fusion.fusion.session import Session

PROGRESS_SECONDS = 0.1  # between two progress events of one member


@dataclass(frozen=True, slots=True)
class _Seat:
    """One member with its label in this panel and the number of its first candidate."""

    label: str
    member: MemberConfig
    first: int


def _seats(panel: list[MemberConfig]) -> list[_Seat]:
    """Labels tell members apart: the model's name, its persona, and a number where that is still not enough."""
    plain = [f"{member.model} ({member.persona})" if member.persona else member.model for member in panel]
    twice = {label for label, count in Counter(plain).items() if count > 1}
    seen: Counter[str] = Counter()
    seats, first = [], 1
    for label, member in zip(plain, panel, strict=True):
        seen[label] += 1
        seats.append(_Seat(f"{label} #{seen[label]}" if label in twice else label, member, first))
        first += member.samples
    return seats


def member_sampling(member: MemberConfig, asked: Sampling, index: int, *, verbatim: bool) -> Sampling:
    """How a member samples: its own settings, then the client's; a client's seed differs for every member.

    `verbatim`: a candidate may become the answer as it stands, so the client's `max_tokens` and `stop` bind it too.
    """
    own = Sampling.of(member)
    sampling = own.over(asked)
    if own.seed is None and asked.seed is not None:
        sampling = sampling.with_fields(seed=asked.seed + 1000 * index)
    if not verbatim:  # where the answer is to stop is no business of a draft
        return sampling.model_copy(update={"stop": own.stop})
    if own.stop is not None and asked.stop is not None:
        sampling = sampling.with_fields(stop=list(dict.fromkeys([*_stops(own), *_stops(asked)])))
    return sampling.capped(asked.max_tokens)


def _stops(sampling: Sampling) -> list[str]:
    return [sampling.stop] if isinstance(sampling.stop, str) else sampling.stop or []


async def ask_panel(session: Session, *, verbatim: bool) -> list[Candidate]:
    """All candidates in panel order (never in order of arrival).

    Raises `PanelFailed` with each member's cause for fewer candidates than the quorum; where every member failed
    because of the request itself, that `RequestError`.
    """
    seats = _seats(session.config.panel)
    session.emit(StageStarted("panel", tuple(dict.fromkeys(seat.member.model for seat in seats))))
    with session.expecting_judges():
        outcomes = await together(
            _ask_member(session, seat, index, verbatim=verbatim) for index, seat in enumerate(seats)
        )
    errors = [outcome for outcome in outcomes if isinstance(outcome, LocalFusionError)]
    session.candidates = [candidate for outcome in outcomes if isinstance(outcome, list) for candidate in outcome]
    if len(session.candidates) < session.config.quorum:
        if not session.candidates and errors and all(isinstance(error, RequestError) for error in errors):
            raise errors[0]
        raise _too_few(session)
    return session.candidates


async def _ask_member(
    session: Session, seat: _Seat, index: int, *, verbatim: bool
) -> list[Candidate] | LocalFusionError:
    """One member's candidates, or why there are none."""
    member = seat.member
    session.emit(MemberStarted(seat.label, member.model, member.samples))
    started = time.monotonic()
    try:
        async with session.stage("panel", seat.label, member.model, session.config.deadlines.panel):
            reply = await session.resolve(member.model).answer(
                _put_to(session, member, index, verbatim=verbatim),
                session.relay("panel", seat.label, _Meter(session, seat.label)),
            )
    except LocalFusionError as error:
        return error
    candidates = _usable(session, seat, reply, time.monotonic() - started)
    session.emit(MemberFinished(seat.label, tuple(candidates), time.monotonic() - started))
    return candidates


def _put_to(session: Session, member: MemberConfig, index: int, *, verbatim: bool) -> ChatRequest:
    """The client's whole conversation as this member sees it."""
    request = session.request
    messages = request.messages
    if member.persona is not None:
        messages = prompts.with_persona(messages, session.personas[member.persona])
    return request.but(
        messages=messages,
        samples=member.samples,
        sampling=member_sampling(member, request.sampling, index, verbatim=verbatim),
        # Drafts that a synthesizer rewrites may be prose: forcing a format on them costs quality for nothing.
        response_format=request.response_format if verbatim else None,
    )


def _usable(session: Session, seat: _Seat, reply: Reply, seconds: float) -> list[Candidate]:
    """The member's answers that say something; an empty one is a failure of that sample."""
    candidates = []
    for number, choice in enumerate(reply.choices, start=seat.first):
        if choice.text.strip():
            candidates.append(
                Candidate(
                    id=f"c{number}",
                    member=seat.label,
                    model=seat.member.model,
                    text=choice.text,
                    finish_reason=choice.finish_reason,
                    seconds=seconds,
                    persona=seat.member.persona,
                )
            )
        else:
            session.fail(Failure("panel", seat.label, seat.member.model, "empty_answer", f"c{number} came back empty"))
    return candidates


class _Meter:
    """Turns a member's text into progress events, few enough to be cheap for a panel of a hundred."""

    def __init__(self, session: Session, label: str) -> None:
        self._session = session
        self._label = label
        self._tokens = 0
        self._told = 0.0

    def __call__(self, delta: TextDelta) -> None:
        self._tokens += delta.tokens
        now = time.monotonic()
        if now - self._told >= PROGRESS_SECONDS:
            self._told = now
            self._session.emit(MemberProgress(self._label, self._tokens))


def _too_few(session: Session) -> PanelFailed:
    got, needed = len(session.candidates), session.config.quorum
    what = "no member of the panel answered" if not got else f"only {got} of the {needed} candidates needed came back"
    return panel_failed(session.name, what, tuple(session.failures))


def panel_failed(name: str, what: str, failures: tuple[Failure, ...]) -> PanelFailed:
    """The error of a panel with too few answers: every member's cause, and the ways out that were told with them."""
    causes = "; ".join(f"{failure.member}: {failure.message}" for failure in failures)
    hints = dict.fromkeys(failure.hint for failure in failures if failure.hint)
    return PanelFailed(f"{name}: {what} ({causes})", failures=failures, hint=" ".join(hints))
