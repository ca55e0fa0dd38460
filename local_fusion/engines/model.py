"""An engine as a `ChatModel`."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, aclosing
from typing import Any

from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.events import Queued
from local_fusion.core.model import Emit, Reply, Room, Score, unheard
from local_fusion.core.records import Certainty, Usage
from local_fusion.engines.answering import CallInProgress
from local_fusion.engines.client import EngineClient
from local_fusion.engines.engine import Engine
from local_fusion.engines.gate import Call, Gate, OpenGate
from local_fusion.engines.scoring import scored
from local_fusion.errors import EngineRejected, RequestError, TakesNoImages

_ALWAYS_ROOM = 64  # tokens of an answer, for which room need not be looked for
_UNCOUNTED = 32  # tokens that templates add by what is asked of the answer, its reasoning effort among them


class EngineModel:
    """One engine, asked over its client. Every call waits for its turn at the `gate`, and until the engine is awake.

    Waiting is told by `Queued`, and not counted in `CallRecord.seconds`; `CallRecord.stage` is for the caller to set.
    """

    def __init__(
        self,
        engine: Engine,
        gate: Gate = OpenGate(),  # noqa: B008 - it has no state
        *,
        takes_images: bool = False,
    ) -> None:
        self._engine = engine
        self._gate = gate
        self._takes_images = takes_images
        self._label_ids: dict[str, int] = {}
        self._counted_by: EngineClient | None = None

    @property
    def name(self) -> str:
        """See `ChatModel.name`."""
        return self._engine.name

    @property
    def takes_images(self) -> bool:
        """See `ChatModel.takes_images`."""
        return self._takes_images

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        """See `ChatModel.answer`: one streamed engine request for all samples.

        Raises `RequestError` for a prefix together with a response format: vLLM would hold the rest alone to it, and
        `TakesNoImages`.
        """
        if request.prefix and request.response_format is not None:
            raise RequestError("an answer that was begun cannot be held to a format", param="response_format")
        payload = {
            **self._addressed(request),
            "n": request.samples,
            **request.sampling.set_fields(),
            **_extras(request),
        }
        async with self._turn(request, request.samples, emit):
            client = await self._engine.ensure_awake()
            payload |= await self._within_context(client, request)
            call = CallInProgress(self.name, request.samples)
            with call.recorded(emit):
                async with aclosing(client.chat_stream(payload)) as chunks:
                    async for chunk in chunks:
                        for event in call.take(chunk):
                            emit(event)
                choices = call.choices()
        return Reply(choices, (call.record,))

    async def _within_context(self, client: EngineClient, request: ChatRequest) -> dict[str, int]:
        """A smaller `max_tokens`, where `up_to_context` asks for it: vLLM refuses what may not fit beside the prompt.

        A prompt that leaves no room is for the engine to refuse.
        """
        wanted = request.sampling.max_tokens
        if not request.up_to_context or wanted is None or wanted <= _ALWAYS_ROOM:
            return {}
        counted = await client.tokenize(self._conversation(request))
        left = counted.max_model_len - counted.count - _UNCOUNTED
        return {"max_tokens": left} if 0 < left < wanted else {}

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> Mapping[str, float]:
        """See `ChatModel.weigh`. Sampling options and the response format have no part in it; no tools are called.

        Raises `RequestError` unless every label is one token of its own.
        """
        async with self._turn(request, 1, emit):
            client = await self._engine.ensure_awake()
            ids = [await self._label_id(client, label) for label in labels]
            if len(set(ids)) != len(ids) or not ids:
                raise RequestError(f"{self.name}: the labels {labels} are not told apart by their first token")
            one_token = {"max_tokens": 1, "temperature": 0, "logprobs": True, "logprob_token_ids": ids}
            one_token |= {"return_tokens_as_token_ids": True, "tool_choice": "none"}
            call = CallInProgress(self.name, 1)
            with call.recorded(emit):
                answer = await client.complete({**self._addressed(request), **one_token})
                counts = answer["usage"]
                call.total = Usage(counts["prompt_tokens"], counts["completion_tokens"])
                logprobs = _logprobs(answer, ids, self.name)
        top = max(logprobs)
        weights = [math.exp(logprob - top) for logprob in logprobs]
        return {label: weight / sum(weights) for label, weight in zip(labels, weights, strict=True)}

    async def score(self, request: ChatRequest, answers: tuple[str, ...], emit: Emit = unheard) -> tuple[Score, ...]:
        """See `ChatModel.score`. Sampling options and the response format have no part in it."""
        async with self._turn(request, len(answers), emit):
            client = await self._engine.ensure_awake()
            call = CallInProgress(self.name, len(answers))
            with call.recorded(emit):
                return await scored(client, self._conversation(request), answers, call, **_request_id(request))

    async def measure(self, request: ChatRequest) -> Room:
        """See `ChatModel.measure`: the engine's own count, chat template included. It takes no sequence of it."""
        async with self._turn(request, 0, unheard):
            client = await self._engine.ensure_awake()
            counted = await client.tokenize({**self._conversation(request), **_template_options(request)})
        return Room(counted.count, counted.max_model_len)

    def expecting(self, request: ChatRequest) -> AbstractContextManager[None]:
        """See `ChatModel.expecting`."""
        return self._gate.expecting(_call(request, request.samples))

    def _turn(self, request: ChatRequest, samples: int, emit: Emit) -> AbstractAsyncContextManager[None]:
        def tell(ahead: int, reason: str) -> None:
            emit(Queued(self.name, ahead, reason))

        return self._gate.turn(_call(request, samples), tell)

    def _addressed(self, request: ChatRequest) -> dict[str, Any]:
        return {"model": self.name, **self._conversation(request), **_request_id(request)}

    def _conversation(self, request: ChatRequest) -> dict[str, Any]:
        """What the chat template makes the prompt of: messages, tools, and the beginning of the answer."""
        messages = request.messages
        if not self._takes_images and (where := request.image_at) is not None:
            if not request.described:
                raise TakesNoImages(
                    f"{self.name} takes no images", param=where, hint="ask a model that does, or leave them out"
                )
            messages = tuple(message.without_images() for message in messages)
        shaped = [_shaped(message) for message in messages]
        conversation: dict[str, Any] = {"messages": shaped}
        if request.tools:
            conversation["tools"] = [dict(tool) for tool in request.tools]
        if request.prefix:
            shaped.append({"role": "assistant", "content": request.prefix})
            conversation |= {"continue_final_message": True, "add_generation_prompt": False}
        return conversation

    async def _label_id(self, client: EngineClient, label: str) -> int:
        if client is not self._counted_by:  # another process, which may be of another model
            self._counted_by, self._label_ids = client, {}
        if label not in self._label_ids:
            tokens = (await client.tokenize(label)).tokens
            if len(tokens) != 1:
                raise RequestError(f"{self.name}: the label {label!r} is {len(tokens)} tokens to this model, not one")
            self._label_ids[label] = tokens[0]
        return self._label_ids[label]


def _call(request: ChatRequest, samples: int) -> Call:
    return Call(request.request_id, samples, request.priority)


def _template_options(request: ChatRequest) -> dict[str, Any]:
    """What vLLM makes of a reasoning effort for the chat template, which it does not do where it only counts tokens."""
    effort = request.reasoning_effort
    if effort is None:
        return {}
    return {"chat_template_kwargs": {"reasoning_effort": effort, "enable_thinking": effort != "none"}}


def _extras(request: ChatRequest) -> dict[str, Any]:
    """What is asked of the answer beside sampling."""
    extras: dict[str, Any] = {}
    if request.response_format is not None:
        extras["response_format"] = dict(request.response_format)
    if request.tool_choice is not None:
        extras["tool_choice"] = (
            request.tool_choice if isinstance(request.tool_choice, str) else dict(request.tool_choice)
        )
    if request.parallel_tool_calls is not None:
        extras["parallel_tool_calls"] = request.parallel_tool_calls
    if request.reasoning_effort is not None:
        extras["reasoning_effort"] = request.reasoning_effort
    if request.certainty:
        extras |= {"logprobs": True, "top_logprobs": Certainty.TOP}
    return extras


def _request_id(request: ChatRequest) -> dict[str, str]:
    # vLLM wants its ids to be unique; the first part finds the request again in its log.
    return {"request_id": f"{request.request_id}-{uuid.uuid4().hex[:8]}"} if request.request_id else {}


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
