"""Chat completions by fusions: the event stream rendered in OpenAI's shape, whole or chunk by chunk."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from local_fusion.core import events
from local_fusion.core.events import Answered, CallEnded, ChoiceEnded, TextDelta, origin
from local_fusion.core.model import Choice, Reply
from local_fusion.errors import RequestError
from local_fusion.server import sse
from local_fusion.server.context import context_of
from local_fusion.server.exchange import Exchange, calls_of
from local_fusion.server.openai.chat_schema import FusionChatRequest, parse_chat
from local_fusion.server.openrouter.asking import Asked, ask
from local_fusion.server.openrouter.schema import wished
from local_fusion.server.passthrough import pass_through
from local_fusion.server.renaming import renamed
from local_fusion.server.service import Service


def chat_routes(service: Service) -> APIRouter:
    """`/v1/chat/completions`, and what only engines answer."""
    routes = APIRouter()

    async def chat_completions(request: Request) -> Response:
        raw, body, name = await service.read(request)
        wish = wished(body)
        if wish is None and service.is_engine(name):
            if "fusion" in body:
                raise RequestError(f"'{name}' is an engine, 'fusion' is for fusions", param="fusion")
            return forwarded(request, raw, body, name)
        settings, context = service.runtime.config.server, context_of(request)
        asked = parse_chat(body, settings)
        put = ask(
            service,
            context,
            name,
            asked.to_request(context.request_id),
            wish,
            called=asked.model,
            options=asked.options(),
            about={"user": asked.user, "metadata": asked.metadata},
        )
        completion, exchange = ChatCompletion(asked, put), put.exchange
        if asked.stream:
            pause = completion.pause() if settings.keep_alive == "deltas" else None
            return sse.streamed(completion.chunks(), exchange, settings, end=sse.DONE, pause=pause)
        return JSONResponse(await sse.unless_gone(request.receive, completion.whole()))

    async def engines_only(request: Request) -> Response:
        raw, body, name = await service.read(request)
        if not service.is_engine(name):
            raise RequestError(
                f"'{name}' is a fusion: {request.url.path} is answered by engines only",
                param="model",
                hint=f"use one of {service.engines(context_of(request))}, or POST /v1/chat/completions",
            )
        return forwarded(request, raw, body, name)

    def forwarded(request: Request, raw: bytes, body: dict[str, Any], name: str) -> Response:
        """What a client calls by another name, the engine is asked for by its own."""
        raw = raw if body["model"] == name else renamed(raw, name)
        return pass_through(service, name, request, raw, body)

    # Plain routes: what FastAPI does around a handler of raw requests is for nothing, and costs a seventh of the whole.
    routes.add_route("/v1/chat/completions", chat_completions, methods=["POST"])
    routes.add_route("/v1/completions", engines_only, methods=["POST"])
    routes.add_route("/v1/embeddings", engines_only, methods=["POST"])
    return routes


@dataclass(slots=True)
class ChatCompletion:
    """The rendering of one exchange."""

    asked: FusionChatRequest
    put: Asked

    @property
    def exchange(self) -> Exchange:
        """The exchange that is rendered."""
        return self.put.exchange

    async def whole(self) -> dict[str, Any]:
        """The answer as one `chat.completion`.

        Raises what the fusion raises.
        """
        reply = await self.exchange.reply()
        return {
            **self._head("chat.completion"),
            "choices": [
                {
                    "index": index,
                    "message": self._message(choice),
                    "logprobs": None,
                    "finish_reason": choice.finish_reason,
                }
                for index, choice in enumerate(reply.choices)
            ],
            "usage": usage(reply),
            **self._tier(),
            "fusion": self.put.report(reply),
        }

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The answer as server-sent events: the first at once, then what the client is to see of the events.

        Raises what the fusion raises.
        """
        first = {"role": "assistant", "content": ""}
        yield self._chunk([_delta(first, index=index) for index in range(self.exchange.request.samples)])
        with_events = self.exchange.options.events
        whole: set[int] = set()
        async with aclosing(self.exchange.events()) as happening:
            async for event in happening:
                match event:
                    case TextDelta(text, index, reasoning=reasoning):
                        if reasoning and self.asked.tells_thoughts:
                            yield self._chunk([_delta(_thoughts(reasoning), index=index)])
                        if text:
                            yield self._chunk([_delta({"content": text}, index=index)])
                    case ChoiceEnded(index):
                        whole.add(index)
                    case Answered(reply):
                        for chunk in self._ending(reply, whole):
                            yield chunk
                        if self.asked.wants_usage:
                            yield self._chunk([], usage=usage(reply))
                    case CallEnded():
                        pass  # counted in usage
                    case _ if with_events and not isinstance(origin(event)[1], ChoiceEnded):
                        yield self._chunk([], fusion={"event": events.to_json(event)})

    def pause(self) -> bytes:
        """A chunk that says nothing, for clients whose idle timers do not see comments."""
        return self._chunk([_delta({"content": ""})])

    def _ending(self, reply: Reply, whole: set[int]) -> Iterator[bytes]:
        """Tool calls, one a chunk because some clients read no more of it, and why each answer ended.

        Of several answers some may have failed: those in `whole` are there.
        """
        indexes = sorted(whole) if len(whole) == len(reply.choices) else range(len(reply.choices))
        reasons = dict.fromkeys(range(self.exchange.request.samples), "error")  # vLLM's word for it
        for index, choice in zip(indexes, reply.choices, strict=True):
            reasons[index] = choice.finish_reason
            for number, call in enumerate(choice.tool_calls):
                yield self._chunk([_delta({"tool_calls": [{"index": number, **call.to_openai()}]}, index=index)])
        last = [_delta({}, index=index, finish_reason=reason) for index, reason in reasons.items()]
        yield self._chunk(last, fusion=self.put.report(reply), **self._tier())

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        # Where a stream ends with its usage, every chunk before has the field, too.
        usage = {"usage": None} if self.asked.wants_usage else {}
        return sse.data({**self._head("chat.completion.chunk"), "choices": choices, **usage, **more})

    def _tier(self) -> dict[str, str]:
        """Which of OpenAI's tiers the request was served in, for who asked for one: there are two kinds here."""
        if self.asked.service_tier is None:
            return {}
        return {"service_tier": "flex" if self.exchange.request.priority == "batch" else "default"}

    def _message(self, choice: Choice) -> dict[str, Any]:
        """A whole answer."""
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.reasoning and self.asked.tells_thoughts:
            message |= _thoughts(choice.reasoning)
        if choice.tool_calls:
            message["content"] = choice.text or None
            message["tool_calls"] = [call.to_openai() for call in choice.tool_calls]
        return message

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.exchange.request.request_id}",
            "object": kind,
            "created": self.exchange.created,
            "model": self.exchange.called,
            "system_fingerprint": None,  # OpenRouter's own client insists on the field
        }


def _thoughts(reasoning: str) -> dict[str, str]:
    """What was thought before the answer, by vLLM's name for it and by DeepSeek's, which chat pages read."""
    return {"reasoning": reasoning, "reasoning_content": reasoning}


def _delta(delta: dict[str, Any], *, index: int = 0, finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def usage(reply: Reply) -> dict[str, Any]:
    """OpenAI's usage: the honest total over all calls, and under `fusion` each call's share of it."""
    total = reply.usage
    return {
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.completion_tokens,
        "total_tokens": total.total_tokens,
        "fusion": {"calls": calls_of(reply)},
    }
