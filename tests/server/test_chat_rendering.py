"""What clients read beside the text: thoughts by both of their names, tiers, and usage at a stream's end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from local_fusion.core.model import Choice
from tests.scripted import Scripted
from tests.server.controlled import Asking, Exchange, asking_of, controlled, overview

BOTH = {"reasoning": "Let me see.", "reasoning_content": "Let me see."}
BODY: dict[str, Any] = {"model": "one", "messages": [{"role": "user", "content": "Well?"}]}


@pytest.fixture
def asking() -> Asking:
    runtime = controlled(overview("a"), one={"strategy": "single", "panel": ["a"]})
    model = runtime.models["a"]
    assert isinstance(model, Scripted)
    model.choices = [Choice("Yes.", reasoning="Let me see.")]
    return asking_of(runtime)


async def ask(asking: Asking, **more: Any) -> Exchange:
    exchange = await asking.post("/v1/chat/completions", {**BODY, **more})
    assert exchange.status == 200, exchange.text
    return exchange


def chunks_of(exchange: Exchange) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in exchange.text.splitlines() if line.startswith("data: {")]


async def test_thoughts_have_vllms_name_and_deepseeks(asking: Asking) -> None:
    (choice,) = (await ask(asking)).json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Yes.", "refusal": None, **BOTH}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks_of(await ask(asking, stream=True))]
    thought = [delta for delta in deltas if "reasoning" in delta]
    assert "".join(delta["reasoning"] for delta in thought) == "Let me see."
    assert all(delta == {"reasoning": delta["reasoning"], "reasoning_content": delta["reasoning"]} for delta in thought)


async def test_who_wants_to_see_no_thoughts_sees_none(asking: Asking) -> None:
    for stream in (False, True):
        exchange = await ask(asking, stream=stream, reasoning={"exclude": True})
        assert "Let me see" not in exchange.text
        assert "Yes." in exchange.text


@pytest.mark.parametrize(("asked", "told"), [("auto", "default"), ("priority", "default"), ("flex", "flex")])
async def test_the_tier_that_was_asked_for_is_told(asking: Asking, asked: str, told: str) -> None:
    assert (await ask(asking, service_tier=asked)).json()["service_tier"] == told
    assert "service_tier" not in (await ask(asking)).json()


async def test_a_stream_that_ends_with_its_usage_has_the_field_in_every_chunk(asking: Asking) -> None:
    *chunks, last = chunks_of(await ask(asking, stream=True, stream_options={"include_usage": True}))
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 4)
    assert not any("usage" in chunk for chunk in chunks_of(await ask(asking, stream=True)))


async def test_fields_on_which_openrouters_own_client_insists_are_there(asking: Asking) -> None:
    for chunk in ((await ask(asking)).json(), *chunks_of(await ask(asking, stream=True))):
        assert chunk["system_fingerprint"] is None
