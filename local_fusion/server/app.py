"""The endpoint: dialects, administration and what is the same for all of them, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local_fusion import __version__
from local_fusion.errors import LocalFusionError, MethodNotAllowed, NotFound
from local_fusion.runtime import Load, Runtime
from local_fusion.scheduler.scheduler import stopping
from local_fusion.server import sse
from local_fusion.server.admin import admin_routes
from local_fusion.server.anthropic.messages import messages_routes
from local_fusion.server.context import context_in, context_of
from local_fusion.server.door import Door
from local_fusion.server.errors import defect, error_response
from local_fusion.server.guard.access import Guard
from local_fusion.server.listing import model_routes
from local_fusion.server.logs import Logged
from local_fusion.server.mcp.mount import PATH as MCP_PATH
from local_fusion.server.mcp.mount import McpMount
from local_fusion.server.metrics import CLIENT_CLOSED_REQUEST, CONTENT_TYPE, Measured, Metrics
from local_fusion.server.openai.chat import chat_routes
from local_fusion.server.openai.responses.routes import responses_routes
from local_fusion.server.openapi import openapi_routes
from local_fusion.server.readiness import readiness
from local_fusion.server.reloading import Reloader, reload_routes
from local_fusion.server.service import Service
from local_fusion.server.sessions import SessionPaths, Sessions, session_routes
from local_fusion.server.telemetry import Telemetry, Traced


def create_app(
    runtime: Runtime,
    door: Door | None = None,
    telemetry: Telemetry | None = None,
    *,
    load: Load | None = None,
    tell: Callable[[str], None] | None = None,
) -> FastAPI:
    """The endpoint over a running `runtime`; whoever is to stop it gives the `door`, to close it before.

    `telemetry` hears of all requests and is closed with the app's lifespan. `load` reads the configuration again where
    there is a file of it, and `tell` hears what came of that.
    """
    service = Service(runtime, door or Door(runtime))
    metrics = Metrics(runtime)
    service.accounting.subscribe(metrics.called)
    sessions = Sessions()
    service.accounting.subscribe(sessions.hear)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.closing:
            yield

    # Requests are read raw, so what FastAPI would generate describes nothing; `openapi.py` has it.
    app = FastAPI(title="local-fusion", version=__version__, openapi_url=None, lifespan=lifespan)
    app.state.settings = lambda: runtime.config.server  # for whoever serves it: they may change
    app.add_middleware(Guard, access=service.access)
    app.add_middleware(RequestIds)
    app.add_middleware(Measured, metrics=metrics)
    app.add_middleware(Logged)
    if telemetry is not None:
        service.accounting.subscribe(telemetry.hear)
        service.closing.push_async_callback(asyncio.to_thread, telemetry.close)
        app.add_middleware(Traced, telemetry=telemetry)
    # Outermost: all others look at paths.
    app.add_middleware(SessionPaths, sessions=sessions)
    _handle_errors(app)
    app.state.reloader = Reloader(service, load, tell)
    app.include_router(chat_routes(service))  # first, because they are looked through in order
    app.include_router(reload_routes(service, app.state.reloader))
    app.include_router(admin_routes(runtime, service.door))
    app.include_router(messages_routes(service))
    app.include_router(model_routes(service))
    app.include_router(openapi_routes(service))
    app.include_router(responses_routes(service))
    app.include_router(session_routes(sessions))
    app.router.routes.append(Route(MCP_PATH, endpoint=McpMount(service), methods=["GET", "POST", "DELETE"]))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    @app.get("/ready")
    async def ready(request: Request) -> JSONResponse:
        state = readiness(runtime, stopping=service.door.closed)
        if not context_of(request).caller.admin:  # engines and their errors are no business of strangers
            state = {name: state[name] for name in ("ready", "reason")}
        return JSONResponse(state, status_code=200 if state["ready"] else 503)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

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
                failed = context.failed or (lambda error: sse.failure(error, context.dialect, context.request_id))
                told = failed(stopping())
                await send({"type": "http.response.body", "body": told, "more_body": False})
