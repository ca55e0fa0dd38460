"""The panel at work, as the `response.fusion_call.*` events that OpenRouter's Fusion made known.

Its events and their fields are kept; what a local panel can tell beside them (`member`, `candidate`, `seconds`, a
judge that fails) is added. Clients skip what they do not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from local_fusion.core.events import (
    Answered,
    Event,
    Failed,
    MemberFinished,
    MemberStarted,
    StageStarted,
    TextDelta,
    VerdictReached,
    origin,
)
from local_fusion.core.records import Analysis, Failure, Verdict
from local_fusion.server.openrouter.result import analysis_of, failed_models

KIND = "response.fusion_call"
Payload = dict[str, Any]


@dataclass(slots=True)
class FusionCall:
    """One run of a panel: payloads of its events, without their numbers.

    `item_id` and `output_index` are those of its result among the output, where it is shown there. `called` is what the
    client calls each member, by its label. `source`: where the panel's events come from, if it is not whoever was
    asked. Panels within the panel keep to themselves.
    """

    item_id: str = ""
    output_index: int = 0
    called: Mapping[str, str] = field(default_factory=dict)
    source: tuple[str, ...] = ()
    begun: bool = False
    _names: dict[str, str] = field(default_factory=dict)  # of who wrote a candidate, by its id
    _over: bool = False

    def begin(self, item_id: str, output_index: int) -> Payload:
        """The first event."""
        self.item_id, self.output_index, self.begun = item_id, output_index, True
        return self._payload("in_progress")

    def concerns(self, event: Event) -> bool:
        """Whether it is the panel's own event."""
        return origin(event)[0] == self.source

    def hear(self, event: Event) -> Iterator[Payload]:
        """What clients are told of an event."""
        if self.concerns(event):
            yield from self._told(origin(event)[1])
        elif self.begun and isinstance(event, TextDelta | Answered):  # whoever has consulted the panel goes on
            yield from self._end()

    def _told(self, event: Event) -> Iterator[Payload]:
        match event:
            case MemberStarted(member, model, samples):
                for _ in range(samples):  # every answer is asked for by itself, as far as clients know
                    yield self._payload("panel.added", model=self.called.get(member, model), member=member)
            case MemberFinished(member, candidates, seconds):
                for each in candidates:
                    name = self._names[each.id] = self.called.get(member, each.model)
                    beside = {"member": member, "candidate": each.id, "seconds": round(seconds, 3)}
                    yield self._payload("panel.completed", model=name, content=each.text, **beside)
            case StageStarted("judge", models):
                judge = models[0] if models else ""
                yield self._payload("analysis.in_progress", analyst_model=judge, judge_model=judge)
            case VerdictReached(verdict):
                yield self._payload("analysis.completed", **self._findings(verdict))
            case Failed(failure) if failure.stage == "panel":
                yield self._failed("panel", failure)
            case Failed(failure) if failure.stage == "judge":
                yield self._failed("analysis", failure)
            case StageStarted("synthesis") | Answered():
                yield from self._end()
            case _:
                pass

    def _end(self) -> Iterator[Payload]:
        if not self._over:
            self._over = True
            yield self._payload("completed")

    def _failed(self, what: str, failure: Failure) -> Payload:
        beside = {"member": failure.member, "code": failure.code}
        told = next(iter(failed_models((failure,), self.called)), {"model": failure.model, "error": failure.message})
        return self._payload(f"{what}.failed", **told, **beside)

    def _findings(self, verdict: Verdict) -> Payload:
        """The analysis, empty where the judge made none, and what it decided."""
        return {
            "analysis": analysis_of(verdict.analysis or Analysis(), self._names),
            "judge": verdict.judge,
            "winner": verdict.winner,
            "reason": verdict.reason,
        }

    def _payload(self, kind: str, **more: Any) -> Payload:
        head = {"type": f"{KIND}.{kind}", "item_id": self.item_id, "output_index": self.output_index}
        return {**head, **more}
