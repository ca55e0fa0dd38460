"""`/metrics`: what Prometheus reads."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from local_fusion.scheduler.records import Moved, Waited
from tests.server.controlled import ControlledRuntime, asking_of, controlled, overview

QUESTION = [{"role": "user", "content": "Hello"}]
ONE = {"strategy": "single", "panel": ["a"]}


def samples(text: str) -> dict[str, float]:
    """By `name{label,label}` with the values of the labels only, in the order of their names."""
    return {
        f"{sample.name}{{{','.join(sample.labels.values())}}}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def read(runtime: ControlledRuntime) -> dict[str, float]:
    client = asking_of(runtime)
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return samples(answer.text)


async def test_engines_queues_and_memory_are_shown_as_they_are() -> None:
    runtime = controlled(
        overview("a", held_bytes=700, devices=(0, 1), running=2, restarts=3),
        overview("b", "asleep", held_bytes=50, waiting=5, waiting_batch=3),
        gpus="3x24GiB",
    )
    shown = await read(runtime)
    assert shown["local_fusion_engine_state{a,awake}"] == 1
    assert shown["local_fusion_engine_state{a,asleep}"] == 0
    assert shown["local_fusion_engine_state{b,asleep}"] == 1
    assert sum(value for name, value in shown.items() if name.startswith("local_fusion_engine_state{a,")) == 1
    assert shown["local_fusion_queue_depth{b,interactive}"] == 2
    assert shown["local_fusion_queue_depth{b,batch}"] == 3
    assert shown["local_fusion_running{a}"] == 2
    assert shown["local_fusion_restarts_total{a}"] == 3
    assert [shown[f"local_fusion_resident_bytes{{{index}}}"] for index in range(3)] == [750, 700, 0]
    assert [shown[f"local_fusion_device_usable_bytes{{{index}}}"] for index in range(3)] == [1000, 1000, 1000]


async def test_waits_and_swaps_are_counted_as_they_happen() -> None:
    runtime = controlled(overview("a"), overview("b"))
    client = asking_of(runtime)
    runtime.scheduler.tell(
        Waited("a", "interactive", 0.2),
        Waited("a", "interactive", 31.0),
        Waited("a", "batch", 5000.0),
        Moved("b", "sleep", 1.5, "a"),
        Moved("a", "wake", 3.0),
        Moved("a", "wake", 4.0),
    )
    shown = samples((await client.get("/metrics")).text)
    assert shown["local_fusion_wait_seconds_count{a,interactive}"] == 2
    assert shown["local_fusion_wait_seconds_sum{a,interactive}"] == 31.2
    assert shown["local_fusion_wait_seconds_bucket{a,30.0,interactive}"] == 1
    assert shown["local_fusion_wait_seconds_bucket{a,600.0,batch}"] == 0
    assert shown["local_fusion_swaps_total{a,wake}"] == 2
    assert shown["local_fusion_swaps_total{b,sleep}"] == 1
    assert shown["local_fusion_swap_seconds_sum{a,wake}"] == 7.0


async def test_requests_are_counted_by_model_and_status() -> None:
    runtime = controlled(overview("a"), one=ONE)
    client = asking_of(runtime)
    for model in ("one", "one", "nobody", "nothing"):
        await client.post("/v1/chat/completions", {"model": model, "messages": QUESTION})
    await client.post("/v1/chat/completions", {"model": "one", "messages": []})
    await client.post("/v1/chat/completions", b"{nope")
    await client.get("/health")
    shown = samples((await client.get("/metrics")).text)
    requests = {name: value for name, value in shown.items() if name.startswith("local_fusion_requests_total")}
    # Names that do not exist share one label: anybody can make up any number of them.
    assert requests == {
        "local_fusion_requests_total{one,200}": 2,
        "local_fusion_requests_total{one,400}": 1,
        "local_fusion_requests_total{,404}": 2,
        "local_fusion_requests_total{,400}": 1,
    }
    assert shown["local_fusion_request_seconds_count{one}"] == 3


async def test_a_defect_of_ours_counts_as_500() -> None:
    runtime = controlled(overview("a"), one=ONE)
    runtime.scheduler.admit = lambda names: 1 / 0  # type: ignore[assignment, method-assign]
    client = asking_of(runtime)
    answer = await client.post("/v1/chat/completions", {"model": "one", "messages": QUESTION})
    shown = samples((await client.get("/metrics")).text)
    assert answer.status == 500
    assert shown["local_fusion_requests_total{one,500}"] == 1


async def test_two_servers_in_one_process_count_for_themselves() -> None:
    first, second = controlled(overview("a"), one=ONE), controlled(overview("a"), one=ONE)
    one, other = asking_of(first), asking_of(second)
    await one.post("/v1/chat/completions", {"model": "one", "messages": QUESTION})
    assert "local_fusion_requests_total{one,200}" in samples((await one.get("/metrics")).text)
    assert "local_fusion_requests_total{one,200}" not in samples((await other.get("/metrics")).text)
