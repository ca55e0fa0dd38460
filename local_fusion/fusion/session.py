"""The course of one request through one fusion: what was asked, what came back, who failed, what it cost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from local_fusion.config.base import Command
from local_fusion.config.references import named_by
from local_fusion.config.strategies import FusionConfig
from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.events import (
    CallEnded,
    ChoiceEnded,
    Event,
    Failed,
    Nested,
    Noted,
    Saved,
    TextDelta,
    Trimmed,
    VerdictReached,
)
from local_fusion.core.model import ChatModel, Choice, Emit, FusionReport
from local_fusion.core.records import CallRecord, Candidate, Failure, Saving, Stage, Trim, Verdict
from local_fusion.core.sampling import Sampling
from local_fusion.errors import DeadlineExceeded, LocalFusionError

NESTED = " › "  # between the label of a fusion that was called and who failed in it
Resolve = Callable[[str], ChatModel]
StandIn = Callable[[Command, str], Awaitable[bool]]
"""Whether a text is accepted, where the program that would say so is not to be run."""


@dataclass(slots=True)
class Session:
    """One request on its way through one fusion. `rng` decides every shuffle, from the request's seed if it has one."""

    name: str
    config: FusionConfig
    request: ChatRequest
    resolve: Resolve
    personas: Mapping[str, str]
    emit: Emit
    programs: StandIn | None = None  # None: they are run
    rng: random.Random = field(init=False)
    candidates: list[Candidate] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    trims: list[Trim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    savings: list[Saving] = field(default_factory=list)
    calls: list[CallRecord] = field(default_factory=list)
    verdict: Verdict | None = None
    answered: bool = False  # whether part of the answer has been sent, so that there is no way back
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.request.sampling.seed)
        self.started = self.now()

    def now(self) -> float:
        """The time in seconds, as the running loop counts it."""
        return asyncio.get_running_loop().time()

    def say(self, delta: TextDelta) -> None:
        """Send more of the answer."""
        # White space alone says nothing, held-back text even less.
        self.answered = self.answered or bool(delta.text.strip())
        self.emit(delta)

    def note(self, text: str) -> None:
        """Tell the reader of the answer something that is not a failure."""
        self.notes.append(text)
        self.emit(Noted(text))

    def saved(self, saving: Saving) -> None:
        """Keep what was left out."""
        self.savings.append(saving)
        self.emit(Saved(saving))

    def fail(self, failure: Failure) -> None:
        """Keep a failure and its cause."""
        self.failures.append(failure)
        self.emit(Failed(failure))

    def trimmed(self, trim: Trim) -> None:
        """Keep that a candidate was cut."""
        self.trims.append(trim)
        self.emit(Trimmed(trim))

    def judged(self, verdict: Verdict) -> None:
        """Keep the verdict."""
        self.verdict = verdict
        self.emit(VerdictReached(verdict))

    def asks(self, messages: tuple[Message, ...], sampling: Sampling | None = None, **more: Any) -> ChatRequest:
        """A request of our own on the client's behalf: without its tools, format, sampling and reasoning effort.

        Models that take no images read the text alone, unless `described` says otherwise.
        """
        request = self.request
        ours: dict[str, Any] = {"described": True, **more}
        return ChatRequest(
            messages=messages,
            sampling=sampling or Sampling(),
            request_id=request.request_id,
            depth=request.depth,
            priority=request.priority,
            spending=request.spending,
            **ours,
        )

    def relay(
        self,
        stage: Stage,
        source: str,
        on_text: Callable[[TextDelta], None],
        on_choice: Callable[[int, Choice], None] = lambda index, choice: None,
    ) -> Emit:
        """An `emit` for a model called in `stage`: counts its calls, hands its text and whole answers on, wraps what a
        fusion says.
        """

        def emit(event: Event) -> None:
            match event:
                case TextDelta():
                    on_text(event)
                case ChoiceEnded(index, choice):
                    on_choice(index, choice)
                case CallEnded(call):
                    call = replace(call, stage=stage)
                    self.calls.append(call)
                    self.emit(CallEnded(call))
                case _:
                    self._keep(source, event)
                    self.emit(Nested(source, event))

        return emit

    def _keep(self, source: str, event: Event) -> None:
        """Keep what failed, was cut or is to be known inside a fusion that was called: a partial part is partial."""
        match event:
            case Nested(inner, happened):
                self._keep(f"{source}{NESTED}{inner}", happened)
            case Failed(failure):
                failure = replace(failure, member=f"{source}{NESTED}{failure.member}")
                if failure not in self.failures:  # a panel of judges fails in the same way for every pair
                    self.failures.append(failure)
            case Trimmed(trim):
                self.trims.append(trim)
            case Noted(text):
                self.notes.append(f"{source}: {text}")
            case Saved(saving):
                self.savings.append(saving)
            case _:
                pass

    @contextmanager
    def expecting_judges(self) -> Iterator[None]:
        """While in this block, judge and synthesizer are still to come: they may be woken while the panel works.

        Whom a fusion falls back on, `otherwise` or `solo`, is not: most requests never get there.
        """
        with ExitStack() as stack:
            others = (name for path, name in named_by(self.config) if path[0] not in ("panel", "otherwise", "solo"))
            for name in dict.fromkeys(others):
                stack.enter_context(self.resolve(name).expecting(self.request))
            yield

    @asynccontextmanager
    async def stage(self, stage: Stage, label: str, model: str, seconds: float) -> AsyncIterator[None]:
        """Bounds a call to `model` by the stage's deadline; a failure is kept with its cause and raised again.

        Batch requests have none: they wait as long as engines that come first have work.
        """
        deadline = None if self.request.priority == "batch" else seconds
        try:
            try:
                # Between two calls of a stage (measuring, then asking) the engine is not given away.
                with self.resolve(model).expecting(self.request):
                    async with asyncio.timeout(deadline):
                        yield
            except TimeoutError:
                raise DeadlineExceeded(
                    f"{label} did not answer within {seconds:g} s",
                    hint=f"raise deadlines.{stage} of fusion {self.name}, or ask for fewer tokens (max_tokens)",
                ) from None
        except LocalFusionError as error:
            self.fail(Failure(stage, label, model, error.code, error.message, error.hint))
            raise

    def report(self) -> FusionReport:
        """How this request went, so far."""
        return FusionReport(
            trace_id=self.request.request_id,
            fusion=self.name,
            strategy=self.config.strategy,
            failed=tuple(self.failures),
            partial=bool(self.failures),
            candidates=tuple(self.candidates),
            verdict=self.verdict,
            trims=tuple(self.trims),
            notes=tuple(self.notes),
            savings=tuple(self.savings),
            seconds=self.now() - self.started,
        )
