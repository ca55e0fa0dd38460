"""A simulated engine as a `ChatModel`, to fusions no different from `engines.model.EngineModel`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager

from local_fusion.core.chat import ChatRequest
from local_fusion.core.concurrency import together
from local_fusion.core.events import CallEnded, ChoiceEnded, TextDelta
from local_fusion.core.model import Choice, Emit, Reply, Room, Score, unheard
from local_fusion.core.records import CallRecord, Usage
from local_fusion.engines.gate import Call, Gate
from local_fusion.errors import ContextTooLong
from local_fusion.simulation.engine import SimulatedEngine
from local_fusion.simulation.texts import answer_of, fits, tokens_in, tokens_of
from local_fusion.simulation.workload import Arrival


class SimulatedModel:
    """Passes the engine's `gate` as a real call does; then virtual time passes as the engine's speed has it.

    `arrivals` says by request id how long answers are.
    """

    def __init__(self, engine: SimulatedEngine, gate: Gate, arrivals: Mapping[str, Arrival]) -> None:
        self._engine = engine
        self._gate = gate
        self._arrivals = arrivals
        self._limit = engine.shape.placement.max_model_len

    @property
    def name(self) -> str:
        """See `ChatModel.name`."""
        return self._engine.name

    @property
    def takes_images(self) -> bool:
        """See `ChatModel.takes_images`: requests that are simulated hold none."""
        return False

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        """See `ChatModel.answer`: made-up texts, as long as the workload asks for."""
        prompt, most = _prompt(request), request.sampling.max_tokens
        self._must_fit(prompt, most or 1)
        room = most or self._limit - prompt
        keys = [_key(self.name, request, index) for index in range(request.samples)]
        whole = [self._arrivals[request.request_id].answer_length(key) for key in keys]
        lengths = [min(length, room) for length in whole]
        async with self._turn(_call(request)):
            call = _Recorded(self.name, request.samples)
            with call.until_ended(emit):
                await self._engine.generate(prompt, lengths)
                call.usage = Usage(prompt, sum(lengths))
                texts = [_text(request, key, length) for key, length in zip(keys, lengths, strict=True)]
                reasons = [
                    "stop" if length == wanted else "length" for length, wanted in zip(lengths, whole, strict=True)
                ]
                choices = tuple(Choice(*each) for each in zip(texts, reasons, strict=True))
                for index, (choice, length) in enumerate(zip(choices, lengths, strict=True)):
                    emit(TextDelta(choice.text, index, length))
                    emit(ChoiceEnded(index, choice))
        return Reply(choices, (call.record,))

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> Mapping[str, float]:
        """See `ChatModel.weigh`: one token, and probabilities drawn by lot, always the same for the same request."""
        prompt = _prompt(request)
        self._must_fit(prompt, 1)
        async with self._turn(_call(request, samples=1)):
            call = _Recorded(self.name, 1)
            with call.until_ended(emit):
                await self._engine.generate(prompt, [1])
                call.usage = Usage(prompt, 1)
        source = random.Random(_key(self.name, request, 0) + request.messages[-1].content)
        weights = [source.random() for _ in labels]
        return {label: weight / sum(weights) for label, weight in zip(labels, weights, strict=True)}

    async def score(self, request: ChatRequest, answers: tuple[str, ...], emit: Emit = unheard) -> tuple[Score, ...]:
        """See `ChatModel.score`: each answer is read after the conversation, all in one batch, and one token written,
        as vLLM does it. Log-probabilities are drawn by lot, always the same for the same request and answer.
        """
        prompt, lengths = _prompt(request), [tokens_in(answer) for answer in answers]
        self._must_fit(prompt + max(lengths, default=0), 1)
        async with self._turn(_call(request, samples=len(answers))):
            call = _Recorded(self.name, len(answers))
            with call.until_ended(emit):
                read = [prompt + length for length in lengths if length]
                await together([self._engine.generate(size, [1]) for size in read])
                call.usage = Usage(sum(read), len(read))
        asked = _key(self.name, request, 0) + request.messages[-1].content + request.prefix
        means = [-random.Random(asked + answer).random() for answer in answers]
        return tuple(Score(mean * length, length) for mean, length in zip(means, lengths, strict=True))

    async def measure(self, request: ChatRequest) -> Room:
        """See `ChatModel.measure`; counting takes no time."""
        async with self._turn(_call(request, 0)):
            return Room(_prompt(request), self._limit)

    def expecting(self, request: ChatRequest) -> AbstractContextManager[None]:
        """See `ChatModel.expecting`."""
        return self._gate.expecting(_call(request))

    def _must_fit(self, prompt: int, wanted: int) -> None:
        if prompt + wanted > self._limit:
            raise ContextTooLong(
                f"{self.name}: a prompt of {prompt} tokens and an answer of {wanted} exceed its context of "
                f"{self._limit}",
                hint="Shorten the conversation or ask for fewer tokens.",
            )

    @asynccontextmanager
    async def _turn(self, call: Call) -> AsyncIterator[None]:
        """The call's turn at the gate; how long it waited is told to the engine's lane."""

        lane, began, waiting = self._engine.lane, _now(), True
        lane.queued.put(began, lane.queued.last + 1)
        try:
            async with self._gate.turn(call):  # nobody is there to be told what it waits for
                waiting = False
                lane.queued.put(_now(), lane.queued.last - 1)
                lane.waits.append(_now() - began)
                yield
        finally:
            if waiting:  # turned away, or cancelled
                lane.queued.put(_now(), lane.queued.last - 1)


class _Recorded:
    """A call in progress, recorded by one `CallEnded` however it ends."""

    def __init__(self, model: str, samples: int) -> None:
        self._model = model
        self._samples = samples
        self._began = _now()
        self.usage = Usage()
        self.record: CallRecord

    @contextmanager
    def until_ended(self, emit: Emit) -> Iterator[None]:
        error: str | None = None
        code: str | None = None
        try:
            yield
        except asyncio.CancelledError:
            error = code = "cancelled"
            raise
        except BaseException as failure:
            error, code = repr(failure), type(failure).__name__
            raise
        finally:
            seconds = _now() - self._began
            self.record = CallRecord("panel", self._model, self.usage, seconds, self._samples, error, code)
            emit(CallEnded(self.record))


def _prompt(request: ChatRequest) -> int:
    """How long the prompt is, in tokens, with what the answer begins with."""
    return tokens_of(request.messages) + tokens_in(request.prefix)


def _call(request: ChatRequest, samples: int | None = None) -> Call:
    return Call(request.request_id, request.samples if samples is None else samples, request.priority)


def _key(model: str, request: ChatRequest, index: int) -> str:
    """What tells one answer of a request from all others, whatever happens when: its seed differs by member."""
    return f"{model}/{request.sampling.seed}/{'json' if request.response_format else 'text'}/{index}"


def _text(request: ChatRequest, key: str, tokens: int) -> str:
    source = random.Random(key + request.messages[-1].content + request.prefix)
    return fits(request.response_format, source) if request.response_format else answer_of(tokens, source)


def _now() -> float:
    return asyncio.get_running_loop().time()
