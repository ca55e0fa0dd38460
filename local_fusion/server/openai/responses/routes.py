"""`/v1/responses`: for fusions and engines alike, and what was kept of them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from local_fusion.config.server import ResponsesConfig
from local_fusion.errors import LocalFusionError, NotFound, RequestError, SetupError, TooLarge, UnknownResponse
from local_fusion.server import sse
from local_fusion.server.context import Context, context_of
from local_fusion.server.guard.bounds import refuse_many_messages
from local_fusion.server.media import check_media_url
from local_fusion.server.openai.responses.conversation import Conversation
from local_fusion.server.openai.responses.items import REFERENCE, Item, read_items
from local_fusion.server.openai.responses.progress import FusionCall
from local_fusion.server.openai.responses.rendering import Rendering
from local_fusion.server.openai.responses.schema import ResponsesRequest, check_include, parse_responses
from local_fusion.server.openai.responses.store import Limits, Store, state_folder
from local_fusion.server.openai.responses.streaming import ResponseStream
from local_fusion.server.openrouter.asking import ask
from local_fusion.server.openrouter.schema import wished
from local_fusion.server.service import Service

logger = logging.getLogger(__name__)

_DAY = 24 * 60 * 60
_MOST_LISTED = 100


def responses_routes(service: Service) -> APIRouter:
    """Asking, and fetching, listing and deleting what was kept."""
    routes = APIRouter()
    kept = Kept(service)

    async def read(context: Context, asked: ResponsesRequest) -> tuple[list[Item], Conversation]:
        """The items of the input, and the conversation that they go on."""
        settings = service.runtime.config.server
        if isinstance(asked.input, list):
            refuse_many_messages(len(asked.input), settings)  # before each of them is looked at
        items = read_items(
            asked.input, f"{context.request_id}_in", lambda url, path: check_media_url(url, path, settings)
        )
        before = await kept.before(context, asked)
        items = await kept.resolved(context, items)
        return items, Conversation.of(asked.instructions, before, items)

    @routes.post("/v1/responses")
    async def create(request: Request) -> Response:
        _, body, name = await service.read(request)
        asked, wish, context = parse_responses(body), wished(body), context_of(request)
        settings = service.runtime.config.server
        items, conversation = await read(context, asked)
        try:
            found = ask(
                service,
                context,
                name,
                asked.to_request(tuple(conversation.messages), context.request_id),
                wish,
                called=asked.model,
                options=asked.options(),
                about={"user": asked.user, "metadata": asked.metadata},
            )
        except LocalFusionError as error:
            conversation.in_terms_of_items(error)
            raise
        exchange = found.exchange
        shown = found.result if wish is not None and wish.enabled else None
        rendering = Rendering(asked, exchange, kept.keeps(asked), shown)
        keep = kept.keeper(context, items)
        if asked.stream:
            source = () if found.panel is None else (found.panel,)
            alone = not source and service.is_engine(exchange.model.name)
            stream = ResponseStream(rendering, keep, None if alone else FusionCall(called=found.called, source=source))
            return sse.streamed(
                stream.pieces(),
                exchange,
                settings,
                failed=lambda error: stream.failed(conversation.in_terms_of_items(error)),
            )

        async def whole() -> dict[str, Any]:
            try:
                response = await rendering.whole()
            except LocalFusionError as error:
                conversation.in_terms_of_items(error)
                raise
            await keep(response)
            return response

        return JSONResponse(await sse.unless_gone(request.receive, whole()))

    @routes.post("/v1/responses/input_tokens")
    async def input_tokens(request: Request) -> dict[str, Any]:
        _, body, name = await service.read(request)
        asked, context = parse_responses(body), context_of(request)
        _, conversation = await read(context, asked)
        service.door.check()
        counted = asked.to_request(tuple(conversation.messages), context.request_id)
        refuse_many_messages(len(counted.messages), service.runtime.config.server)
        room = await sse.unless_gone(request.receive, service.runtime.model(name).measure(counted))
        return {"object": "response.input_tokens", "input_tokens": room.tokens}

    @routes.get("/v1/responses/{name}")
    async def retrieve(request: Request, name: str) -> JSONResponse:
        _check_query(request)
        if request.query_params.get("stream", "false").lower() not in ("false", "0"):
            raise RequestError("a stored response is not streamed again: fetch it whole", param="stream")
        return JSONResponse(await kept.get(context_of(request), name))

    @routes.delete("/v1/responses/{name}")
    async def delete(request: Request, name: str) -> dict[str, Any]:
        if not await kept.store().delete(context_of(request).caller.name, name):
            raise _not_there(name)
        return {"id": name, "object": "response", "deleted": True}

    @routes.post("/v1/responses/{name}/cancel")
    async def cancel(request: Request, name: str) -> JSONResponse:
        await kept.get(context_of(request), name)
        raise RequestError(
            f"'{name}' was not made in the background: it is over", hint="close the connection to end one that is not"
        )

    @routes.get("/v1/responses/{name}/input_items")
    async def input_items(request: Request, name: str) -> dict[str, Any]:
        _check_query(request)
        caller = context_of(request).caller.name
        items = await kept.store().conversation(caller, name, with_output=False)
        if items is None:
            raise _not_there(name)
        return _page(items, request)

    return routes


@dataclass(frozen=True, slots=True)
class Kept:
    """The store, as the configuration has it at the time of each request."""

    service: Service

    @property
    def settings(self) -> ResponsesConfig:
        """What is kept, and how much."""
        return self.service.runtime.config.server.responses

    def store(self) -> Store:
        """The store.

        Raises `SetupError` where there is no place for one.
        """
        return Store(state_folder() / "responses.sqlite")

    def keeps(self, asked: ResponsesRequest) -> bool:
        """Whether the answer is to be kept.

        Raises `RequestError` where the request wants it, and this server keeps none.
        """
        if asked.store and not self.settings.store:
            raise RequestError(
                "this server keeps no responses", param="store", hint="leave it out, or set server.responses.store"
            )
        return asked.store is not False and self.settings.store

    def keeper(self, context: Context, items: list[Item]) -> Callable[[dict[str, Any]], Awaitable[None]]:
        """What keeps the response to `items`, if it is to be kept; one that could not be kept says so.

        The answer is there, and reaches its client although the disk is full.
        """

        async def keep(response: dict[str, Any]) -> None:
            if not response["store"]:
                return
            limits = Limits(self.settings.keep_days * _DAY, self.settings.max_bytes)
            try:
                await self.store().put(context.caller.name, response, items, limits)
            except (SetupError, TooLarge) as error:
                logger.warning("%s is not kept: %s", response["id"], error.message)
                response["store"] = False

        return keep

    async def get(self, context: Context, name: str) -> dict[str, Any]:
        """A response that was kept.

        Raises `NotFound`, also for one that is another caller's.
        """
        found = await self.store().get(context.caller.name, name)
        if found is None:
            raise _not_there(name)
        return found

    async def before(self, context: Context, asked: ResponsesRequest) -> list[Item]:
        """What was said up to the response that this one goes on from.

        Raises `UnknownResponse`, and `TooLarge` for more than one request may carry.
        """
        name = asked.previous_response_id
        if name is None:
            return []
        most = self.service.runtime.config.server.max_body_bytes
        found = await self.store().conversation(context.caller.name, name, most)
        if found is None:
            raise UnknownResponse(
                f"there is no response '{name[:80]}', or not all that it goes on from any more",
                param="previous_response_id",
                hint="send the whole conversation as input",
            )
        return found

    async def resolved(self, context: Context, items: list[Item]) -> list[Item]:
        """The items, with those that were referred to in their places.

        Raises `RequestError` for references to what is not there, and `TooLarge` for more than one request may carry.
        """
        names = [item["id"] for item in items if item["type"] == REFERENCE]
        if not names:
            return items
        most = self.service.runtime.config.server.max_body_bytes
        known = await self.store().items(context.caller.name, names, most)
        found = []
        for number, item in enumerate(items):
            if item["type"] == REFERENCE:
                if item["id"] not in known:
                    path = f"input[{number}].id"
                    raise RequestError(
                        f"'{path}': there is no item '{item['id'][:80]}' (any more)", param=path, hint="send it whole"
                    )
                item = known[item["id"]]
            found.append(item)
        return found


def _not_there(name: str) -> NotFound:
    return NotFound(f"there is no response '{name[:80]}' (any more)", hint="responses are kept unless store is false")


def _check_query(request: Request) -> None:
    """Raises `RequestError` for what is to be included and never is."""
    query = request.query_params
    check_include([*query.getlist("include"), *query.getlist("include[]")])


def _page(items: list[Item], request: Request) -> dict[str, Any]:
    """A part of `items`, newest first unless asked otherwise.

    Raises `RequestError` for a limit, an order or a place to go on from that is none.
    """
    query = request.query_params
    order, after, limit = query.get("order", "desc"), query.get("after"), query.get("limit", "20")
    if order not in ("asc", "desc"):
        raise RequestError(f"'order' is asc or desc, not {order[:80]!r}", param="order")
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= _MOST_LISTED:
        raise RequestError(f"'limit' is a number from 1 to {_MOST_LISTED}, not {limit[:80]!r}", param="limit")
    listed = items if order == "asc" else items[::-1]
    if after is not None:
        at = next((place for place, item in enumerate(listed) if item["id"] == after), None)
        if at is None:
            raise RequestError(f"'after' is {after[:80]!r}, which is none of these items", param="after")
        listed = listed[at + 1 :]
    page = listed[: int(limit)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(listed) > len(page),
    }
