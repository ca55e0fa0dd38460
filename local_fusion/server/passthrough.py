"""Engine requests: passed to vLLM as they came, its answer passed back as it comes, neither re-encoded."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from local_fusion.engines.client import ForwardedResponse
from local_fusion.engines.engine import Engine
from local_fusion.server import sse

KEPT = ("content-type", "retry-after")


async def pass_through(engine: Engine, request: Request, body: bytes) -> Response:
    """The engine's own response, streamed or whole, with its own status.

    Raises `EngineError` where the engine cannot be reached. A client that goes away takes its request with it.
    """
    answer = await sse.unless_gone(request.receive, _ask(engine, request, body))
    headers = {name: value for name, value in answer.headers.items() if name.lower() in KEPT}

    return sse.StreamedResponse(answer.body, status_code=answer.status, headers=headers)


async def _ask(engine: Engine, request: Request, body: bytes) -> ForwardedResponse:
    client = await engine.ensure_awake()
    path = f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path
    headers = {"Content-Type": "application/json", "X-Request-Id": request.state.request_id}
    return await client.forward("POST", path, headers, body)
