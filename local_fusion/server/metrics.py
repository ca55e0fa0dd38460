"""Metrics in Prometheus's text format: what engines and queues are like now, and what has happened so far."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Iterator
from typing import get_args

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local_fusion.core.records import CallRecord
from local_fusion.engines.engine import State
from local_fusion.runtime import Runtime
from local_fusion.scheduler.records import Moved, Waited
from local_fusion.server.context import Context, context_in

CONTENT_TYPE = CONTENT_TYPE_LATEST
CLIENT_CLOSED_REQUEST = 499  # nginx's code: nobody reads it, but logs and metrics do
# From a token to ten minutes, fine around the default fairness bound of 30 s.
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60, 120, 300, 600)


class Metrics:
    """One server's metrics, in a registry of its own: two servers in one process do not count each other's requests."""

    def __init__(self, runtime: Runtime) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Now(runtime))
        self._waits = Histogram(
            "local_fusion_wait_seconds",
            "Time that calls waited for their turn.",
            ("engine", "priority"),
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self._swaps = Counter(
            "local_fusion_swaps",
            "Engines started, woken, put to sleep, stopped.",
            ("engine", "kind"),
            registry=self.registry,
        )
        self._swap_seconds = Histogram(
            "local_fusion_swap_seconds",
            "Time that this took.",
            ("engine", "kind"),
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self._requests = Counter(
            "local_fusion_requests",
            "Requests answered, by model and HTTP status.",
            ("model", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "local_fusion_request_seconds",
            "Time from a request to the last byte of its answer.",
            ("model",),
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self._calls = Counter(
            "local_fusion_calls",
            "Calls to engines that are over, by how they ended: ok, failed or cancelled.",
            ("engine", "outcome"),
            registry=self.registry,
        )
        self._tokens = Counter(
            "local_fusion_tokens",
            "Tokens that engines read (prompt) and wrote (completion), those of broken calls included.",
            ("engine", "kind"),
            registry=self.registry,
        )
        runtime.scheduler.subscribe(self._hear)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)

    def answered(self, model: str, status: int, seconds: float) -> None:
        """A request to `model` is over."""
        self._requests.labels(model, str(status)).inc()
        self._seconds.labels(model).observe(seconds)

    def called(self, _: Context, call: CallRecord) -> None:
        """A call to an engine is over; a listener of `Accounting`."""
        outcome = "ok" if call.error is None else "cancelled" if call.error == "cancelled" else "failed"
        self._calls.labels(call.model, outcome).inc()
        self._tokens.labels(call.model, "prompt").inc(call.usage.prompt_tokens)
        self._tokens.labels(call.model, "completion").inc(call.usage.completion_tokens)

    def _hear(self, happened: Waited | Moved) -> None:
        match happened:
            case Waited(engine, priority, seconds):
                self._waits.labels(engine, priority).observe(seconds)
            case Moved(engine, kind, seconds):
                self._swaps.labels(engine, kind).inc()
                self._swap_seconds.labels(engine, kind).observe(seconds)


class _Now(Collector):
    """What can be read off when it is asked for."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def collect(self) -> Iterator[Metric]:
        """See `Collector.collect`."""
        engines = self._runtime.scheduler.overview()
        state = GaugeMetricFamily("local_fusion_engine_state", "1 for the engine's state.", labels=("engine", "state"))
        depth = GaugeMetricFamily("local_fusion_queue_depth", "Calls that wait.", labels=("engine", "priority"))
        running = GaugeMetricFamily("local_fusion_running", "Calls in flight.", labels=("engine",))
        restarts = CounterMetricFamily("local_fusion_restarts", "Restarts after failures.", labels=("engine",))
        held = Tally(dict.fromkeys((device.index for device in self._runtime.plan.devices), 0))
        for engine in engines:
            for each in get_args(State):
                state.add_metric((engine.name, each), float(engine.snapshot.state == each))
            depth.add_metric((engine.name, "interactive"), engine.waiting - engine.waiting_batch)
            depth.add_metric((engine.name, "batch"), engine.waiting_batch)
            running.add_metric((engine.name,), engine.running)
            restarts.add_metric((engine.name,), engine.snapshot.restarts)
            held.update(dict.fromkeys(engine.devices, engine.held_bytes))
        resident = GaugeMetricFamily("local_fusion_resident_bytes", "Bytes held by engines.", labels=("device",))
        usable = GaugeMetricFamily(
            "local_fusion_device_usable_bytes", "Bytes that engines may hold.", labels=("device",)
        )
        for index, count in held.items():
            resident.add_metric((str(index),), count)
        for device, count in zip(self._runtime.plan.devices, self._runtime.plan.usable, strict=True):
            usable.add_metric((str(device.index),), count)
        yield from (state, depth, running, restarts, resident, usable)


class Measured:
    """Counts every request that got as far as being read, under the model that its handler found out."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context = context_in(scope)
        began, status = time.monotonic(), CLIENT_CLOSED_REQUEST

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
            if context.model is not None:
                self.metrics.answered(context.model, status, time.monotonic() - began)
