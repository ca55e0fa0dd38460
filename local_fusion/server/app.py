"""The routes. Each finds out who is asked, hands over, and renders what comes back."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local_fusion import __version__
from local_fusion.config.limits import refuse_too_much
from local_fusion.config.loading import override_fusion
from local_fusion.config.references import engines_of, named_by
from local_fusion.errors import LocalFusionError, MethodNotAllowed, NotFound, RequestError
from local_fusion.runtime import Runtime
from local_fusion.scheduler.scheduler import stopping
from local_fusion.server import listing, sse
from local_fusion.server.admin import admin_routes
from local_fusion.server.bodies import model_name, read_json
from local_fusion.server.chat import Exchange
from local_fusion.server.chat_schema import parse_chat
from local_fusion.server.door import Door
from local_fusion.server.errors import defect, error_body, error_response
from local_fusion.server.metrics import CLIENT_CLOSED_REQUEST, CONTENT_TYPE, Measured, Metrics
from local_fusion.server.passthrough import pass_through
from local_fusion.server.readiness import readiness


def create_app(runtime: Runtime, door: Door | None = None) -> FastAPI:
    """The endpoint over a running `runtime`; whoever is to stop it gives the `door`, to close it before."""
    door = door or Door(runtime)
    metrics = Metrics(runtime)
    stall = runtime.config.server.stall_seconds
    # No schema routes: requests are read raw, so generated documentation would describe nothing.
    app = FastAPI(title="local-fusion", version=__version__, openapi_url=None)
    app.add_middleware(RequestIds)
    app.add_middleware(Measured, metrics=metrics)
    _handle_errors(app)
    app.include_router(admin_routes(runtime, door))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        state = readiness(runtime, stopping=door.closed)
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

    async def read(request: Request) -> tuple[bytes, dict[str, Any], str]:
        """The body as sent and as JSON, and who is asked, who is there to be asked."""
        request.state.model = ""
        raw, body = await read_json(request, runtime.config.server.max_body_bytes)
        name = model_name(body)
        runtime.model(name)
        request.state.model = name  # counted under their names are only those that exist
        return raw, body, name

    def to_engine(name: str, request: Request, raw: bytes, body: dict[str, Any]) -> Response:
        response = pass_through(
            runtime.engines[name], runtime.scheduler.gate(name), request, raw, body, stall_seconds=stall
        )
        door.admit([name])
        return response

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        raw, body, name = await read(request)
        if name in runtime.engines:
            if "fusion" in body:
                raise RequestError(f"'{name}' is an engine, 'fusion' is for fusions", param="fusion")
            return to_engine(name, request, raw, body)
        asked = parse_chat(body)
        chosen, fusion = runtime.model(name), runtime.config.fusions[name]
        if overrides := asked.overrides():
            fusion = override_fusion(runtime.config, name, overrides)
            chosen = runtime.fusion(name, fusion)
        refuse_too_much(runtime.config, name, fusion, asked.n or 1)
        door.admit({engine for _, inner in named_by(fusion) for engine in engines_of(runtime.config, inner)})
        exchange = Exchange(chosen, asked, asked.to_request(request.state.request_id))
        if asked.stream:
            seconds = runtime.config.server.keep_alive_seconds
            return sse.StreamedResponse(lambda: exchange.chunks(seconds), headers=sse.HEADERS, stall_seconds=stall)
        return JSONResponse(await sse.unless_gone(request.receive, exchange.whole()))

    async def engines_only(request: Request) -> Response:
        raw, body, name = await read(request)
        if name not in runtime.engines:
            raise RequestError(
                f"'{name}' is a fusion: {request.url.path} is answered by engines only",
                param="model",
                hint=f"use one of {', '.join(runtime.engines)}, or POST /v1/chat/completions",
            )
        return to_engine(name, request, raw, body)

    app.add_api_route("/v1/completions", engines_only, methods=["POST"])
    app.add_api_route("/v1/embeddings", engines_only, methods=["POST"])
    return app


def _handle_errors(app: FastAPI) -> None:
    """Whatever is raised is answered in one shape."""

    @app.exception_handler(LocalFusionError)
    async def _ours(_: Request, error: LocalFusionError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def _routing(request: Request, error: HTTPException) -> JSONResponse:
        kind = MethodNotAllowed if error.status_code == 405 else NotFound
        response = error_response(kind(f"{request.method} {request.url.path}: {error.detail}"))
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
        return error_response(defect(error, request.state.request_id))


class RequestIds:
    """Gives every request an id: in `request.state`, in the `X-Request-Id` response header, in traces.

    What the server gives up waiting for as it ends is told so: as a whole answer, or as a stream's last event.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = secrets.token_hex(12)
        scope.setdefault("state", {})["request_id"] = request_id
        begun = streaming = False

        async def send_with_id(message: Message) -> None:
            nonlocal begun, streaming
            if message["type"] == "http.response.start":
                begun, headers = True, dict(message.get("headers", []))
                streaming = headers.get(b"content-type", b"").startswith(b"text/event-stream")
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            elif not message.get("more_body", False):
                streaming = False
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            if not begun:
                await error_response(stopping())(scope, receive, send_with_id)
            elif streaming:
                told = sse.data(error_body(stopping())) + sse.DONE
                await send({"type": "http.response.body", "body": told, "more_body": False})
