"""Comparing answers that are there already: a `best_of` whose panel says what it was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from local_fusion.config.judging import Judges
from local_fusion.config.panels import MemberConfig
from local_fusion.config.strategies import BestOfConfig
from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import ChoiceEnded, TextDelta
from local_fusion.core.model import ChatModel, Choice, Emit, Reply, Room, Score, unheard
from local_fusion.errors import RequestError
from local_fusion.fusion.model import FusionModel
from local_fusion.fusion.session import Resolve

FEWEST, MOST = 2, 16
_judges: TypeAdapter[Any] = TypeAdapter(Judges)


@dataclass(frozen=True, slots=True)
class Given:
    """A `ChatModel` that says one text, whatever it is asked. No engine is called."""

    name: str
    text: str
    takes_images: bool = True

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        """See `ChatModel.answer`."""
        choice = Choice(self.text)
        emit(TextDelta(self.text))
        emit(ChoiceEnded(0, choice))
        return Reply((choice,))

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> Mapping[str, float]:
        """Raises `RequestError`: a text judges nothing."""
        raise self._only_a_text()

    async def score(self, request: ChatRequest, answers: tuple[str, ...], emit: Emit = unheard) -> tuple[Score, ...]:
        """Raises `RequestError`: to a text nothing is likely."""
        raise self._only_a_text()

    async def measure(self, request: ChatRequest) -> Room:
        """Raises `RequestError`: a text reads nothing."""
        raise self._only_a_text()

    def expecting(self, request: ChatRequest) -> AbstractContextManager[None]:
        """See `ChatModel.expecting`: nothing has to be awake."""
        return nullcontext()

    def _only_a_text(self) -> RequestError:
        return RequestError(f"{self.name} is an answer that was given, not a model")


def comparison(answers: Sequence[str], judge: str, resolve: Resolve) -> FusionModel:
    """A fusion whose answer is the best of `answers`, two or more, as the model or fusion `judge` compares them in
    pairs.

    The first answer is that of the candidate `c1`, and so on. The judge learns nothing of where an answer comes from,
    and compares each pair in both orders.
    """
    given: dict[str, ChatModel] = {
        f"answer-{number}": Given(f"answer-{number}", text) for number, text in enumerate(answers, 1)
    }
    config = BestOfConfig(
        strategy="best_of",
        panel=[MemberConfig(model=name) for name in given],
        judge=_judges.validate_python({"kind": "pairwise", "model": judge}),
    )

    def found(name: str) -> ChatModel:
        return given[name] if name in given else resolve(name)

    return FusionModel("comparison", config, found, {})
