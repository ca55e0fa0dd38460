"""Errors as OpenAI-shaped JSON that says whose fault it is and what to do next."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from fastapi.responses import JSONResponse

from local_fusion.errors import (
    EngineStartFailed,
    LocalFusionError,
    PanelFailed,
    QueueFull,
    Refused,
    RequestError,
    SetupError,
)

TYPES = {"caller": "invalid_request_error", "engine": "engine_error", "us": "server_error"}
RETRY_SECONDS = 5


def error_body(error: LocalFusionError) -> dict[str, Any]:
    """The error in OpenAI's shape, with `fault` (caller, engine or us) and `failed` members where there are some."""
    message = f"{error.message} → {error.hint}" if error.hint else error.message
    body: dict[str, Any] = {
        "message": message,
        "type": TYPES[error.fault],
        "param": error.param if isinstance(error, RequestError) else None,
        "code": error.code,
        "fault": error.fault,
    }
    if isinstance(error, PanelFailed):
        body["failed"] = [asdict(failure) for failure in error.failures]
    return {"error": body}


def error_response(error: LocalFusionError) -> JSONResponse:
    """The error as a whole response; what may pass by itself says when to try again."""
    seconds = _retry_seconds(error)
    headers = {} if seconds is None else {"Retry-After": str(seconds)}
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)


def _retry_seconds(error: LocalFusionError) -> int | None:
    """After how many seconds the same request may do better; None where it will not by itself."""
    if isinstance(error, QueueFull):
        return max(1, math.ceil(error.retry_seconds))
    lasting = isinstance(error, SetupError | Refused) or (isinstance(error, EngineStartFailed) and error.permanent)
    return None if lasting or error.status not in (429, 503) else RETRY_SECONDS


def defect(error: Exception, request_id: str) -> LocalFusionError:
    """The error to tell a client about a bug of ours."""
    return LocalFusionError(
        f"internal error: {type(error).__name__} (request {request_id})",
        hint="this is a defect of local-fusion; the server's log holds the traceback",
    )
