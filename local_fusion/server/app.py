"""The endpoint: dialects, administration and what is the same for all of them, put together."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local_fusion import __version__
from local_fusion.errors import LocalFusionError, MethodNotAllowed, NotFound
from local_fusion.runtime import Runtime
from local_fusion.scheduler.scheduler import stopping
from local_fusion.server import listing, sse
from local_fusion.server.admin import admin_routes
from local_fusion.server.context import context_in, context_of
from local_fusion.server.door import Door
from local_fusion.server.errors import defect, error_response
from local_fusion.server.metrics import CLIENT_CLOSED_REQUEST, CONTENT_TYPE, Measured, Metrics
from local_fusion.server.openai.chat import chat_routes
from local_fusion.server.readiness import readiness
from local_fusion.server.service import Service


def create_app(runtime: Runtime, door: Door | None = None) -> FastAPI:
    """The endpoint over a running `runtime`; whoever is to stop it gives the `door`, to close it before."""
    service = Service(runtime, door or Door(runtime))
    metrics = Metrics(runtime)
    # No schema routes: requests are read raw, so generated documentation would describe nothing.
    app = FastAPI(title="local-fusion", version=__version__, openapi_url=None)
    app.add_middleware(RequestIds)
    app.add_middleware(Measured, metrics=metrics)
    _handle_errors(app)
    app.include_router(admin_routes(runtime, service.door))
    app.include_router(chat_routes(service))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        state = readiness(runtime, stopping=service.door.closed)
        return JSONResponse(state, status_code=200 if state["ready"] else 503)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": listing.models(runtime)}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        runtime.model(name)  # raises UnknownModel with the nearest name
        return next(entry for entry in listing.models(runtime) if entry["id"] == name)

    return app


def _handle_errors(app: FastAPI) -> None:
    """Whatever is raised is answered in one shape."""

    @app.exception_handler(LocalFusionError)
    async def _ours(request: Request, error: LocalFusionError) -> JSONResponse:
        return error_response(error, context_of(request))

    @app.exception_handler(HTTPException)
    async def _routing(request: Request, error: HTTPException) -> JSONResponse:
        kind = MethodNotAllowed if error.status_code == 405 else NotFound
        response = error_response(kind(f"{request.method} {request.url.path}: {error.detail}"), context_of(request))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(sse.ClientGone)
    async def _gone(_: Request, __: sse.ClientGone) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    @app.exception_handler(ClientDisconnect)
    async def _gone_while_sending(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> JSONResponse:
        context = context_of(request)
        return error_response(defect(error, context.request_id), context)


class RequestIds:
    """Gives every request an id: in its context, in the `X-Request-Id` response header, in traces.

    What the server gives up waiting for as it ends is told so: as a whole answer, or as a stream's last event.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context = context_in(scope)
        header = b"request-id" if context.dialect == "anthropic" else b"x-request-id"
        begun = streaming = False

        async def send_with_id(message: Message) -> None:
            nonlocal begun, streaming
            if message["type"] == "http.response.start":
                begun, headers = True, dict(message.get("headers", []))
                streaming = headers.get(b"content-type", b"").startswith(b"text/event-stream")
                message["headers"] = [*message.get("headers", []), (header, context.request_id.encode())]
            elif not message.get("more_body", False):
                streaming = False
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            if not begun:
                await error_response(stopping(), context)(scope, receive, send_with_id)
            elif streaming:
                told = sse.failure(stopping(), context.dialect, context.request_id)
                await send({"type": "http.response.body", "body": told, "more_body": False})
