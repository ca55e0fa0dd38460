"""`/v1/messages`, and how long such a request is."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from local_fusion.errors import LocalFusionError, RequestError
from local_fusion.server import sse
from local_fusion.server.anthropic.blocks import CheckImage
from local_fusion.server.anthropic.rendering import PING, Rendered
from local_fusion.server.anthropic.schema import parse_countable, parse_messages
from local_fusion.server.context import context_of
from local_fusion.server.guard.bounds import refuse_many_messages
from local_fusion.server.media import check_media_url
from local_fusion.server.service import Service


def messages_routes(service: Service) -> APIRouter:
    """Anthropic's Messages, answered by fusions and engines alike. `?beta=true` and the headers that name betas change
    nothing: what of a beta is not taken is a field of the request.
    """
    routes = APIRouter()

    def checking() -> CheckImage:
        settings = service.runtime.config.server
        return lambda url, param: check_media_url(url, param, settings)

    @routes.post("/v1/messages")
    async def messages(request: Request) -> Response:
        _, body, name = await service.read(request)
        context = context_of(request)
        fields, asked = parse_messages(body, context.request_id, checking())
        if asked.chat.prefix and not service.is_engine(name):
            raise RequestError(
                f"'{name}' is a fusion, which cannot go on with an answer that was begun",
                param="messages",
                hint="end with a user's message, or ask one of " + service.engines(context),
            )
        about = {"user": fields.metadata.user_id if fields.metadata else None}
        exchange = service.exchange(
            context, name, asked.chat, called=fields.model, options=fields.options(), about=about
        )
        rendered = Rendered(asked, exchange)
        if not fields.stream:
            return JSONResponse(await sse.unless_gone(request.receive, rendered.whole()))

        def failed(error: LocalFusionError) -> bytes:
            return sse.failure(error, "anthropic", context.request_id)

        settings = service.runtime.config.server
        return sse.streamed(rendered.pieces(), exchange, settings, pause=PING, failed=failed)

    @routes.post("/v1/messages/count_tokens")
    async def count_tokens(request: Request) -> Response:
        _, body, name = await service.read(request)
        _, asked = parse_countable(body, context_of(request).request_id, checking())
        refuse_many_messages(len(asked.chat.messages), service.runtime.config.server)
        service.door.check()
        room = await sse.unless_gone(request.receive, service.runtime.model(name).measure(asked.chat))
        return JSONResponse({"input_tokens": room.tokens})

    return routes
