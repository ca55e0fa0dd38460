"""An engine as a `ChatModel`."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, aclosing, contextmanager
from typing import Any

from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.events import CallEnded, Queued, TextDelta
from local_fusion.core.model import Choice, Emit, Reply, Room, unheard
from local_fusion.core.records import CallRecord, Usage
from local_fusion.engines.client import Chunk, EngineClient
from local_fusion.engines.engine import Engine
from local_fusion.engines.gate import Call, Gate, OpenGate
from local_fusion.errors import EngineDied, EngineRejected, LocalFusionError, RequestError


class EngineModel:
    """One engine, asked over its client. Every call waits for its turn at the `gate`, and until the engine is awake.

    Waiting is told by `Queued`, and not counted in `CallRecord.seconds`; `CallRecord.stage` is for the caller to set.
    """

    def __init__(self, engine: Engine, gate: Gate = OpenGate()) -> None:  # noqa: B008 - it has no state
        self._engine = engine
        self._gate = gate
        self._label_ids: dict[str, int] = {}

    @property
    def name(self) -> str:
        """See `ChatModel.name`."""
        return self._engine.name

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        """See `ChatModel.answer`: one streamed engine request for all samples."""
        payload = {**self._addressed(request), "n": request.samples, **request.sampling.set_fields()}
        if request.response_format is not None:
            payload["response_format"] = dict(request.response_format)
        async with self._turn(request, request.samples, emit):
            client = await self._engine.ensure_awake()
            call = _Call(self.name, request.samples)
            with call.recorded(emit):
                async with aclosing(client.chat_stream(payload)) as chunks:
                    async for chunk in chunks:
                        if delta := call.take(chunk):
                            emit(delta)
                choices = call.choices()
        return Reply(choices, (call.record,))

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> Mapping[str, float]:
        """See `ChatModel.weigh`. Sampling options and the response format have no part in it.

        Raises `RequestError` unless every label is one token of its own.
        """
        async with self._turn(request, 1, emit):
            client = await self._engine.ensure_awake()
            ids = [await self._label_id(client, label) for label in labels]
            if len(set(ids)) != len(ids) or not ids:
                raise RequestError(f"{self.name}: the labels {labels} are not told apart by their first token")
            one_token = {"max_tokens": 1, "temperature": 0, "logprobs": True, "logprob_token_ids": ids}
            call = _Call(self.name, 1)
            with call.recorded(emit):
                answer = await client.complete(
                    {**self._addressed(request), **one_token, "return_tokens_as_token_ids": True}
                )
                counts = answer["usage"]
                call.total = Usage(counts["prompt_tokens"], counts["completion_tokens"])
                logprobs = _logprobs(answer, ids, self.name)
        top = max(logprobs)
        weights = [math.exp(logprob - top) for logprob in logprobs]
        return {label: weight / sum(weights) for label, weight in zip(labels, weights, strict=True)}

    async def measure(self, request: ChatRequest) -> Room:
        """See `ChatModel.measure`: the engine's own count, chat template included. It takes no sequence of it."""
        async with self._turn(request, 0, unheard):
            client = await self._engine.ensure_awake()
            counted = await client.tokenize([_shaped(message) for message in request.messages])
        return Room(counted.count, counted.max_model_len)

    def expecting(self, request: ChatRequest) -> AbstractContextManager[None]:
        """See `ChatModel.expecting`."""
        return self._gate.expecting(_call(request, request.samples))

    def _turn(self, request: ChatRequest, samples: int, emit: Emit) -> AbstractAsyncContextManager[None]:
        def tell(ahead: int, reason: str) -> None:
            emit(Queued(self.name, ahead, reason))

        return self._gate.turn(_call(request, samples), tell)

    def _addressed(self, request: ChatRequest) -> dict[str, Any]:
        addressed: dict[str, Any] = {"model": self.name, "messages": [_shaped(message) for message in request.messages]}
        if request.request_id:
            # vLLM wants its ids to be unique; the first part finds the request again in its log.
            addressed["request_id"] = f"{request.request_id}-{uuid.uuid4().hex[:8]}"
        return addressed

    async def _label_id(self, client: EngineClient, label: str) -> int:
        if label not in self._label_ids:
            tokens = (await client.tokenize(label)).tokens
            if len(tokens) != 1:
                raise RequestError(f"{self.name}: the label {label!r} is {len(tokens)} tokens to this model, not one")
            self._label_ids[label] = tokens[0]
        return self._label_ids[label]


def _call(request: ChatRequest, samples: int) -> Call:
    return Call(request.request_id, samples, request.priority)


class _Call:
    """A call in progress: its text and usage so far, so that nothing is lost where it breaks off."""

    def __init__(self, model: str, samples: int) -> None:
        self._model = model
        self._samples = samples
        self._began = time.monotonic()
        self._texts = [""] * samples
        self._reasons: list[str | None] = [None] * samples
        self._written = [0] * samples
        self._read = 0
        self.total: Usage | None = None
        self.record: CallRecord

    def take(self, chunk: Chunk) -> TextDelta | None:
        if chunk.index is None:
            self.total = chunk.usage
            return None
        tokens = max(0, chunk.usage.completion_tokens - self._written[chunk.index])
        self._read = max(self._read, chunk.usage.prompt_tokens)
        self._written[chunk.index] += tokens
        self._texts[chunk.index] += chunk.text
        self._reasons[chunk.index] = chunk.finish_reason or self._reasons[chunk.index]
        return TextDelta(chunk.text, chunk.index, tokens) if chunk.text or tokens else None

    def choices(self) -> tuple[Choice, ...]:
        """All answers. Raises `EngineDied` where one of them was broken off."""
        choices = []
        for text, reason in zip(self._texts, self._reasons, strict=True):
            if reason is None or reason == "abort":
                raise EngineDied(f"{self._model} broke off in the middle of its answer")
            choices.append(Choice(text, reason))
        return tuple(choices)

    @contextmanager
    def recorded(self, emit: Emit) -> Iterator[None]:
        """Emit one `CallEnded` when the call is over, however it ends."""
        error: str | None = None
        try:
            yield
        except LocalFusionError as failure:
            error = failure.message
            raise
        except BaseException as failure:
            error = "cancelled" if isinstance(failure, asyncio.CancelledError) else repr(failure)
            raise
        finally:
            usage = self.total or Usage(self._read, sum(self._written))
            seconds = time.monotonic() - self._began
            self.record = CallRecord("panel", self._model, usage, seconds, self._samples, error)
            emit(CallEnded(self.record))


def _shaped(message: Message) -> dict[str, Any]:
    """The message as chat templates know it: few have heard of OpenAI's newer name for the system's role."""
    shaped = message.to_openai()
    return {**shaped, "role": "system"} if message.role == "developer" else shaped


def _logprobs(answer: Mapping[str, Any], ids: list[int], name: str) -> list[float]:
    """The log probability of each token of `ids` at the first position; vLLM adds the sampled one, which we skip."""
    try:
        top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        found = {entry["token"]: float(entry["logprob"]) for entry in top}
        return [found[f"token_id:{token}"] for token in ids]
    except (KeyError, IndexError, TypeError) as error:
        raise EngineRejected(f"{name} gave no log probabilities for the tokens asked for") from error
