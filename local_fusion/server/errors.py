"""Errors as JSON in the client's dialect, which say whose fault it is and what to do next."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from fastapi.responses import JSONResponse

from local_fusion.errors import (
    ContextTooLong,
    EngineStartFailed,
    LocalFusionError,
    PanelFailed,
    Refused,
    RequestError,
    SetupError,
    TooMany,
)
from local_fusion.server.context import Context, Dialect

TYPES = {"caller": "invalid_request_error", "engine": "engine_error", "us": "server_error"}
# Anthropic's, by HTTP status; its clients make exceptions of the status, people read the type.
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
# JSON-RPC's: the request is wrong, or the server could not do it.
_INVALID_REQUEST, _SERVER_ERROR = -32600, -32000
RETRY_SECONDS = 5


def error_body(error: LocalFusionError, dialect: Dialect = "openai", request_id: str = "") -> dict[str, Any]:
    """The error in the dialect's shape, with `fault` (caller, engine or us), and `failed` members if there are any."""
    told: dict[str, Any] = {
        "message": f"{error.message} → {error.hint}" if error.hint else error.message,
        "type": TYPES[error.fault],
        "param": error.param if isinstance(error, RequestError) else None,
        "code": error.code,
        "fault": error.fault,
    }
    if isinstance(error, PanelFailed):
        told["failed"] = [asdict(failure) for failure in error.failures]
    if dialect == "anthropic":
        if isinstance(error, ContextTooLong):
            # By these words Claude Code knows that it must compact the conversation.
            told["message"] = f"prompt is too long: {told['message']}"
        told["details"] = {"error_code": error.code}  # where its clients look for a cause that programs can act on
        usual = "invalid_request_error" if error.status < 500 else "api_error"
        told["type"] = _ANTHROPIC_TYPES.get(error.status, usual)
        return {"type": "error", "error": told, "request_id": request_id}
    if dialect == "mcp":
        code = _INVALID_REQUEST if error.fault == "caller" else _SERVER_ERROR
        message = told.pop("message")
        # Nobody has read yet whose request it is: clients take the answer to theirs for it.
        return {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message, "data": told}}
    return {"error": told}


def error_response(error: LocalFusionError, context: Context) -> JSONResponse:
    """The error as a whole response; what may pass by itself says when to try again."""
    seconds = _retry_seconds(error)
    headers = {} if seconds is None else {"Retry-After": str(seconds)}
    body = error_body(error, context.dialect, context.request_id)
    return JSONResponse(body, status_code=error.status, headers=headers)


def _retry_seconds(error: LocalFusionError) -> int | None:
    """After how many seconds the same request may do better; None where it will not by itself."""
    if isinstance(error, TooMany):
        return max(1, math.ceil(error.retry_seconds))
    lasting = isinstance(error, SetupError | Refused) or (isinstance(error, EngineStartFailed) and error.permanent)
    return None if lasting or error.status not in (429, 503) else RETRY_SECONDS


def defect(error: Exception, request_id: str) -> LocalFusionError:
    """The error to tell a client about a bug of ours."""
    return LocalFusionError(
        f"internal error: {type(error).__name__} (request {request_id})",
        hint="this is a defect of local-fusion; the server's log holds the traceback",
    )
