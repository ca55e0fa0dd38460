"""An engine's model that keeps to the budget of whoever asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from local_fusion.core.budget import Call
from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import CallEnded, Event, TextDelta
from local_fusion.core.model import ChatModel, Emit, Reply, Room, Score, unheard


@dataclass(frozen=True, slots=True)
class Metered:
    """`model`, every call of which is counted in `ChatRequest.spending`; without a budget it is `model` as it is.

    A call that the budget does not allow raises `BudgetSpent`, and the engine hears nothing of it. Where tokens are
    limited, prompts are measured first, and answers get no more tokens than are left.
    """

    model: ChatModel

    @property
    def name(self) -> str:
        """See `ChatModel.name`."""
        return self.model.name

    @property
    def takes_images(self) -> bool:
        """See `ChatModel.takes_images`."""
        return self.model.takes_images

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        """See `ChatModel.answer`."""
        spending = request.spending
        if spending is None:
            return await self.model.answer(request, emit)
        room = await self._measured(request)
        with self._call(request, room.tokens, request.samples) as call:
            wanted = request.sampling.max_tokens
            if capped := call.most is not None and call.most < (wanted or room.left):
                request = request.but(sampling=request.sampling.with_fields(max_tokens=call.most))
            reply = await self.model.answer(request, _heard_by(call, emit))
        if capped and any(choice.finish_reason == "length" for choice in reply.choices):
            spending.ran_out()
        return reply

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> Mapping[str, float]:
        """See `ChatModel.weigh`."""
        if request.spending is None:
            return await self.model.weigh(request, labels, emit)
        room = await self._measured(request)
        with self._call(request, room.tokens, 1) as call:
            return await self.model.weigh(request, labels, _heard_by(call, emit))

    async def score(self, request: ChatRequest, answers: tuple[str, ...], emit: Emit = unheard) -> tuple[Score, ...]:
        """See `ChatModel.score`. What it reads counts as the conversation for each answer until it is known."""
        if request.spending is None:
            return await self.model.score(request, answers, emit)
        room = await self._measured(request)
        with self._call(request, room.tokens * len(answers), max(1, len(answers))) as call:
            return await self.model.score(request, answers, _heard_by(call, emit))

    async def measure(self, request: ChatRequest) -> Room:
        """See `ChatModel.measure`. Nothing is generated, so it is not counted."""
        return await self.model.measure(request)

    def expecting(self, request: ChatRequest) -> AbstractContextManager[None]:
        """See `ChatModel.expecting`."""
        return self.model.expecting(request)

    async def _measured(self, request: ChatRequest) -> Room:
        """What `request` reads, where that is to be known; a spent budget is told before any engine wakes for it."""
        assert request.spending is not None
        request.spending.refuse_if_spent(self.name)
        return await self.model.measure(request) if request.spending.counts_tokens else Room(0, 0)

    @contextmanager
    def _call(self, request: ChatRequest, read: int, answers: int) -> Iterator[Call]:
        assert request.spending is not None
        call = request.spending.begin(self.name, read, answers)
        try:
            yield call
        finally:
            call.close()


def _heard_by(call: Call, emit: Emit) -> Emit:
    def emitting(event: Event) -> None:
        emit(event)
        match event:
            case TextDelta(tokens=tokens):
                call.writes(tokens)
            case CallEnded(record):
                call.ends(record.usage)
            case _:
                pass

    return emitting
