"""A fusion as a `ChatModel`: what makes it servable, and usable as a member or judge of another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from local_fusion.config.schema import FusionConfig
from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.concurrency import together
from local_fusion.core.events import Event, TextDelta
from local_fusion.core.model import Emit, FusionReport, Reply, Room, unheard
from local_fusion.core.records import CallRecord, Failure
from local_fusion.errors import LocalFusionError, PanelFailed
from local_fusion.fusion.session import Resolve, Session
from local_fusion.fusion.strategies import STRATEGIES


@dataclass(frozen=True, slots=True)
class FusionModel:
    """One configured fusion. `resolve` finds the models it names; `personas` holds those its members wear."""

    name: str
    config: FusionConfig
    resolve: Resolve
    personas: Mapping[str, str]

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        """Run the strategy; several samples run at the same time, each with a seed of its own."""
        if request.samples == 1:
            return await self._answer_once(request, emit)
        seed = request.sampling.seed

        async def sample(index: int) -> Reply:
            seeded = request.sampling if seed is None else request.sampling.with_fields(seed=seed + index)
            return await self._answer_once(request.but(samples=1, sampling=seeded), _numbered(emit, index))

        return _joined(await together(sample(index) for index in range(request.samples)))

    async def _answer_once(self, request: ChatRequest, emit: Emit) -> Reply:
        session = Session(self.name, self.config, request, self.resolve, self.personas, emit)
        choice = await STRATEGIES[self.config.strategy](session)
        return Reply((choice,), tuple(session.calls), session.report())

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> Mapping[str, float]:
        """A panel as a judge: the mean of its members' probabilities, each distinct model asked once."""
        models = list(dict.fromkeys(member.model for member in self.config.panel))

        async def ask(name: str) -> Mapping[str, float] | LocalFusionError:
            try:
                return await self.resolve(name).weigh(request, labels, emit)
            except LocalFusionError as error:
                return error

        answers = await together(ask(name) for name in models)
        heard = [answer for answer in answers if not isinstance(answer, LocalFusionError)]
        if not heard:
            failures = tuple(
                Failure("judge", name, name, error.code, error.message)
                for name, error in zip(models, answers, strict=True)
                if isinstance(error, LocalFusionError)
            )
            causes = "; ".join(f"{failure.member}: {failure.message}" for failure in failures)
            raise PanelFailed(f"{self.name}: no member judged ({causes})", failures=failures)
        return {label: sum(answer[label] for answer in heard) / len(heard) for label in labels}

    async def measure(self, messages: tuple[Message, ...]) -> Room:
        """The room of whichever member has least of it."""
        models = dict.fromkeys(member.model for member in self.config.panel)
        rooms = await together(self.resolve(name).measure(messages) for name in models)
        return min(rooms, key=lambda room: room.left)


def _numbered(emit: Emit, index: int) -> Emit:
    def numbered(event: Event) -> None:
        emit(replace(event, index=index) if isinstance(event, TextDelta) else event)

    return numbered


def _joined(replies: list[Reply]) -> Reply:
    """Several runs of one fusion as one reply: the first run's report, with what failed in any of them."""
    calls: tuple[CallRecord, ...] = tuple(call for reply in replies for call in reply.calls)
    reports: list[FusionReport] = [reply.report for reply in replies if reply.report is not None]
    report = replace(
        reports[0],
        failed=tuple(failure for report in reports for failure in report.failed),
        partial=any(report.partial for report in reports),
        notes=tuple(note for report in reports for note in report.notes),
    )
    return Reply(tuple(choice for reply in replies for choice in reply.choices), calls, report)
