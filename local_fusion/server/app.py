"""The routes. Each finds out who is asked, hands over, and renders what comes back."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local_fusion import __version__
from local_fusion.config.loading import override_fusion
from local_fusion.errors import EngineUnavailable, LocalFusionError, MethodNotAllowed, NotFound, RequestError, TooLarge
from local_fusion.runtime import Runtime
from local_fusion.server import listing, sse
from local_fusion.server.chat import Exchange
from local_fusion.server.chat_schema import parse_chat
from local_fusion.server.errors import defect, error_response
from local_fusion.server.passthrough import pass_through

CLIENT_CLOSED_REQUEST = 499  # nginx's code: nobody reads it, but logs do


def create_app(runtime: Runtime) -> FastAPI:
    """The endpoint over a running `runtime`."""
    # No schema routes: requests are read raw, so generated documentation would describe nothing.
    app = FastAPI(title="local-fusion", version=__version__, openapi_url=None)
    app.add_middleware(RequestIds)

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

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        state = listing.readiness(runtime)
        return JSONResponse(state, status_code=200 if state["ready"] else 503)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": listing.models(runtime)}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        runtime.model(name)  # raises UnknownModel with the nearest name
        return next(entry for entry in listing.models(runtime) if entry["id"] == name)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        raw, body = await _read(request)
        name = _model_name(body)
        if name in runtime.engines:
            if "fusion" in body:
                raise RequestError(f"'{name}' is an engine, 'fusion' is for fusions", param="fusion")
            return await pass_through(runtime.engines[name], request, raw)
        runtime.model(name)
        asked = parse_chat(body)
        overrides = asked.overrides()
        chosen = runtime.fusion(name, override_fusion(runtime.config, name, overrides)) if overrides else None
        exchange = Exchange(chosen or runtime.model(name), asked, asked.to_request(request.state.request_id))
        if asked.stream:
            seconds = runtime.config.server.keep_alive_seconds
            return sse.StreamedResponse(lambda: exchange.chunks(seconds), headers=sse.HEADERS)
        return JSONResponse(await sse.unless_gone(request.receive, exchange.whole()))

    async def engines_only(request: Request) -> Response:
        raw, body = await _read(request)
        name = _model_name(body)
        if name not in runtime.engines:
            runtime.model(name)
            raise RequestError(
                f"'{name}' is a fusion: {request.url.path} is answered by engines only",
                param="model",
                hint=f"use one of {', '.join(runtime.engines)}, or POST /v1/chat/completions",
            )
        return await pass_through(runtime.engines[name], request, raw)

    app.add_api_route("/v1/completions", engines_only, methods=["POST"])
    app.add_api_route("/v1/embeddings", engines_only, methods=["POST"])

    async def _read(request: Request) -> tuple[bytes, dict[str, Any]]:
        """The body as sent and as JSON.

        Raises `TooLarge` and `RequestError`.
        """
        most = runtime.config.server.max_body_bytes
        chunks, size = [], 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                raise TooLarge(f"the request is larger than {most} bytes", hint="raise server.max_body_bytes")
            chunks.append(chunk)
        raw = b"".join(chunks)
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the body is not JSON: {error}") from None
        if not isinstance(body, dict):
            raise RequestError("the body must be a JSON object")
        if b"\\ud" in raw.lower() and not _is_text(body):
            raise RequestError("the body holds half of a surrogate pair, which is no text")
        return raw, body

    return app


def _is_text(body: dict[str, Any]) -> bool:
    """Whether all of `body` can be written as UTF-8: JSON's escapes can spell what cannot."""
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _model_name(body: dict[str, Any]) -> str:
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise RequestError("'model' is missing: name a fusion or an engine (GET /v1/models lists them)", param="model")
    return name


class RequestIds:
    """Gives every request an id: in `request.state`, in the `X-Request-Id` response header, in traces."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = secrets.token_hex(12)
        scope.setdefault("state", {})["request_id"] = request_id
        begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:  # the server ends and has given up waiting for this request
            if not begun:
                stopping = EngineUnavailable("the server is stopping", hint="ask again when it is back")
                await error_response(stopping)(scope, receive, send_with_id)
