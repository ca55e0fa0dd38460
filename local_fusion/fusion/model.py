"""A fusion as a `ChatModel`: what makes it servable, and usable as a member or judge of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from local_fusion.config.references import named_by
from local_fusion.config.strategies import FusionConfig
from local_fusion.core.chat import ChatRequest
from local_fusion.core.concurrency import together
from local_fusion.core.events import CallEnded, ChoiceEnded, Event, Failed, TextDelta
from local_fusion.core.model import Emit, FusionReport, Reply, Room, Score, unheard
from local_fusion.core.records import CallRecord, Failure
from local_fusion.errors import LocalFusionError, RequestError, TakesNoImages
from local_fusion.fusion.bounded import within_budget
from local_fusion.fusion.cadence import convene_in_time
from local_fusion.fusion.panel.polling import panel_failed
from local_fusion.fusion.session import Resolve, Session, StandIn
from local_fusion.fusion.strategies import STRATEGIES
from local_fusion.fusion.strategies.synthesize import compare
from local_fusion.fusion.tool_calls import Settled

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class FusionModel:
    """One configured fusion. `resolve` finds the models it names; `personas` holds those its members wear.

    `programs` stands in for verifiers where nothing is to be run.
    """

    name: str
    config: FusionConfig
    resolve: Resolve
    personas: Mapping[str, str]
    programs: StandIn | None = None

    @property
    def takes_images(self) -> bool:
        """Whether any of those takes images that answer the client's own words."""
        answering = (name for path, name in named_by(self.config) if path[0] in ("panel", "solo", "otherwise"))
        return any(self.resolve(name).takes_images for name in dict.fromkeys(answering))

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        """Run the strategy; several samples run at the same time, each with a seed of its own.

        A run that fails is told as an event and leaves one choice fewer. All of them share the fusion's `budget` (see
        `within_budget`). Raises the first run's error if all fail, `TakesNoImages`, and `RequestError` for a prefix:
        whoever writes the answer would have to have begun it.
        """
        if request.prefix:
            raise RequestError(f"{self.name} is a fusion, which cannot go on with an answer that was begun")
        if (where := request.image_at) is not None and not request.described and not self.takes_images:
            raise TakesNoImages(
                f"no member of {self.name} takes images", param=where, hint="ask a model that does, or leave them out"
            )
        sessions: list[Session] = []
        if self.config.budget is None:
            return await self._answer(request, emit, sessions)

        def report() -> FusionReport | None:
            return _joined([session.report() for session in sessions], ()) if sessions else None

        return await within_budget(
            self.name,
            self.config.budget,
            request,
            emit,
            lambda asked, hearing: self._answer(asked, hearing, sessions),
            sessions,
            report,
        )

    async def _answer(self, request: ChatRequest, emit: Emit, sessions: list[Session]) -> Reply:
        """As many runs as there are samples; each puts its session into `sessions`."""
        if request.samples == 1:
            return await self._answer_once(request, emit, sessions)
        calls: list[CallRecord] = []

        async def sample(index: int) -> Reply | LocalFusionError:
            one = request.but(samples=1, sampling=request.sampling.apart("sample", index))
            try:
                return await self._answer_once(one, _numbered(emit, index, calls), sessions)
            except LocalFusionError as error:
                emit(Failed(Failure("panel", self.name, self.name, error.code, error.message, error.hint)))
                return error

        outcomes = await together(sample(index) for index in range(request.samples))
        replies = [outcome for outcome in outcomes if isinstance(outcome, Reply)]
        if not replies:
            raise next(outcome for outcome in outcomes if isinstance(outcome, LocalFusionError))
        choices = tuple(choice for reply in replies for choice in reply.choices)
        lost = tuple(
            Failure("panel", self.name, self.name, outcome.code, outcome.message, outcome.hint)
            for outcome in outcomes
            if isinstance(outcome, LocalFusionError)
        )
        return Reply(choices, tuple(calls), _joined([reply.report for reply in replies if reply.report], lost))

    async def _answer_once(self, request: ChatRequest, emit: Emit, sessions: list[Session]) -> Reply:
        session = Session(self.name, self.config, request, self.resolve, self.personas, emit, self.programs)
        sessions.append(session)
        try:
            choice = await convene_in_time(session, STRATEGIES[self.config.strategy])
        except Settled as settled:
            choice = settled.choice
            if choice.text or choice.reasoning:
                session.emit(TextDelta(choice.text, reasoning=choice.reasoning))
        emit(ChoiceEnded(0, choice))
        return Reply((choice,), tuple(session.calls), session.report())

    async def compare(self, request: ChatRequest, emit: Emit = unheard) -> FusionReport:
        """Only ask the panel, and let the judge compare; nobody writes an answer. For fusions of strategy synthesize.

        Raises `PanelFailed`.
        """
        session = Session(self.name, self.config, request, self.resolve, self.personas, emit, self.programs)
        await compare(session)
        return session.report()

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> Mapping[str, float]:
        """A panel as a judge: the mean of its members' probabilities, each distinct model asked once."""

        async def ask(name: str) -> Mapping[str, float] | LocalFusionError:
            try:
                return await self.resolve(name).weigh(request, labels, emit)
            except LocalFusionError as error:
                emit(Failed(Failure("judge", name, name, error.code, error.message, error.hint)))
                return error

        heard = self._heard(await together(ask(name) for name in self._models()), "judged")
        return {label: sum(answer[label] for answer in heard) / len(heard) for label in labels}

    async def score(self, request: ChatRequest, answers: tuple[str, ...], emit: Emit = unheard) -> tuple[Score, ...]:
        """See `ChatModel.score`: the mean over its members of a token's log-probability, each model asked once."""

        async def ask(name: str) -> tuple[Score, ...] | LocalFusionError:
            try:
                return await self.resolve(name).score(request, answers, emit)
            except LocalFusionError as error:
                emit(Failed(Failure("judge", name, name, error.code, error.message, error.hint)))
                return error

        heard = self._heard(await together(ask(name) for name in self._models()), "scored")
        means = [sum(scores[number].mean for scores in heard) / len(heard) for number in range(len(answers))]
        # Members count tokens differently; what their mean is worth is that of the first one's tokens.
        return tuple(Score(mean * score.tokens, score.tokens) for mean, score in zip(means, heard[0], strict=True))

    async def measure(self, request: ChatRequest) -> Room:
        """The room of whichever member has least of it, of those that can tell."""

        async def ask(name: str) -> Room | LocalFusionError:
            try:
                return await self.resolve(name).measure(request)
            except LocalFusionError as error:
                return error

        rooms = self._heard(await together(ask(name) for name in self._models()), "could be asked")
        return min(rooms, key=lambda room: room.left)

    @contextmanager
    def expecting(self, request: ChatRequest) -> Iterator[None]:
        """See `ChatModel.expecting`: all that it asks, members, judge and synthesizer."""
        with ExitStack() as stack:
            for name in dict.fromkeys(name for _, name in named_by(self.config)):
                stack.enter_context(self.resolve(name).expecting(request))
            yield

    def _models(self) -> list[str]:
        return list(dict.fromkeys(member.model for member in self.config.panel))

    def _heard(self, answers: list[Answer | LocalFusionError], did: str) -> list[Answer]:
        """The answers without the errors.

        Raises `PanelFailed` where there are only errors.
        """
        heard = [answer for answer in answers if not isinstance(answer, LocalFusionError)]
        if heard:
            return heard
        failures = tuple(
            Failure("judge", name, name, error.code, error.message, error.hint)
            for name, error in zip(self._models(), answers, strict=True)
            if isinstance(error, LocalFusionError)
        )
        raise panel_failed(self.name, f"no member {did}", failures)


def _joined(reports: Sequence[FusionReport], lost: tuple[Failure, ...]) -> FusionReport:
    """One report of several runs at the same time; the verdict, and the ids of candidates, are each run's own."""
    failed = tuple(failure for report in reports for failure in report.failed) + lost
    return replace(
        reports[0],
        failed=failed,
        partial=bool(failed),
        candidates=tuple(candidate for report in reports for candidate in report.candidates),
        trims=tuple(trim for report in reports for trim in report.trims),
        notes=tuple(dict.fromkeys(note for report in reports for note in report.notes)),
        savings=tuple(saving for report in reports for saving in report.savings),
        seconds=max(report.seconds for report in reports),
    )


def _numbered(emit: Emit, index: int, calls: list[CallRecord]) -> Emit:
    """An `emit` for run `index`, which keeps the calls: also those of a run that fails."""

    def numbered(event: Event) -> None:
        if isinstance(event, CallEnded):
            calls.append(event.call)
        emit(replace(event, index=index) if isinstance(event, TextDelta | ChoiceEnded) else event)

    return numbered
