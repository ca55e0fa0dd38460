"""Asking one member: what it is shown, what of its answers is usable, one more try where it thought for too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from local_fusion.core.chat import ChatRequest
from local_fusion.core.concurrency import together
from local_fusion.core.events import MemberFinished, MemberProgress, MemberStarted, TextDelta
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate, Failure, Saving
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.panel.rephrasing import rephrased
from local_fusion.fusion.panel.seats import Seat, sampling_of
from local_fusion.fusion.prompts.layout import with_persona
from local_fusion.fusion.session import Session
from local_fusion.fusion.speaking import unless_cut
from local_fusion.fusion.thinking import (
    emptied_by_cap,
    empty_answer,
    says_something,
    with_more_room,
    without_thinking,
)

if TYPE_CHECKING:
    from local_fusion.fusion.panel.polling import Put

PROGRESS_SECONDS = 0.1  # between two progress events of one member

# Is told of every sample once: the candidate, as soon as it is whole, or that none will come.
Take = Callable[[Candidate | None], None]


async def ask_member(session: Session, seat: Seat, put: Put, take: Take) -> LocalFusionError | None:
    """Hand every sample of `seat` to `take`; what went wrong where something did."""
    session.emit(MemberStarted(seat.label, seat.member.model, seat.samples))
    asking = _Asking(session, seat, put, take)
    error: LocalFusionError | None = None
    try:
        async with session.stage("panel", seat.label, seat.member.model, session.config.deadlines.panel):
            await asking.run()
    except LocalFusionError as failure:
        error = failure
    finally:
        asking.end()
        asking.keep_what_was_cut()
        if asking.taken or error is None:
            session.emit(MemberFinished(seat.label, tuple(asking.taken), asking.seconds))
    return error


class _Asking:
    """One member at work."""

    def __init__(self, session: Session, seat: Seat, put: Put, take: Take) -> None:
        self.taken: list[Candidate] = []
        self._open = seat.samples
        self._session = session
        self._seat = seat
        self._put = put
        self._take = take
        self._began = session.now()
        self._meter = _Meter(session, seat.label)
        self._begun: dict[int, str] = {}  # where a budget may end the work in the middle: what each sample says so far

    @property
    def seconds(self) -> float:
        """Since it was asked."""
        return self._session.now() - self._began

    def end(self) -> None:
        """No more samples will come."""
        while self._open > 0:
            self._hand(None)

    def keep_what_was_cut(self) -> None:
        """Where the request's budget is spent, the beginnings of answers are candidates, too: better than none."""
        spending = self._session.request.spending
        if spending is None or not spending.is_over:
            return
        for number, text in self._begun.items():
            choice = without_thinking(Choice(text, "length"))
            if says_something(choice) and not choice.text.lstrip().startswith("<think>"):
                self.taken.append(self._candidate(number, choice))

    def _hand(self, candidate: Candidate | None) -> None:
        self._open -= 1
        self._take(candidate)

    async def run(self) -> None:
        request = self._request()
        # What a strategy shows instead of the conversation is not the user's question, to be put in other words.
        as_asked = self._put.messages is not None or self._put.request is not None
        requests = [request] if as_asked else await rephrased(self._session, self._seat, request)
        numbers, first = [], 0
        for request in requests:
            numbers.append(range(first, first + request.samples))
            first += request.samples
        await together(self._ask(request, these) for request, these in zip(requests, numbers, strict=True))

    async def _ask(self, request: ChatRequest, numbers: range, *, again: bool = False) -> None:
        """Put `request`, whose answers become the samples `numbers`; those that their limit emptied are tried again."""
        seen: set[int] = set()
        emptied: dict[int, Choice] = {}

        def on_choice(index: int, choice: Choice) -> None:
            seen.add(index)
            self._begun.pop(numbers[index], None)
            choice = without_thinking(choice)
            if not again and emptied_by_cap(choice):
                emptied[numbers[index]] = choice
            else:
                self._use(numbers[index], choice)

        whole = await self._call(request, numbers, on_choice, seen)
        if not emptied:
            return
        more = await with_more_room(self._session.resolve(self._seat.member.model), request) if whole else None
        if more is None:
            for number, choice in emptied.items():
                self._use(number, choice)
            return
        ids = ", ".join(self._id(number) for number in emptied)
        self._session.note(
            f"{ids} of {self._seat.label} was still thinking after {request.sampling.max_tokens} tokens: asked again "
            "with more room"
        )
        await together(
            # Each draws what it would have drawn: of several samples, an engine adds its number to the seed.
            self._ask(
                more.but(sampling=more.sampling.shifted(number - numbers.start)), range(number, number + 1), again=True
            )
            for number in emptied
        )

    async def _call(
        self, request: ChatRequest, numbers: range, on_choice: Callable[[int, Choice], None], seen: set[int]
    ) -> bool:
        """Whether the call came to its end, and was not cut short by `put.watch`."""
        model = self._session.resolve(self._seat.member.model)
        cut: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def on_text(delta: TextDelta) -> None:
            self._meter(delta)
            if request.spending is not None:
                number = numbers[delta.index]
                self._begun[number] = self._begun.get(number, "") + delta.text
            if self._put.watch is None or cut.done():
                return
            if (reason := self._put.watch(self._seat, delta)) is not None:
                cut.set_result(reason)

        emit = self._session.relay("panel", self._seat.label, on_text, on_choice)
        reply = await unless_cut(model.answer(request, emit), cut)
        if reply is None:
            self._session.saved(Saving("hopeless", request.samples - len(seen), cut.result()))
        elif not seen:  # a model that does not tell of each answer by itself
            for index, choice in enumerate(reply.choices):
                on_choice(index, choice)
        return reply is not None

    def _request(self) -> ChatRequest:
        """The conversation as this member sees it, the client's whole one unless the strategy shows something else."""
        session, put, member = self._session, self._put, self._seat.member
        request = put.request or session.request
        messages = put.messages(self._seat) if put.messages is not None else request.messages
        if member.persona is not None:
            messages = with_persona(messages, session.personas[member.persona])
        tools = request.tools if put.round == 1 else ()
        return request.but(
            messages=messages,
            samples=self._seat.samples,
            sampling=sampling_of(self._seat, request.sampling, verbatim=put.verbatim),
            # Drafts that a synthesizer rewrites may be prose: forcing a format on them costs quality for nothing.
            response_format=request.response_format if put.verbatim or session.config.member_format else None,
            tools=tools,
            tool_choice=request.tool_choice if tools else None,
            parallel_tool_calls=request.parallel_tool_calls if tools else None,
            certainty=put.certainty or (put.verbatim and request.certainty),
        )

    def _id(self, number: int) -> str:
        plain = f"c{self._seat.first + number}"
        return plain if self._put.round == 1 else f"{plain}.{self._put.round}"

    def _use(self, number: int, choice: Choice) -> None:
        """The answer as a candidate; an empty one is a failure of that sample."""
        member = self._seat.member
        if not says_something(choice):
            error = empty_answer(self._id(number), member.model, choice)
            self._session.fail(Failure("panel", self._seat.label, member.model, error.code, error.message, error.hint))
            self._hand(None)
            return
        candidate = self._candidate(number, choice)
        self.taken.append(candidate)
        self._hand(candidate)

    def _candidate(self, number: int, choice: Choice) -> Candidate:
        return Candidate(
            id=self._id(number),
            member=self._seat.label,
            model=self._seat.member.model,
            text=choice.text,
            finish_reason=choice.finish_reason,
            seconds=self.seconds,
            persona=self._seat.member.persona,
            round=self._put.round,
            tool_calls=choice.tool_calls,
            reasoning=choice.reasoning,
            certainty=choice.certainty,
            stopped_by=choice.stopped_by,
        )


class _Meter:
    """Counts a member's tokens and tells of them now and then."""

    def __init__(self, session: Session, label: str) -> None:
        self._session = session
        self._label = label
        self._tokens = 0
        self._told = 0.0

    def __call__(self, delta: TextDelta) -> None:
        self._tokens += delta.tokens
        now = self._session.now()
        if now - self._told >= PROGRESS_SECONDS:
            self._told = now
            self._session.emit(MemberProgress(self._label, self._tokens))
