"""The log on stderr: one line for each thing, as text or as JSON, and each says for which request it was written.

No line holds headers, bodies, keys or what stands behind a path's question mark. Whatever came from outside is written
so that it can neither begin a line of its own nor move a terminal's cursor.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local_fusion.config.problems import printable
from local_fusion.config.server import ServerConfig
from local_fusion.server.context import Context, context_in
from local_fusion.server.metrics import CLIENT_CLOSED_REQUEST

_access = logging.getLogger("local_fusion.access")
# Tasks that a request makes inherit it, and so do threads that they wait for.
_request: ContextVar[str | None] = ContextVar("request_id", default=None)

_LONGEST_PATH = 200
_SESSION = re.compile(r"^/session/[^/]*")  # whoever knows its name could ask what it used
_CLIENTS_ID = re.compile(rb"[\x21-\x7e]{1,128}")


def set_up_logging(settings: ServerConfig, stream: TextIO | None = None) -> None:
    """Log to `stream` (default: stderr) as `settings` say, in place of what the root logger did before.

    Libraries are heard from warnings up.
    """
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    handler.addFilter(_with_request)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger("local_fusion").setLevel(level)


def _with_request(record: logging.LogRecord) -> bool:
    record.request_id = _request.get()
    return True


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:
        """Nobody can read the log any more, which is no reason to stop the server."""


class TextLines(logging.Formatter):
    """`TIME LEVEL NAME: message name=value … request=ID`; the lines of a traceback follow, each marked with `|`."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        message = printable(record.getMessage())
        told = "".join(f" {name}={_text(value)}" for name, value in _fields(record).items() if value is not None)
        line = f"{_time(record)} {record.levelname} {record.name}: {message}{told}"
        return "\n".join([line, *(f"  | {printable(each)}" for each in _traceback(self, record).splitlines())])


class JsonLines(logging.Formatter):
    """One object a line: time (UTC), level, logger, message, request_id, and what else the record tells."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        told = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in _fields(record).items() if value is not None},
        }
        if traceback := _traceback(self, record):
            told["exception"] = traceback
        return json.dumps(told, default=str)  # ASCII only: all else is escaped


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {"request_id": getattr(record, "request_id", None), **getattr(record, "fields", {})}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    return "\n".join([*parts, *([record.stack_info] if record.stack_info else [])])


def _text(value: Any) -> str:
    """A value that ends where it seems to end."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if re.fullmatch(r"[\w.,:/@+…-]+", text) else json.dumps(text)


class Logged:
    """Writes one line for each request once it is over, and marks every line written on its behalf meanwhile."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context = context_in(scope)
        mark = _request.set(context.request_id)
        if not _access.isEnabledFor(logging.INFO):
            await self.app(scope, receive, send)
            _request.reset(mark)
            return
        began, status, sent, whole = time.monotonic(), CLIENT_CLOSED_REQUEST, 0, False

        async def send_and_count(message: Message) -> None:
            nonlocal status, sent, whole
            await send(message)
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent += len(message.get("body", b""))
                whole = not message.get("more_body", False)

        try:
            await self.app(scope, receive, send_and_count)
        except Exception:
            # Answered further out, where the traceback is logged as well: for this request, so the mark stays.
            status, whole = 500, True
            raise
        else:
            _request.reset(mark)
        finally:
            fields = _of_request(scope, context) | {"status": status, "seconds": round(time.monotonic() - began, 3)}
            fields |= {"bytes": sent, "broken_off": None if whole else True}
            line = f"{scope['method']} {_text(fields['path'])} {status}"
            _access.info("%s", line, extra={"fields": fields})


def told_path(scope: Scope) -> str:
    """The path of a request as logs and traces may tell it: bounded, and without the name of a session."""
    path = _SESSION.sub("/session/…", scope["path"])
    return path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}…"


def _of_request(scope: Scope, context: Context) -> dict[str, Any]:
    named = next((value for name, value in scope["headers"] if name == b"x-client-request-id"), b"")
    return {
        "request_id": context.request_id,
        "client_request_id": named.decode("ascii") if _CLIENTS_ID.fullmatch(named) else None,
        "method": scope["method"],
        "path": told_path(scope),
        "model": context.model or None,
        "caller": context.caller.name or None,
        "dialect": context.dialect,
        "prompt_tokens": context.usage.prompt_tokens,
        "completion_tokens": context.usage.completion_tokens,
    }
