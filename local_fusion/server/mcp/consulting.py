"""What the tools do, whatever carries their calls: each asks over the service, as every other dialect does."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from local_fusion.config.presets import expanded_fusion
from local_fusion.config.references import engines_of, named_by
from local_fusion.config.strategies import FusionConfig
from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.events import Answered
from local_fusion.core.model import Reply
from local_fusion.errors import RequestError, UnknownModel
from local_fusion.fusion.comparing import FEWEST, MOST, comparison
from local_fusion.server.context import Context
from local_fusion.server.exchange import Exchange
from local_fusion.server.mcp.results import (
    Comparison,
    Cost,
    Differences,
    DocumentReview,
    Panel,
    PanelAnswer,
    Panels,
)
from local_fusion.server.options import Options
from local_fusion.server.progress import Lines
from local_fusion.server.readiness import readiness
from local_fusion.server.service import Service

Tell = Callable[[str], Awaitable[None]]
"""Hears, for people, how far the panel is."""

_fusion: TypeAdapter[FusionConfig] = TypeAdapter(FusionConfig)


@dataclass(frozen=True, slots=True)
class Consultant:
    """The tools, over one service. Each raises what it is that keeps the question from being answered."""

    service: Service

    async def ask_panel(
        self, context: Context, question: str, background: str, fusion: str | None, candidates: bool, tell: Tell
    ) -> PanelAnswer:
        """The panel's answer to `question`; `background` is all it knows beside that."""
        name = self._named(context, fusion)
        text = f"{background}\n\n{question}" if background else question
        request = self._request(context, text)
        options = Options() if self.service.is_engine(name) else Options(include=frozenset({"candidates", "verdict"}))
        exchange = self.service.exchange(context, name, request, called=fusion or name, options=options)
        reply, cost = await self._heard(exchange, tell)
        report = reply.report
        analysis = report.verdict.analysis if report is not None and report.verdict is not None else None
        return PanelAnswer(
            answer=reply.choices[0].text,
            differences=Differences.of(analysis) if analysis else None,
            candidates=[each.text for each in report.candidates] if candidates and report is not None else [],
            **self._about(exchange, reply, cost),
        )

    async def review_document(
        self, context: Context, document: str, focus: str, fusion: str | None, tell: Tell
    ) -> DocumentReview:
        """What the reviewers of `fusion`, else of a configured review, else all models, find in `document`."""
        text = f"{document}\n\nLook above all at this: {focus}" if focus else document
        request = self._request(context, text)
        name = fusion or self._first_review(context)
        if name is not None:
            exchange = self._review_by(context, self._named(context, name), name, request)
        else:
            exchange = self._review_by_all(context, request)
        reply, cost = await self._heard(exchange, tell)
        return DocumentReview(report=reply.choices[0].text, **self._about(exchange, reply, cost))

    async def compare_answers(
        self, context: Context, question: str, answers: Sequence[str], judge: str | None, tell: Tell
    ) -> Comparison:
        """How `judge` (default: the default fusion, as a panel of judges) compares answers to `question` in pairs."""
        if not FEWEST <= len(answers) <= MOST:
            raise RequestError(f"{len(answers)} answers cannot be compared: give {FEWEST} to {MOST}", param="answers")
        if (blank := next((number for number, text in enumerate(answers, 1) if not text.strip()), None)) is not None:
            raise RequestError(f"answer {blank} is blank", param="answers", hint="Leave it out.")
        name = self._named(context, judge)
        model = comparison(answers, name, self.service.runtime.model)
        needs = engines_of(self.service.runtime.config, name)
        exchange = self.service.converse(
            context, model, self._request(context, question), called="comparison", needs=needs
        )
        reply, cost = await self._heard(exchange, tell)
        verdict = reply.report.verdict if reply.report is not None else None
        if verdict is None:
            causes = "; ".join(f"{each.model}: {each.message}" for each in reply.report.failed) if reply.report else ""
            raise RequestError(f"{name} could not judge the answers ({causes})", hint="Name another judge.")
        winner, scores = Comparison.numbers(verdict, len(answers))
        return Comparison(
            winner=winner,
            tied=verdict.tied or not verdict.scores,
            scores=scores,
            judge=verdict.judge,
            reason=verdict.reason,
            **self._about(exchange, reply, cost),
        )

    def list_fusions(self, context: Context) -> Panels:
        """Everything that whoever asks may ask."""
        runtime = self.service.runtime
        states = readiness(runtime)["fusions"]
        seen = [name for name in runtime.config.fusions if name in states and context.caller.may_ask(name)]
        return Panels(
            default=self._first(context),
            fusions=[
                Panel(
                    name=name,
                    description=runtime.config.fusions[name].description,
                    strategy=runtime.config.fusions[name].strategy,
                    members=[member.model for member in runtime.config.fusions[name].panel],
                    ready=states[name]["ready"],
                    lacking=states[name]["reason"],
                )
                for name in seen
            ],
            models=self._writers(context),
        )

    def _named(self, context: Context, called: str | None) -> str:
        """Who is meant: the first that whoever asks may ask, where nobody is named.

        Raises `UnknownModel`.
        """
        name = self._first(context) if called is None else called
        if name is None:
            raise UnknownModel("there is nobody whom this key may ask", hint="Ask for a key that may ask a panel.")
        return self.service.name(context, name)

    def _first(self, context: Context) -> str | None:
        runtime = self.service.runtime
        fusions = (each for each in runtime.config.fusions if each in runtime.served and context.caller.may_ask(each))
        return next(iter((*fusions, *self._writers(context))), None)

    def _writers(self, context: Context) -> list[str]:
        """The engines that whoever asks may ask, but for those that give embeddings in place of text."""
        runtime = self.service.runtime
        return [name for name in runtime.engines if name not in runtime.pooling and context.caller.may_ask(name)]

    def _first_review(self, context: Context) -> str | None:
        runtime = self.service.runtime
        reviews = [name for name, fusion in runtime.config.fusions.items() if fusion.strategy == "review"]
        return next((name for name in reviews if name in runtime.served and context.caller.may_ask(name)), None)

    def _review_by(self, context: Context, name: str, called: str, request: ChatRequest) -> Exchange:
        fusion = self.service.runtime.config.fusions.get(name)
        if fusion is None or fusion.strategy != "review":
            raise RequestError(
                f"'{called}' reviews no documents",
                param="fusion",
                hint="Leave it out, or name a fusion whose strategy is `review`.",
            )
        return self.service.exchange(context, name, request, called=called)

    def _review_by_all(self, context: Context, request: ChatRequest) -> Exchange:
        """A review by all models that whoever asks may ask."""
        runtime = self.service.runtime
        models = self._writers(context)
        if not models:
            raise UnknownModel("there is no model whom this key may ask", hint="Name a panel that reviews.")
        fusion = _fusion.validate_python(expanded_fusion({"preset": "review"}, models))
        needs = {engine for _, inner in named_by(fusion) for engine in engines_of(runtime.config, inner)}
        return self.service.converse(context, runtime.fusion("review", fusion), request, called="review", needs=needs)

    @staticmethod
    def _request(context: Context, text: str) -> ChatRequest:
        return ChatRequest(messages=(Message("user", text),), request_id=context.request_id)

    @staticmethod
    async def _heard(exchange: Exchange, tell: Tell) -> tuple[Reply, Cost]:
        """The whole reply and what it cost; on the way the panel's progress is told."""
        began, lines = time.monotonic(), Lines()
        async with aclosing(exchange.events()) as happening:
            async for event in happening:
                if isinstance(event, Answered):
                    return event.reply, Cost.of(event.reply, time.monotonic() - began)
                if (line := lines.of(event)) is not None:
                    await tell(line)
        raise AssertionError("the event stream ends with Answered or raises")

    @staticmethod
    def _about(exchange: Exchange, reply: Reply, cost: Cost) -> dict[str, Any]:
        report = reply.report
        failed = report.failed if report is not None else ()
        notes = list(report.notes) if report is not None else []
        if any(choice.finish_reason == "length" for choice in reply.choices):
            notes.append("the answer was cut off: it reached the most tokens that one may have")
        return {
            "fusion": exchange.called,
            "partial": report is not None and report.partial,
            "failed": [f"{each.member}: {each.message}" for each in failed],
            "notes": notes,
            "cost": cost,
        }
