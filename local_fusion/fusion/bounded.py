"""A request within its budget: where that is spent the work ends, and the best answer so far is the answer, labelled.

Every call that the budget does not allow fails by itself (`core.metered`), and strategies go on without it as without
any call that failed. Only where that leaves no answer, and where tokens or seconds run out in the middle of something,
is an answer made here, of what has been heard.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from local_fusion.core.budget import Budget, Spending, Spent
from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import ChoiceEnded, Failed, Noted, TextDelta
from local_fusion.core.model import ChatModel, Choice, Emit, FusionReport, Reply, Room, Score, unheard
from local_fusion.core.records import Candidate, Failure
from local_fusion.errors import BudgetSpent, EmptyAnswer, LocalFusionError, PanelFailed
from local_fusion.fusion.limits import limited
from local_fusion.fusion.session import Session
from local_fusion.fusion.so_far import SoFar
from local_fusion.fusion.speaking import held_to_format, unless_cut

COUNTING_SECONDS = 2.0  # most that a draft's tokens are counted for, once everything else is over

Answering = Callable[[ChatRequest, Emit], Coroutine[Any, Any, Reply]]


@dataclass(frozen=True, slots=True)
class Bounded:
    """`model`, each answer of which is to keep within `budget`; a fusion does so by itself."""

    model: ChatModel
    budget: Budget

    @property
    def name(self) -> str:
        """See `ChatModel.name`."""
        return self.model.name

    @property
    def takes_images(self) -> bool:
        """See `ChatModel.takes_images`."""
        return self.model.takes_images

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        """See `within_budget`."""
        return await within_budget(self.name, self.budget, request, emit, self.model.answer)

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> Mapping[str, float]:
        """See `ChatModel.weigh`; no budget binds it."""
        return await self.model.weigh(request, labels, emit)

    async def score(self, request: ChatRequest, answers: tuple[str, ...], emit: Emit = unheard) -> tuple[Score, ...]:
        """See `ChatModel.score`; no budget binds it."""
        return await self.model.score(request, answers, emit)

    async def measure(self, request: ChatRequest) -> Room:
        """See `ChatModel.measure`."""
        return await self.model.measure(request)

    def expecting(self, request: ChatRequest) -> AbstractContextManager[None]:
        """See `ChatModel.expecting`."""
        return self.model.expecting(request)


async def within_budget(
    name: str,
    budget: Budget,
    request: ChatRequest,
    emit: Emit,
    answer: Answering,
    sessions: Sequence[Session] = (),
    report: Callable[[], FusionReport | None] = lambda: None,
) -> Reply:
    """What `answer` answers within `budget`, which all its samples share, and within that of which it is a part.

    Where the budget is spent before: what has been sent of it, else the judge's winner, else the best candidate, a
    whole one before a longer one that was cut. `sessions` are those that `answer` runs in, `report` what they have to
    tell. Raises `BudgetSpent` where there is nothing of that, and what else `answer` raises.
    """
    spending = Spending(budget, request.spending)
    so_far = SoFar(emit)
    reply: Reply | None = None
    failure: LocalFusionError | None = None
    with spending.running():
        try:
            reply = await unless_cut(answer(request.but(spending=spending), so_far), spending.over)
        except LocalFusionError as error:
            failure = error
    spent = spending.spent()
    if reply is not None:
        return reply if spent is None else _labelled(name, reply, spent)
    if failure is not None and (spent is None or not _for_want_of_budget(failure)):
        raise failure
    assert spent is not None
    choices, note = so_far.choices(), "it is cut short there"
    for index in so_far.begun:
        emit(ChoiceEnded(index, choices[index]))
    if not choices:
        candidate = so_far.best(_acceptable(request))
        if candidate is None:
            raise _nothing(name, spent, failure)
        choice = await _as_answer(sessions, candidate, so_far.thoughts)
        emit(TextDelta(choice.text, reasoning=candidate.reasoning))
        emit(ChoiceEnded(0, choice))
        choices, note = {0: choice}, f"{candidate.id} of {candidate.member} is the best answer so far"
    told = _with_candidates(report(), so_far.candidates)
    reply = Reply(tuple(choice for _, choice in sorted(choices.items())), tuple(so_far.calls), told)
    emit(Noted(f"{spent.text}: {note}"))
    if told is not None:
        reply = replace(reply, report=replace(told, notes=(*told.notes, f"{spent.text}: {note}")))
    labelled = _labelled(name, reply, spent)
    if told is not None and labelled.report is not None and labelled.report.failed != told.failed:
        emit(Failed(labelled.report.failed[-1]))
    return labelled


def _with_candidates(report: FusionReport | None, candidates: Sequence[Candidate]) -> FusionReport | None:
    """The report with all candidates that were heard of: those of a panel that was broken off are not in it yet."""
    return None if report is None else replace(report, candidates=tuple(candidates))


def _labelled(name: str, reply: Reply, spent: Spent) -> Reply:
    """The reply with what was spent; a fusion's report is then partial, and says what failed."""
    report = reply.report
    if report is not None:
        failed = report.failed
        if not any(failure.code == BudgetSpent.code for failure in failed):
            hint = f"raise budget.{spent.spent}"
            failed = (*failed, Failure("panel", name, name, BudgetSpent.code, spent.text, hint))
        report = replace(report, failed=failed, partial=True)
    return replace(reply, report=report, budget=spent)


def _for_want_of_budget(error: LocalFusionError) -> bool:
    """Whether it comes of calls that the budget did not allow, or of answers that it cut."""
    if isinstance(error, PanelFailed):
        return any(failure.code in (BudgetSpent.code, EmptyAnswer.code) for failure in error.failures)
    return isinstance(error, BudgetSpent | EmptyAnswer)


def _nothing(name: str, spent: Spent, failure: LocalFusionError | None) -> LocalFusionError:
    """The error where there is no answer; where other things failed beside the budget, each with its cause."""
    if isinstance(failure, PanelFailed) and any(each.code != BudgetSpent.code for each in failure.failures):
        return failure
    return BudgetSpent(
        f"{name}: {spent.text}, and there is no answer yet",
        hint=f"give the request more (fusion.budget.{spent.spent}); what it may have at most is set by the fusion's "
        f"budget and by server.request_budget",
    )


def _acceptable(request: ChatRequest) -> Callable[[Candidate], bool]:
    """Drafts need not keep to the client's format: none may be handed out that does not."""
    if not held_to_format(request):
        return lambda _: True

    def is_json(candidate: Candidate) -> bool:
        try:
            json.loads(candidate.text)
        except (ValueError, RecursionError):
            return bool(candidate.tool_calls)
        return True

    return is_json


async def _as_answer(sessions: Sequence[Session], candidate: Candidate, thoughts: str) -> Choice:
    """The candidate up to the client's `stop` and `max_tokens`, which do not bind drafts."""
    text, reason, stop = candidate.text, candidate.finish_reason, candidate.stopped_by
    for session in sessions[:1]:
        try:
            async with asyncio.timeout(COUNTING_SECONDS):
                choice = await limited(session, [candidate.model], text)
        except TimeoutError:
            session.note("max_tokens does not bind this answer, because its tokens could not be counted in time")
        else:
            if choice.text != text:
                text, reason, stop = choice.text, choice.finish_reason, choice.stopped_by
    return Choice(text, reason, candidate.tool_calls, thoughts + candidate.reasoning, candidate.certainty, stop)
