"""Judging by itself: candidates that were written by nobody, judges that follow a script."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from local_fusion.config.schema import Config
from local_fusion.config.strategies import BestOfConfig
from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import CallEnded
from local_fusion.core.model import ChatModel, Emit, unheard
from local_fusion.core.records import Candidate, Verdict
from local_fusion.fusion import judges
from local_fusion.fusion.session import Session
from tests.scripted import Heard, Scripted, asking


@dataclass
class Grader(Scripted):
    """A scripted model whose `grade` of an answer, from 1 to 9, decides what it says to a score or a rubric."""

    grade: Callable[[str], float] = lambda answer: 5.0
    criteria: int = 1

    def __post_init__(self) -> None:
        self.answers = self.answers or self._report

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> Mapping[str, float]:
        if len(labels) == 2:
            return await Scripted.weigh(self, request, labels, emit)
        if self.error is not None:
            raise self.error
        await asyncio.sleep(0)
        prompt = request.messages[-1].content
        self.weighed.append(prompt)
        emit(CallEnded(self._call(request, 1, None)))
        grade = self.grade(answer_in(prompt))
        return {label: max(0.0, 1 - abs(int(label) - grade)) for label in labels}

    def _report(self, request: ChatRequest) -> str:
        answer = answer_in(request.messages[-1].content)
        return json.dumps({"reason": f"as {answer} is", "grades": [round(self.grade(answer))] * self.criteria})


def answer_in(prompt: str) -> str:
    """The one answer in a prompt."""
    found = re.search(r"<answer>\n(.*?)\n</answer>", prompt, re.DOTALL)
    assert found is not None
    return found[1]


def common_start(prompts: Sequence[str]) -> str:
    """What all prompts begin with: a prefix cache serves that."""
    shortest = min(prompts, key=len)
    end = next((n for n, letter in enumerate(shortest) if any(p[n] != letter for p in prompts)), len(shortest))
    return shortest[:end]


def shown(prompt: str) -> tuple[str, str]:
    """The two answers in a comparison, in the order shown."""
    first = re.search(r"<answer_a>\n(.*?)\n</answer_a>", prompt, re.DOTALL)
    second = re.search(r"<answer_b>\n(.*?)\n</answer_b>", prompt, re.DOTALL)
    assert first is not None
    assert second is not None
    return first[1], second[1]


def likes(*best: str, sureness: float = 0.9) -> Callable[[str], float]:
    """Prefers answers in this order, wherever they stand, and all of them to any other."""

    def place(answer: str) -> int:
        return best.index(answer) if answer in best else len(best)

    def preference(prompt: str) -> float:
        first, second = map(place, shown(prompt))
        return 0.5 if first == second else sureness if first < second else 1 - sureness

    return preference


def written(*texts: str, by: Sequence[str] = ()) -> list[Candidate]:
    """Candidates c1, c2, … in panel order; without `by` somebody who is no judge wrote them."""
    authors = by or ["somebody"] * len(texts)
    return [
        Candidate(f"c{number}", author, author, text, "stop", 0.0)
        for number, (text, author) in enumerate(zip(texts, authors, strict=True), start=1)
    ]


def court(
    models: Sequence[ChatModel],
    judge: Any,
    *,
    panel: Sequence[str] = ("somebody",),
    heard: Heard | None = None,
    request: ChatRequest | None = None,
    **options: Any,
) -> Session:
    """A session of a `best_of` with this `judge`, as it would be written in a configuration file."""
    known = {model.name: model for model in (*models, Scripted("somebody"))}
    fusion = {"strategy": "best_of", "panel": [{"model": m, "samples": 2} for m in panel], "judge": judge, **options}
    config = Config.model_validate(
        {"models": {name: {"source": "unused"} for name in known}, "fusions": {"f": fusion}}
    ).fusions["f"]
    return Session("f", config, request or asking(), known.__getitem__, {}, heard or Heard())


async def judged(session: Session, candidates: Sequence[Candidate]) -> Verdict:
    """What the session's judges say."""
    assert isinstance(session.config, BestOfConfig)
    return await judges.judge(session, session.config.judge, candidates)
