"""Chat completions in OpenRouter's shape: a user of the hosted Fusion changes the base URL only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from local_fusion.core.chat import ChatRequest, ToolCall
from local_fusion.core.metered import Metered
from local_fusion.core.model import Choice, Emit, Reply, unheard
from local_fusion.errors import EngineUnavailable
from local_fusion.server.openrouter.tool import NAME
from tests.scripted import Scripted
from tests.server.controlled import Asking, ControlledRuntime, Exchange, asking_of, controlled, overview

ANALYSIS = {
    "consensus": ["it is even"],
    "contradictions": [],
    "partial_coverage": [],
    "unique_insights": [{"answer": "1", "insight": "42 is 2 times 21"}],
    "blind_spots": [],
}
FUSIONS: dict[str, Any] = {
    "quality": {"strategy": "synthesize", "panel": ["a", "b"], "judge": "judge", "synthesizer": "writer"},
    "vote": {"strategy": "vote", "panel": [{"model": "a", "samples": 2}, "b"]},
}
ALIASES = {"openai/*": "a", "~anthropic/*": "b", "google/gemini-3": "writer", "mistralai/*": "judge", "gpt-4o": "vote"}
PANEL = {"id": "fusion", "analysis_models": ["openai/gpt-5.5", "~anthropic/claude-opus-latest"]}
MESSAGES = [{"role": "user", "content": "Is 42 even?"}]
TOOL = {"type": "openrouter:fusion", "parameters": {"analysis_models": ["openai/gpt-5.5"], "model": "mistralai/large"}}


@pytest.fixture
def runtime() -> ControlledRuntime:
    made = controlled(*(overview(name) for name in ("a", "b", "judge", "writer")), **FUSIONS)
    changed = {"aliases": ALIASES, "openrouter": {"fusion": "quality", "presets": {"general-fast": "vote"}}}
    made.config = type(made.config).model_validate({**made.config.model_dump(exclude_unset=True), **changed})
    scripted(made, "judge").texts = [json.dumps(ANALYSIS)]
    scripted(made, "writer").texts = ["It is even."]
    return made


@pytest.fixture
def asking(runtime: ControlledRuntime) -> Asking:
    return asking_of(runtime)


def scripted(runtime: ControlledRuntime, name: str) -> Scripted:
    model = runtime.models[name]
    assert isinstance(model, Scripted)
    return model


async def ask(asking: Asking, model: str, **more: Any) -> Exchange:
    return await asking.post("/v1/chat/completions", {"model": model, "messages": MESSAGES, **more})


def answer_of(exchange: Exchange) -> Mapping[str, Any]:
    assert exchange.status == 200, exchange.text
    answer: Mapping[str, Any] = exchange.json()
    return answer


def chunks_of(exchange: Exchange) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in exchange.text.splitlines() if line.startswith("data: {")]


async def test_the_slug_is_the_configured_fusion(asking: Asking) -> None:
    answer = answer_of(await ask(asking, "openrouter/fusion"))
    assert (answer["model"], answer["choices"][0]["message"]["content"]) == ("openrouter/fusion", "It is even.")
    told = answer["fusion"]["result"]
    (insight,) = told["analysis"].pop("unique_insights")
    assert (insight["insight"], insight["model"] in ("a", "b")) == ("42 is 2 times 21", True)
    assert told == {
        "status": "ok",
        "analysis": {name: found for name, found in ANALYSIS.items() if name != "unique_insights"},
        "responses": [{"model": "a", "content": "answer of a"}, {"model": "b", "content": "answer of b"}],
        "failed_models": [],
    }


async def test_who_asks_for_a_fusion_by_its_own_name_gets_no_result_in_that_shape(asking: Asking) -> None:
    assert "result" not in answer_of(await ask(asking, "quality"))["fusion"]


async def test_a_plugin_gives_any_model_a_panel_and_that_model_writes(
    asking: Asking, runtime: ControlledRuntime
) -> None:
    plugin = {**PANEL, "model": "mistralai/large", "max_tool_calls": 8, "temperature": 0.5}
    answer = answer_of(await ask(asking, "google/gemini-3", plugins=[plugin], usage={"include": True}))
    assert (answer["model"], answer["choices"][0]["message"]["content"]) == ("google/gemini-3", "It is even.")
    calls = [(call["stage"], call["model"]) for call in answer["usage"]["fusion"]["calls"]]
    assert calls == [("panel", "a"), ("panel", "b"), ("judge", "judge"), ("synthesis", "writer")]
    assert answer["usage"]["total_tokens"] == sum(
        call["prompt_tokens"] + call["completion_tokens"] for call in answer["usage"]["fusion"]["calls"]
    )
    told = answer["fusion"]["result"]
    assert [each["model"] for each in told["responses"]] == PANEL["analysis_models"]
    assert told["analysis"]["unique_insights"][0]["model"] in PANEL["analysis_models"]
    assert scripted(runtime, "a").requests[0].sampling.temperature == 0.5
    assert scripted(runtime, "judge").requests[0].sampling.temperature == 0


async def test_a_fusion_may_write_for_a_panel_too(asking: Asking) -> None:
    answer = answer_of(await ask(asking, "vote", plugins=[PANEL]))
    stages = [call["stage"] for call in answer["usage"]["fusion"]["calls"]]
    assert stages.count("synthesis") == 2  # the calls of vote's own panel
    assert len(answer["fusion"]["result"]["responses"]) == 2


async def test_a_plugin_that_is_switched_off_changes_nothing(asking: Asking) -> None:
    answer = answer_of(await ask(asking, "openrouter/fusion", plugins=[{"id": "fusion", "enabled": False}]))
    assert [call["model"] for call in answer["usage"]["fusion"]["calls"]] == ["writer"]
    assert "result" not in answer["fusion"]


async def test_a_preset_is_what_the_configuration_says(asking: Asking) -> None:
    answer = answer_of(await ask(asking, "openrouter/fusion", plugins=[{"id": "fusion", "preset": "general-fast"}]))
    assert answer["fusion"]["strategy"] == "vote"
    assert len(answer["fusion"]["result"]["responses"]) == 3


async def test_the_result_comes_with_the_last_chunk_of_a_stream(asking: Asking) -> None:
    streamed = await ask(asking, "writer", plugins=[PANEL], stream=True, usage={"include": True})
    *chunks, last, usage = chunks_of(streamed)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "It is even."
    assert last["choices"][0]["finish_reason"] == "stop"
    assert [each["model"] for each in last["fusion"]["result"]["responses"]] == PANEL["analysis_models"]
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] > 0
    assert all(chunk["usage"] is None for chunk in (*chunks, last))
    assert streamed.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_with_the_tool_decides_whether_to_ask(
    asking: Asking, runtime: ControlledRuntime, stream: bool
) -> None:
    writer = scripted(runtime, "writer")
    exchange = await ask(asking, "writer", tools=[TOOL], stream=stream)
    told = chunks_of(exchange)[-1] if stream else answer_of(exchange)
    assert "result" not in told["fusion"]
    assert [tool["function"]["name"] for tool in writer.requests[0].tools] == [NAME]
    assert (len(writer.requests), scripted(runtime, "a").requests) == (1, [])


class _Consults(Scripted):
    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        asked = request.messages[-1].role == "tool"
        call = ToolCall("call_1", NAME, "{}")
        self.choices = [Choice("All agree: even.")] if asked else [Choice("", "tool_calls", (call,))]
        return await super().answer(request, emit)


async def test_a_budget_binds_the_model_with_the_panel_that_it_consults(runtime: ControlledRuntime) -> None:
    models = {**runtime.models, "writer": _Consults("writer")}
    runtime.models = {name: Metered(model) if isinstance(model, Scripted) else model for name, model in models.items()}
    asked = ask(asking_of(runtime), "google/gemini-3", tools=[TOOL], fusion={"budget": {"calls": 2}})
    told = answer_of(await asked)  # writer and panel; then there are no more calls for the writer
    assert len(told["usage"]["fusion"]["calls"]) == 2
    assert told["fusion"]["budget"] == {"spent": "calls", "limit": 2, "used": 2}
    assert told["choices"][0]["message"]["content"] == "answer of a"


async def test_the_servers_tool_is_run_by_the_server_and_the_client_sees_the_answer(
    runtime: ControlledRuntime,
) -> None:
    runtime.models = {**runtime.models, "writer": _Consults("writer")}
    asking = asking_of(runtime)
    answer = answer_of(await ask(asking, "google/gemini-3", tools=[TOOL]))
    (choice,) = answer["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("All agree: even.", "stop")
    assert "tool_calls" not in choice["message"]
    assert answer["fusion"]["result"]["responses"] == [{"model": "openai/gpt-5.5", "content": "answer of a"}]
    assert [call["model"] for call in answer["usage"]["fusion"]["calls"]] == ["writer", "a", "writer"]
    streamed = chunks_of(await ask(asking, "google/gemini-3", tools=[TOOL], stream=True))
    said = "".join(choice["delta"].get("content", "") for chunk in streamed for choice in chunk["choices"])
    assert said == "All agree: even."
    assert streamed[-1]["fusion"]["result"]["status"] == "ok"


async def test_a_tool_that_must_be_called_is_asked_without_the_model_having_a_say(asking: Asking) -> None:
    answer = answer_of(await ask(asking, "writer", tools=[TOOL], tool_choice={"type": "openrouter:fusion"}))
    stages = [(call["stage"], call["model"]) for call in answer["usage"]["fusion"]["calls"]]
    assert stages == [("panel", "a"), ("synthesis", "writer")]  # one answer alone needs no comparison


async def test_a_panel_of_which_nobody_answers_is_an_ordinary_error(asking: Asking, runtime: ControlledRuntime) -> None:
    for name in ("a", "b"):
        scripted(runtime, name).error = EngineUnavailable("is stopped")
    exchange = await ask(asking, "openrouter/fusion")
    assert (exchange.status, exchange.json()["error"]["code"]) == (502, "panel_failed")
    assert [each["model"] for each in exchange.json()["error"]["failed"]] == ["a", "b"]


async def test_who_survives_is_enough_and_who_failed_is_told(asking: Asking, runtime: ControlledRuntime) -> None:
    scripted(runtime, "b").error = EngineUnavailable("is stopped")
    answer = answer_of(await ask(asking, "writer", plugins=[PANEL]))
    assert answer["fusion"]["partial"] is True
    assert answer["fusion"]["result"]["failed_models"] == [
        {"model": "~anthropic/claude-opus-latest", "error": "is stopped", "status_code": 503}
    ]


async def test_a_name_that_means_nothing_is_told_with_the_way_out(asking: Asking) -> None:
    for asked in (
        {"model": "gpt-4oo"},
        {"model": "writer", "plugins": [{"id": "fusion", "analysis_models": ["gpt-4oo"]}]},
    ):
        exchange = await asking.post("/v1/chat/completions", {"messages": MESSAGES, **asked})
        assert (exchange.status, exchange.json()["error"]["code"]) == (404, "model_not_found")
        assert "did you mean 'gpt-4o'?" in exchange.json()["error"]["message"]
        assert "`aliases`" in exchange.json()["error"]["message"]


async def test_an_alias_is_answered_under_the_name_that_was_asked_for(asking: Asking) -> None:
    answer = answer_of(await ask(asking, "gpt-4o"))
    assert (answer["model"], answer["fusion"]["strategy"]) == ("gpt-4o", "vote")


async def test_an_engine_that_is_asked_by_an_alias_gets_its_own_name(
    asking: Asking, runtime: ControlledRuntime
) -> None:
    engine = runtime.engines["a"]
    runtime.scheduler.gate("a").opened.set()
    engine.pieces.put_nowait(None)
    await ask(asking, "openai/gpt-5.5", vllm_field=1)
    ((_, _, body),) = engine.forwarded
    assert json.loads(body) == {"model": "a", "messages": MESSAGES, "vllm_field": 1}


@pytest.mark.parametrize(
    ("asked", "param", "says"),
    [
        ({"plugins": [{"id": "web"}]}, "plugins[0].id", "searches the web"),
        ({"plugins": [PANEL], "fusion": {"panel": ["a"]}}, "fusion.panel", "both describe the panel"),
        ({"plugins": [{**PANEL, "preset": "genral-high"}]}, "plugins[0].preset", "did you mean 'general-high'"),
        (
            {"plugins": [{**PANEL, "reasoning": {"effort": "high"}}], "reasoning_effort": "low"},
            "plugins[0].reasoning.effort",
            "differ",
        ),
        ({"tools": [TOOL], "n": 2}, "n", "tool_choice"),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, "response_format", "tool_choice"),
        (
            {"tools": [TOOL, {"type": "function", "function": {"name": NAME}}]},
            "tools",
            "name the function otherwise",
        ),
        ({"models": ["openai/gpt-5.5"], "plugins": [PANEL]}, "models", "strategy single"),
        ({"transforms": ["middle-out"], "plugins": [PANEL]}, "transforms", "never cut"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(asking: Asking, asked: dict[str, Any], param: str, says: str) -> None:
    exchange = await ask(asking, "writer", **asked)
    error = exchange.json()["error"]
    assert (exchange.status, error["param"]) == (400, param), error
    assert says in error["message"]
