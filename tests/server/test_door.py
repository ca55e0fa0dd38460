"""At the door: who is let in, how urgent each request is, and how whoever is not let in is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import openai
import pytest

from local_fusion.core.chat import ChatRequest
from local_fusion.errors import QueueFull
from local_fusion.server.bodies import sequences
from local_fusion.server.door import Door
from tests.scripted import Scripted
from tests.server.controlled import ControlledRuntime, app_over, asking_of, controlled, overview
from tests.serving import listening

QUESTION: Any = [{"role": "user", "content": "Hello"}]
FUSIONS: dict[str, Any] = {
    "one": {"strategy": "single", "panel": ["a"]},
    "two": {"strategy": "best_of", "panel": [{"model": "a", "samples": 2}], "judge": "b"},
    "outer": {"strategy": "synthesize", "panel": ["two"], "judge": "c"},
}
FULL = QueueFull("512 calls wait for b already", retry_seconds=11.2, hint="ask again later")


@pytest.fixture
def runtime() -> ControlledRuntime:
    return controlled(overview("a"), overview("b"), overview("c"), **FUSIONS)


@pytest.mark.parametrize(
    ("body", "engines"),
    [
        ({"model": "one"}, {"a"}),
        ({"model": "two"}, {"a", "b"}),
        ({"model": "outer"}, {"a", "b", "c"}),
        ({"model": "one", "fusion": {"panel": ["c"]}}, {"c"}),
    ],
)
async def test_a_request_is_admitted_for_the_engines_that_it_will_need(
    runtime: ControlledRuntime, body: dict[str, Any], engines: set[str]
) -> None:
    client = asking_of(runtime)
    answer = await client.post("/v1/chat/completions", {**body, "messages": QUESTION})
    assert answer.status == 200, answer.text
    assert runtime.scheduler.admitted == [engines]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "two", "messages": QUESTION}),
        ("/v1/chat/completions", {"model": "two", "messages": QUESTION, "stream": True}),
        ("/v1/chat/completions", {"model": "b", "messages": QUESTION}),
        ("/v1/completions", {"model": "b", "prompt": "x"}),
        ("/v1/embeddings", {"model": "b", "input": "x"}),
    ],
)
async def test_a_full_queue_is_429_with_the_time_to_come_back(
    runtime: ControlledRuntime, path: str, body: dict[str, Any]
) -> None:
    runtime.scheduler.full = FULL
    client = asking_of(runtime)
    answer = await client.post(path, body)
    assert answer.status == 429
    assert answer.headers["retry-after"] == "12"  # rounded up: a client that comes early is turned away again
    assert answer.json()["error"]["code"] == "queue_full"
    assert cast(Scripted, runtime.models["a"]).requests == []


async def test_a_bad_request_is_told_what_is_wrong_even_where_the_queue_is_full(runtime: ControlledRuntime) -> None:
    runtime.scheduler.full = FULL
    client = asking_of(runtime)
    answer = await client.post("/v1/chat/completions", {"model": "one", "messages": []})
    assert answer.status == 400


async def test_once_the_door_is_closed_every_request_is_503_with_the_time_to_come_back(
    runtime: ControlledRuntime,
) -> None:
    door = Door(runtime)  # type: ignore[arg-type]
    client = asking_of(runtime, door)
    body = {"model": "one", "messages": QUESTION}
    assert (await client.post("/v1/chat/completions", body)).status == 200
    door.close()
    for model in ("one", "a"):
        answer = await client.post("/v1/chat/completions", {"model": model, "messages": QUESTION})
        assert (answer.status, "stopping" in answer.text) == (503, True)
        assert answer.headers["retry-after"]
    assert (await client.get("/health")).status == 200


@asynccontextmanager
async def official_client(runtime: ControlledRuntime, door: Door | None = None) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        listening(app_over(runtime, door)) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


async def test_the_official_client_sees_a_full_queue_as_its_rate_limit_error(runtime: ControlledRuntime) -> None:
    runtime.scheduler.full = FULL
    async with official_client(runtime) as client:
        for model in ("two", "b"):
            with pytest.raises(openai.RateLimitError, match="512 calls wait for b already") as refused:
                await client.chat.completions.create(model=model, messages=QUESTION)
            assert refused.value.response.headers["retry-after"] == "12"
            assert refused.value.code == "queue_full"


async def test_the_official_client_sees_a_server_that_stops_as_its_error_for_503(runtime: ControlledRuntime) -> None:
    door = Door(runtime)  # type: ignore[arg-type]
    door.close()
    async with official_client(runtime, door) as client:
        with pytest.raises(openai.InternalServerError, match="stopping") as refused:
            await client.chat.completions.create(model="one", messages=QUESTION)
    assert refused.value.status_code == 503


@pytest.mark.parametrize(
    ("tier", "priority"),
    [
        (None, "interactive"),
        ("auto", "interactive"),
        ("default", "interactive"),
        ("priority", "interactive"),
        ("flex", "batch"),
    ],
)
async def test_flex_is_batch_for_fusions_and_engines_alike(
    runtime: ControlledRuntime, tier: str | None, priority: str
) -> None:
    body = {"messages": QUESTION, "service_tier": tier}
    runtime.scheduler.gate("a").opened.set()
    runtime.engines["a"].pieces.put_nowait(None)
    client = asking_of(runtime)
    await client.post("/v1/chat/completions", {"model": "one", **body})
    await client.post("/v1/chat/completions", {"model": "a", **body})
    (asked,) = cast(Scripted, runtime.models["a"]).requests
    (call,) = runtime.scheduler.gate("a").calls
    assert (asked.priority, call.priority) == (priority, priority)


@pytest.mark.parametrize("model", ["one", "a"])
@pytest.mark.parametrize("tier", ["turbo", 3, ["flex"]])
async def test_any_other_service_tier_is_refused(runtime: ControlledRuntime, model: str, tier: Any) -> None:
    client = asking_of(runtime)
    body = {"model": model, "messages": QUESTION, "service_tier": tier}
    answer = await client.post("/v1/chat/completions", body)
    assert (answer.status, answer.json()["error"]["param"]) == (400, "service_tier")
    assert runtime.scheduler.gate("a").calls == []


async def test_every_call_of_a_panel_has_the_priority_of_its_request(runtime: ControlledRuntime) -> None:
    client = asking_of(runtime)
    body = {"model": "two", "messages": QUESTION, "service_tier": "flex"}
    await client.post("/v1/chat/completions", body)
    asked: list[ChatRequest] = [
        request for model in runtime.models.values() if isinstance(model, Scripted) for request in model.requests
    ]
    assert asked
    assert {request.priority for request in asked} == {"batch"}


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({"messages": []}, 1),
        ({"messages": [], "n": 4}, 4),
        ({"prompt": "one"}, 1),
        ({"prompt": ["one", "two"], "n": 3}, 6),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"input": ["one", "two", "three"]}, 3),
        ({"input": []}, 1),
        ({"n": "many"}, 1),
        ({"n": -1}, 1),
        ({"n": True}, 1),
    ],
)
def test_an_engine_request_counts_as_many_sequences_as_vllm_makes_of_it(body: dict[str, Any], count: int) -> None:
    assert sequences(body) == count
