"""Asking the panel: all members at the same time, each member's samples in one request, every failure kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import StageStarted, TextDelta
from local_fusion.core.records import Candidate, Failure
from local_fusion.errors import LocalFusionError, PanelFailed, RequestError
from local_fusion.fusion import tool_calls
from local_fusion.fusion.panel.asking import ask_member
from local_fusion.fusion.panel.seats import Seat, seats_of
from local_fusion.fusion.panel.waiting import Gathering
from local_fusion.fusion.prompts.layout import Messages
from local_fusion.fusion.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """How a panel is asked.

    `verbatim`: a candidate may become the answer as it stands, so the client's limits, format and stops bind it.
    `request`: what is asked in place of the client's request. `messages`: what each member is shown (default: that
    request's). `enough`: looks at the candidates so far, in order of arrival, and says why no more are needed; all that
    is still being written is then broken off. `watch`: looks at a member's text as it comes (certainties included) and
    says why that member is cut short. `certainty`: candidates say how sure they are. `round`: of a strategy that goes
    round; tools are offered in the first one only.
    """

    verbatim: bool
    request: ChatRequest | None = None
    messages: Callable[[Seat], Messages] | None = None
    enough: Callable[[Sequence[Candidate]], str | None] | None = None
    watch: Callable[[Seat, TextDelta], str | None] | None = None
    certainty: bool = False
    round: int = 1


async def ask_panel(session: Session, put: Put, seats: Sequence[Seat] | None = None) -> list[Candidate]:
    """All candidates in panel order (never in order of arrival), of `seats` or of the whole panel.

    Raises `PanelFailed` with each member's cause for fewer candidates than the quorum, where every member failed
    because of the request itself that `RequestError`, and `Settled` where the panel calls tools instead of answering.
    """
    asked = seats_of(session.config.panel) if seats is None else seats
    candidates, errors = await poll(session, put, asked)
    require_quorum(session, candidates, errors)
    return tool_calls.settle(session, candidates)


async def poll(session: Session, put: Put, seats: Sequence[Seat]) -> tuple[list[Candidate], list[LocalFusionError]]:
    """The candidates of `seats` in panel order, however few, and what the members that failed raised.

    Members that are still writing when `put.enough` says so, or `grace_seconds` after the quorum was reached, are given
    up.
    """
    session.emit(StageStarted("panel", tuple(dict.fromkeys(seat.member.model for seat in seats)), put.round))
    gathering = Gathering(session, put.enough, sum(seat.samples for seat in seats))
    with session.expecting_judges():
        outcomes = await gathering.run([ask_member(session, seat, put, gathering.take) for seat in seats])
    candidates = sorted(gathering.candidates, key=number_of)
    session.candidates += candidates
    return candidates, [outcome for outcome in outcomes if outcome is not None]


def number_of(candidate: Candidate) -> int:
    """The candidate's place in panel order, from 1."""
    return int(candidate.id.partition(".")[0].removeprefix("c"))


def require_quorum(session: Session, candidates: Sequence[Candidate], errors: Sequence[LocalFusionError]) -> None:
    """Nothing, where there are enough candidates. Raises as `ask_panel` does otherwise."""
    if len(candidates) >= session.config.quorum:
        return
    if not candidates and errors and all(isinstance(error, RequestError) for error in errors):
        raise errors[0]
    got, needed = len(candidates), session.config.quorum
    what = "no member of the panel answered" if not got else f"only {got} of the {needed} candidates needed came back"
    raise panel_failed(session.name, what, tuple(session.failures))


def panel_failed(name: str, what: str, failures: tuple[Failure, ...]) -> PanelFailed:
    """The error of a panel with too few answers: every member's cause, and the ways out that were told with them."""
    causes = "; ".join(f"{failure.member}: {failure.message}" for failure in failures)
    hints = dict.fromkeys(failure.hint for failure in failures if failure.hint)
    return PanelFailed(f"{name}: {what} ({causes})", failures=failures, hint=" ".join(hints))
