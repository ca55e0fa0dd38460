"""A `ChatModel` that answers by script, so that a fusion's exact outcome can be asserted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from local_fusion.config.schema import Config
from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.events import CallEnded, ChoiceEnded, Event, TextDelta
from local_fusion.core.model import ChatModel, Choice, Emit, Reply, Room, Score, unheard
from local_fusion.core.records import CallRecord, Usage
from local_fusion.errors import LocalFusionError, TakesNoImages
from local_fusion.fusion.model import FusionModel


@dataclass
class Scripted:
    """Answers with `texts` in turn (one for each sample), or fails, or hangs. Counts one token for each word.

    In place of texts: whole `choices` in turn, or what `answers` says to the request (asked once for each sample).
    A request's prefix changes nothing: the script is what follows it. A choice's certainty is told where the request
    asks for it, and then every token is as sure as the whole. `hangs_at`: that sample and later ones never end.
    `preference` decides `weigh`: it gets the prompt and returns the probability of the first label. `likelihood`
    decides `score`: it gets the prompt with its prefix, and the answer, and returns the mean log-probability of a word.
    """

    name: str
    texts: list[str] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    answers: Callable[[ChatRequest], str] | None = None
    error: LocalFusionError | None = None
    hangs: bool = False
    hangs_at: int | None = None
    fails_after: int | None = None  # words of the first answer, then `error`
    limit: int = 4096
    finish_reason: str = "stop"
    takes_images: bool = True
    preference: Callable[[str], float] = lambda prompt: 0.5
    likelihood: Callable[[str, str], float] = lambda prompt, answer: -1.0
    requests: list[ChatRequest] = field(default_factory=list)
    weighed: list[str] = field(default_factory=list)
    scored: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)  # prompts, and the answers to each
    cancelled: int = 0

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        self.requests.append(request)
        written = 0
        try:
            await asyncio.sleep(0)
            if request.image_at is not None and not request.described and not self.takes_images:
                raise TakesNoImages(f"{self.name} takes no images", param=request.image_at)
            if self.hangs:
                await asyncio.Event().wait()
            if self.error is not None and self.fails_after is None:
                raise self.error
            choices = []
            for index in range(request.samples):
                if self.hangs_at is not None and index >= self.hangs_at:
                    await asyncio.Event().wait()
                choice = self._choice(request, index)
                for number, delta in enumerate(_deltas(choice, index)):
                    if self.error is not None and number == self.fails_after:
                        raise self.error
                    emit(delta)
                    written += delta.tokens
                choices.append(choice)
                emit(ChoiceEnded(index, choice))
                await asyncio.sleep(0)  # whoever has heard enough may cancel here
            call = self._call(request, written)
            emit(CallEnded(call))
            return Reply(tuple(choices), (call,))
        except asyncio.CancelledError:
            self.cancelled += 1
            emit(CallEnded(self._call(request, written, "cancelled", "cancelled")))
            raise
        except LocalFusionError as error:
            emit(CallEnded(self._call(request, written, error.message, error.code)))
            raise

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> Mapping[str, float]:
        if self.error is not None:
            raise self.error
        prompt = request.messages[-1].content
        self.weighed.append(prompt)
        first = self.preference(prompt)
        emit(CallEnded(self._call(request, 1)))
        return {labels[0]: first, labels[1]: 1 - first}

    async def score(self, request: ChatRequest, answers: tuple[str, ...], emit: Emit = unheard) -> tuple[Score, ...]:
        if self.error is not None:
            raise self.error
        if self.hangs:
            await asyncio.Event().wait()
        prompt = request.messages[-1].content + request.prefix
        self.scored.append((prompt, answers))
        lengths = [len(answer.split()) for answer in answers]
        read = len(answers) * self._read(request) + sum(lengths)
        emit(CallEnded(CallRecord("panel", self.name, Usage(read, 0), 0.0, len(answers))))
        scored = zip(answers, lengths, strict=True)
        return tuple(Score(self.likelihood(prompt, answer) * length, length) for answer, length in scored)

    async def measure(self, request: ChatRequest) -> Room:
        return Room(self._read(request), self.limit)

    def expecting(self, request: ChatRequest) -> AbstractContextManager[None]:
        return nullcontext()

    def _call(
        self, request: ChatRequest, written: int, error: str | None = None, code: str | None = None
    ) -> CallRecord:
        return CallRecord("panel", self.name, Usage(self._read(request), written), 0.0, request.samples, error, code)

    def _read(self, request: ChatRequest) -> int:
        return sum(len(message.content.split()) for message in request.messages) + len(request.prefix.split())

    def _choice(self, request: ChatRequest, index: int) -> Choice:
        if self.choices:
            choice = self.choices[index % len(self.choices)]
            return choice if request.certainty else replace(choice, certainty=None)
        if self.answers is not None:
            return Choice(self.answers(request), self.finish_reason)
        text = self.texts[index % len(self.texts)] if self.texts else f"answer of {self.name}"
        return Choice(text, self.finish_reason)


def _deltas(choice: Choice, index: int) -> Iterator[TextDelta]:
    """The choice word by word, thoughts first."""
    certainties = () if choice.certainty is None else (choice.certainty.self_certainty,)
    for word in re.findall(r"\s*\S+|\s+$", choice.reasoning):
        yield TextDelta("", index, 1, reasoning=word, certainties=certainties)
    for number, word in enumerate(choice.text.split(" ")):
        yield TextDelta(word if number == 0 else f" {word}", index, 1, certainties=certainties)


def fusion(
    models: Sequence[ChatModel], *, personas: Mapping[str, str] | None = None, **fusions: Any
) -> dict[str, FusionModel]:
    """Fusions over `models`, from the same dictionaries as in a configuration file."""
    config = Config.model_validate(
        {"models": {model.name: {"source": "unused"} for model in models}, "fusions": fusions}
    )
    known: dict[str, ChatModel] = {model.name: model for model in models}
    built = {name: FusionModel(name, one, known.__getitem__, personas or {}) for name, one in config.fusions.items()}
    known.update(built)
    return built


def asking(text: str = "What is 6 times 7?", **changes: Any) -> ChatRequest:
    """A request with one user message."""
    return ChatRequest(messages=(Message("user", text),), request_id="r1", **changes)


@dataclass
class Heard:
    """An `emit` that keeps what it hears."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.of(TextDelta))
