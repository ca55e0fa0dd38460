"""A `ChatModel` that answers by script, so that a fusion's exact outcome can be asserted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from local_fusion.config.schema import Config
from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.events import CallEnded, Event, TextDelta
from local_fusion.core.model import ChatModel, Choice, Emit, Reply, Room, unheard
from local_fusion.core.records import CallRecord, Usage
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.model import FusionModel


@dataclass
class Scripted:
    """Answers with `texts` in turn (one for each sample), or fails, or hangs. Counts one token for each word.

    `preference` decides `weigh`: it gets the prompt and returns the probability of the first label.
    """

    name: str
    texts: list[str] = field(default_factory=list)
    error: LocalFusionError | None = None
    hangs: bool = False
    fails_after: int | None = None  # words of the first answer, then `error`
    limit: int = 4096
    finish_reason: str = "stop"
    preference: Callable[[str], float] = lambda prompt: 0.5
    requests: list[ChatRequest] = field(default_factory=list)
    weighed: list[str] = field(default_factory=list)
    cancelled: int = 0

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        self.requests.append(request)
        written = 0
        try:
            await asyncio.sleep(0)
            if self.hangs:
                await asyncio.Event().wait()
            if self.error is not None and self.fails_after is None:
                raise self.error
            choices = []
            for index in range(request.samples):
                text = self.texts[index % len(self.texts)] if self.texts else f"answer of {self.name}"
                for number, word in enumerate(text.split(" ")):
                    if self.error is not None and number == self.fails_after:
                        raise self.error
                    emit(TextDelta(word if number == 0 else f" {word}", index, 1))
                    written += 1
                choices.append(Choice(text, self.finish_reason))
            call = self._call(request, written, None)
            emit(CallEnded(call))
            return Reply(tuple(choices), (call,))
        except asyncio.CancelledError:
            self.cancelled += 1
            emit(CallEnded(self._call(request, written, "cancelled")))
            raise
        except LocalFusionError as error:
            emit(CallEnded(self._call(request, written, error.code)))
            raise

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> Mapping[str, float]:
        if self.error is not None:
            raise self.error
        prompt = request.messages[-1].content
        self.weighed.append(prompt)
        first = self.preference(prompt)
        emit(CallEnded(self._call(request, 1, None)))
        return {labels[0]: first, labels[1]: 1 - first}

    async def measure(self, request: ChatRequest) -> Room:
        return Room(sum(len(message.content.split()) for message in request.messages), self.limit)

    def expecting(self, request: ChatRequest) -> AbstractContextManager[None]:
        return nullcontext()

    def _call(self, request: ChatRequest, written: int, error: str | None) -> CallRecord:
        read = sum(len(message.content.split()) for message in request.messages)
        return CallRecord("panel", self.name, Usage(read, written), 0.0, request.samples, error)


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
