"""`/v1/models`: what is served, as both dialects' clients read it."""

from __future__ import annotations

from typing import Any, cast

import pytest

from local_fusion.planner.plan import Plan
from tests.conftest import placement
from tests.scripted import Scripted
from tests.server.controlled import Asking, ControlledRuntime, Exchange, asking_of, controlled, overview

FUSIONS: dict[str, Any] = {
    "quality": {
        "strategy": "synthesize",
        "description": "Two and a judge.",
        "panel": [{"model": "a", "samples": 2}, "b"],
        "judge": ["judge", "b"],
    },
    "outer": {"strategy": "vote", "extract": "number", "panel": ["quality", "c"]},
}
CONTEXTS = {"a": 8192, "b": 4096, "c": 16384, "judge": 2048}
ANTHROPIC = {"anthropic-version": "2023-06-01"}


def runtime_of() -> ControlledRuntime:
    runtime = controlled(*(overview(name) for name in CONTEXTS), **FUSIONS)
    placed = tuple(placement(name, max_model_len=length) for name, length in CONTEXTS.items())
    runtime.plan = Plan(runtime.plan.devices, runtime.plan.usable, placed, (), runtime.plan.solver)
    able = {"a": {"tool_call_parser": "hermes"}, "judge": {"reasoning_parser": "qwen3"}}
    models = {name: model.model_copy(update=able.get(name, {})) for name, model in runtime.config.models.items()}
    runtime.config = runtime.config.model_copy(update={"models": models})
    for name in ("b", "c", "judge"):
        cast(Scripted, runtime.models[name]).takes_images = False
    runtime.pooling = frozenset({"c"})
    return runtime


@pytest.fixture
def client() -> Asking:
    return asking_of(runtime_of())


async def entries(client: Asking) -> dict[str, Any]:
    return {entry["id"]: entry for entry in (await client.get("/v1/models")).json()["data"]}


async def test_fusions_come_first_each_with_the_fields_of_both_dialects(client: Asking) -> None:
    body = (await client.get("/v1/models")).json()
    assert (body["object"], body["has_more"]) == ("list", False)
    assert [entry["id"] for entry in body["data"]] == ["quality", "outer", "a", "b", "c", "judge"]
    assert (body["first_id"], body["last_id"]) == ("quality", "judge")
    for entry in body["data"]:
        assert (entry["object"], entry["type"], entry["owned_by"]) == ("model", "model", "local-fusion")
        assert (entry["created"], entry["created_at"]) == (0, "1970-01-01T00:00:00Z")
        assert (entry["display_name"], entry["lifecycle"]) == (entry["id"], "active")


async def test_a_fusion_says_what_it_is_made_of(client: Asking) -> None:
    quality = (await entries(client))["quality"]
    assert (quality["kind"], quality["strategy"], quality["description"]) == (
        "fusion",
        "synthesize",
        "Two and a judge.",
    )
    assert (quality["members"], quality["judge"]) == (["a", "b"], ["judge", "b"])


async def test_the_context_of_a_fusion_is_the_least_of_those_who_read_the_conversation(client: Asking) -> None:
    """A judge whose context is small is shown less of it."""
    found = {name: entry["max_model_len"] for name, entry in (await entries(client)).items()}
    assert found == {**CONTEXTS, "quality": 4096, "outer": 4096}
    assert all(entry["max_input_tokens"] == entry["max_model_len"] for entry in (await entries(client)).values())


async def test_what_models_can_is_what_the_configuration_and_the_checkpoints_say(client: Asking) -> None:
    found = {name: entry["capabilities"] for name, entry in (await entries(client)).items()}
    writes = {"completions": True, "embeddings": False}
    assert found["a"] == {"tools": True, "reasoning": False, "images": True, **writes}
    assert found["b"] == {"tools": False, "reasoning": False, "images": False, **writes}
    assert found["c"] == {"tools": False, "reasoning": False, "images": False, "completions": False, "embeddings": True}
    both = {"completions": False, "embeddings": False}
    assert found["quality"] == {"tools": True, "reasoning": True, "images": True, **both}
    assert found["outer"] == {"tools": True, "reasoning": True, "images": True, **both}


async def test_anthropics_clients_are_told_of_abilities_in_their_own_words(client: Asking) -> None:
    told = (await asked(client, "/v1/models/a")).json()["capabilities"]
    assert (told["image_input"], told["pdf_input"]) == ({"supported": True}, {"supported": False})
    assert told["thinking"]["types"]["adaptive"] == {"supported": False}
    assert told["tools"] is True


async def asked(client: Asking, path: str) -> Exchange:
    exchange = Exchange(client.app, "GET", path, headers=ANTHROPIC)
    await exchange.task
    return exchange


@pytest.mark.parametrize(
    ("query", "names", "more"),
    [
        ("limit=2", ["quality", "outer"], True),
        ("limit=2&after_id=outer", ["a", "b"], True),
        ("limit=2&after_id=b", ["c", "judge"], False),
        ("after_id=judge", [], False),
        ("limit=2&before_id=c", ["a", "b"], True),
        ("limit=2&before_id=outer", ["quality"], False),
        ("limit=1000", ["quality", "outer", "a", "b", "c", "judge"], False),
    ],
)
async def test_pages(client: Asking, query: str, names: list[str], more: bool) -> None:
    body = (await asked(client, f"/v1/models?{query}")).json()
    assert ([entry["id"] for entry in body["data"]], body["has_more"]) == (names, more)
    assert (body["first_id"], body["last_id"]) == ((names[0], names[-1]) if names else (None, None))


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=many", "limit"),
        (f"limit={'9' * 5000}", "limit"),
        ("after_id=x", "after_id"),
        ("before_id=x", "before_id"),
        ("before_id=a&after_id=b", "before_id"),
    ],
)
async def test_pages_that_are_not_there(client: Asking, query: str, param: str) -> None:
    answer = await asked(client, f"/v1/models?{query}")
    assert (answer.status, answer.json()["error"]["param"]) == (400, param)


async def test_one_model(client: Asking) -> None:
    assert (await client.get("/v1/models/quality")).json() == (await entries(client))["quality"]
    missing = await client.get("/v1/models/qualty")
    assert (missing.status, missing.json()["error"]["code"]) == (404, "model_not_found")
    assert "quality" in missing.json()["error"]["message"]
    assert (await asked(client, "/v1/models/qualty")).json()["error"]["type"] == "not_found_error"
