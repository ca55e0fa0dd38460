"""Traces: a span for each request, below it one for each engine call, named as the conventions say, without texts."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, cast

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes import error_attributes, http_attributes, url_attributes
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import ValidationError

from local_fusion.config.server import TelemetryConfig
from local_fusion.errors import EngineRejected, SetupError
from local_fusion.runtime import Runtime
from local_fusion.server import telemetry as module
from local_fusion.server.app import create_app
from local_fusion.server.telemetry import Telemetry, start_telemetry
from tests.scripted import Scripted
from tests.server.controlled import Asking, ControlledRuntime, controlled, overview

BODY = {"model": "both", "messages": [{"role": "user", "content": "the question is secret"}]}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Traces:
    """A server with two engines and what it has told of itself."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.runtime: ControlledRuntime = controlled(
            overview("a"), overview("b"), both={"strategy": "vote", "extract": "number", "panel": ["a", "b"]}
        )
        self.model("a").texts = self.model("b").texts = ["the answer is secret: 42"]
        self.telemetry = Telemetry(SimpleSpanProcessor(self.exporter))
        self.ask = Asking(create_app(cast(Runtime, self.runtime), telemetry=self.telemetry))

    def model(self, name: str) -> Scripted:
        return cast(Scripted, self.runtime.models[name])

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        """By name."""
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def traces() -> Traces:
    return Traces()


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_request_is_a_server_span_and_each_engine_call_a_client_span_below_it(traces: Traces) -> None:
    answer = await traces.ask.post("/v1/chat/completions?key=secret", BODY, {"Authorization": "Bearer secret"})
    assert answer.status == 200
    spans = traces.spans
    assert set(spans) == {"POST /v1/chat/completions", "chat a", "chat b"}
    request, call = spans["POST /v1/chat/completions"], spans["chat a"]
    assert request.kind is SpanKind.SERVER
    assert told(request) == {
        http_attributes.HTTP_REQUEST_METHOD: "POST",
        http_attributes.HTTP_ROUTE: "/v1/chat/completions",
        http_attributes.HTTP_RESPONSE_STATUS_CODE: 200,
        url_attributes.URL_SCHEME: "http",
        url_attributes.URL_PATH: "/v1/chat/completions",
        gen_ai.GEN_AI_REQUEST_MODEL: "both",
        "local_fusion.request_id": answer.headers["x-request-id"],
    }
    assert call.kind is SpanKind.CLIENT
    assert call.parent is not None
    assert call.parent.span_id == request.context.span_id
    used = answer.json()["usage"]["fusion"]["calls"][0]
    assert told(call) == {
        gen_ai.GEN_AI_OPERATION_NAME: "chat",
        gen_ai.GEN_AI_PROVIDER_NAME: "vllm",
        gen_ai.GEN_AI_REQUEST_MODEL: "a",
        gen_ai.GEN_AI_USAGE_INPUT_TOKENS: used["prompt_tokens"],
        gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS: used["completion_tokens"],
        "local_fusion.stage": "panel",
    }
    assert "secret" not in "".join(span.to_json() for span in spans.values())


async def test_a_call_lasts_as_long_as_it_took(traces: Traces) -> None:
    before = time.time_ns()
    await traces.ask.post("/v1/chat/completions", BODY)
    for span in traces.spans.values():
        assert span.start_time is not None
        assert span.end_time is not None
        assert before - 10**9 < span.start_time <= span.end_time <= time.time_ns()


async def test_a_callers_trace_is_gone_on_with(traces: Traces) -> None:
    await traces.ask.post("/v1/chat/completions", BODY, {"traceparent": f"00-{TRACE}-{PARENT}-01"})
    request = traces.spans["POST /v1/chat/completions"]
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT
    assert {f"{span.context.trace_id:032x}" for span in traces.spans.values()} == {TRACE}


@pytest.mark.parametrize("header", ["", "00-zzz", f"00-{'0' * 32}-{PARENT}-01", "\xff" * 500])
async def test_a_header_that_names_no_trace_is_no_trouble(traces: Traces, header: str) -> None:
    assert (await traces.ask.get("/health")).status == 200
    answer = await traces.ask.post("/v1/chat/completions", BODY, {"traceparent": header})
    assert answer.status == 200
    assert traces.spans["POST /v1/chat/completions"].parent is None


async def test_failures_are_marked_with_their_kind(traces: Traces) -> None:
    for name in ("a", "b"):
        traces.model(name).error = EngineRejected("because of a secret")
    answer = await traces.ask.post("/v1/chat/completions", BODY)
    assert answer.status == 502
    request, call = traces.spans["POST /v1/chat/completions"], traces.spans["chat a"]
    assert told(request)[error_attributes.ERROR_TYPE] == "502"
    assert told(call)[error_attributes.ERROR_TYPE] == "engine_rejected"
    assert {request.status.status_code, call.status.status_code} == {StatusCode.ERROR}
    assert "secret" not in request.to_json() + call.to_json()


async def test_mistakes_of_callers_are_no_errors_of_ours_and_paths_make_no_names(traces: Traces) -> None:
    await traces.ask.get("/nothing/" + "x" * 1000)
    (span,) = traces.exporter.get_finished_spans()
    assert span.name == "GET"
    assert len(told(span)["url.path"]) == 201  # with what says that it goes on
    assert told(span)["http.response.status_code"] == 404
    assert span.status.status_code is StatusCode.UNSET


async def test_the_name_of_a_session_is_in_no_span(traces: Traces) -> None:
    await traces.ask.get(f"/session/{'s' * 30}/usage")
    (span,) = traces.exporter.get_finished_spans()
    assert told(span)["url.path"] == "/session/…/usage"
    assert "s" * 30 not in span.to_json()


class Collector(BaseHTTPRequestHandler):
    """Takes OTLP over HTTP."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        cast(Any, self.server).taken.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), Collector)
    server.taken = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("within", ["configuration", "environment"])
async def test_spans_get_to_a_collector_at_the_latest_when_the_server_ends(
    collector: Any, within: str, monkeypatch: pytest.MonkeyPatch, traces: Traces
) -> None:
    address = f"http://127.0.0.1:{collector.server_address[1]}"
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "rig" if within == "environment" else "")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address if within == "environment" else "http://127.0.0.1:9")
    settings = TelemetryConfig(endpoint=address if within == "configuration" else None)
    app = create_app(cast(Runtime, traces.runtime), telemetry=start_telemetry(settings))
    async with app.router.lifespan_context(app):
        await Asking(app).post("/v1/chat/completions", BODY)
        assert collector.taken == []
    ((path, taken),) = collector.taken
    assert path == "/v1/traces"
    (resource,) = taken.resource_spans
    names = {span.name for scope in resource.scope_spans for span in scope.spans}
    assert names == {"POST /v1/chat/completions", "chat a", "chat b"}
    service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
    assert service == ("rig" if within == "environment" else "local-fusion")


async def test_a_collector_that_does_not_answer_keeps_nobody(monkeypatch: pytest.MonkeyPatch, traces: Traces) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.2)
    with HTTPServer(("127.0.0.1", 0), Collector) as deaf:  # accepts, and never reads
        telemetry = start_telemetry(TelemetryConfig(endpoint=f"http://127.0.0.1:{deaf.server_address[1]}"))
        app = create_app(cast(Runtime, traces.runtime), telemetry=telemetry)
        await Asking(app).get("/health")
        began = time.monotonic()
        await asyncio.to_thread(telemetry.close)
        assert time.monotonic() - began < 5


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SetupError, match="not installed") as missing:
        start_telemetry(TelemetryConfig())
    assert "pip install 'local-fusion[otel]'" in missing.value.hint


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4318", "grpc://x", "http://", "http://x y", "http://x?y", ""])
def test_an_endpoint_is_an_http_address(endpoint: str) -> None:
    with pytest.raises(ValidationError):
        TelemetryConfig(endpoint=endpoint)


def test_nothing_of_it_is_loaded_where_it_is_off() -> None:
    text = "import sys, json; import local_fusion.cli.serve; print(json.dumps([*sys.modules]))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", text], capture_output=True, check=True).stdout)
    assert [name for name in loaded if name.startswith("opentelemetry.sdk")] == []
