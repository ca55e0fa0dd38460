"""Traces for OpenTelemetry: a span for each HTTP request, and below it one for each engine call.

They are named as the semantic conventions of HTTP and of generative AI say. Nothing of what was asked or answered is in
them. Everything of OpenTelemetry is imported once it is wanted: it is an extra, and slow to load.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local_fusion import __version__
from local_fusion.config.server import TelemetryConfig
from local_fusion.core.records import CallRecord
from local_fusion.errors import SetupError
from local_fusion.server.context import Context, context_in
from local_fusion.server.logs import told_path
from local_fusion.server.metrics import CLIENT_CLOSED_REQUEST

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span

CLOSE_SECONDS = 5.0
_NAME = "local-fusion"
_METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT")


@dataclass(frozen=True, slots=True)
class Request:
    """A request's span, and what its engine calls are to the conventions."""

    span: Span
    operation: str


def start_telemetry(settings: TelemetryConfig) -> Telemetry:
    """Telemetry that sends to the collector in batches, from a thread of its own.

    Raises `SetupError` where the extra is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SetupError(
            f"server.telemetry needs OpenTelemetry, which is not installed here ({error})",
            hint="pip install 'local-fusion[otel]', or set server.telemetry to null",
        ) from None
    endpoint = settings.endpoint and f"{settings.endpoint.rstrip('/').removesuffix('/v1/traces')}/v1/traces"
    return Telemetry(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))


class Telemetry:
    """Makes spans of requests and calls, and hands them to `processor`. The standard OTEL_* variables are heeded."""

    def __init__(self, processor: SpanProcessor) -> None:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(_NAME, __version__)
        self._kinds, self._within, self._context = SpanKind, set_span_in_context, TraceContextTextMapPropagator()
        self._failed = Status(StatusCode.ERROR)

    def begin(self, scope: Scope) -> Request:
        """A request has come; its span is part of the caller's trace, where its headers name one."""
        named = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _TRACE_HEADERS}
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        span = self._tracer.start_span(
            method,
            context=self._context.extract(named),
            kind=self._kinds.SERVER,
            attributes={
                "http.request.method": method,
                "url.scheme": scope.get("scheme", "http"),
                "url.path": told_path(scope),
            },
        )
        return Request(span, _operation(scope["path"]))

    def end(self, request: Request, scope: Scope, context: Context, status: int) -> None:
        """The request is over."""
        span, route = request.span, getattr(scope.get("route"), "path", None)
        if route is not None:
            span.update_name(f"{scope['method']} {route}")
            span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", status)
        span.set_attribute("local_fusion.request_id", context.request_id)
        if context.model:
            span.set_attribute("gen_ai.request.model", context.model)
        if context.caller.name:
            span.set_attribute("local_fusion.caller", context.caller.name)
        if status >= 500:
            span.set_attribute("error.type", str(status))
            span.set_status(self._failed)
        span.end()

    def hear(self, context: Context, call: CallRecord) -> None:
        """An engine call is over (see `Accounting`); it began so many seconds ago as it took."""
        request: Request | None = context.span
        if request is None:
            return
        ended = time.time_ns()
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": request.operation,
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": call.model,
            "gen_ai.usage.input_tokens": call.usage.prompt_tokens,
            "gen_ai.usage.output_tokens": call.usage.completion_tokens,
            "local_fusion.stage": call.stage,
        }
        if call.samples != 1:
            attributes["gen_ai.request.choice.count"] = call.samples
        if call.error is not None:
            attributes["error.type"] = call.code or "_OTHER"  # its text may tell what was asked
        span = self._tracer.start_span(
            f"{request.operation} {call.model}",
            context=self._within(request.span),
            kind=self._kinds.CLIENT,
            attributes=attributes,
            start_time=ended - int(call.seconds * 1e9),
        )
        if call.error is not None:
            span.set_status(self._failed)
        span.end(ended)

    def close(self) -> None:
        """Send what is left, within `CLOSE_SECONDS`: a collector that does not answer keeps nobody."""
        closing = threading.Thread(target=self._provider.shutdown, name="telemetry ends", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


_TRACE_HEADERS = (b"traceparent", b"tracestate")


def _operation(path: str) -> str:
    """What the conventions call it."""
    if path.endswith("/embeddings"):
        return "embeddings"
    return "text_completion" if path.endswith("/completions") and "/chat/" not in path else "chat"


def _resource() -> Any:
    """Who we are, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say so."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    return Resource.create({"service.name": _NAME, "service.version": __version__}).merge(
        OTELResourceDetector().detect()
    )


class Traced:
    """Makes a span of every request."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self.app = app
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context, status = context_in(scope), CLIENT_CLOSED_REQUEST
        context.span = request = self.telemetry.begin(scope)

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except Exception:  # answered further out, where defects of ours are
            status = 500
            raise
        finally:
            self.telemetry.end(request, scope, context, status)
