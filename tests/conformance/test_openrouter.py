"""OpenRouter's Fusion as its users ask for it: OpenAI's client with another base URL, and fields of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.conformance.conftest import Endpoint

QUESTION: Any = [{"role": "user", "content": "What is 6 times 7?"}]
PLUGIN = {"id": "fusion", "analysis_models": ["openai/gpt-5.5", "~anthropic/claude-opus-latest"], "max_tool_calls": 8}
HEADERS = {"HTTP-Referer": "https://example.org", "X-Title": "Example"}


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=endpoint.v1, api_key="sk-or-none", max_retries=0, default_headers=HEADERS) as client:
        yield client


def result_of(answer: ChatCompletion) -> dict[str, Any]:
    found: dict[str, Any] = answer.fusion["result"]  # type: ignore[attr-defined]
    return found


@pytest.mark.client("OpenRouter's Fusion", "openrouter/fusion")
def test_the_slug(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="openrouter/fusion", messages=QUESTION)
    assert answer.choices[0].message.content == "The answer is 42."
    told = result_of(answer)
    assert (told["status"], told["analysis"]["consensus"], told["failed_models"]) == ("ok", ["it is 42"], [])
    assert [each["model"] for each in told["responses"]] == ["a", "a", "b"]


@pytest.mark.client("OpenRouter's Fusion", "plugin")
def test_the_plugin(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="openai/gpt-5.5",
        messages=QUESTION,
        extra_body={
            "plugins": [{**PLUGIN, "model": "~anthropic/claude-opus-latest"}],
            "provider": {"sort": "throughput"},
            "usage": {"include": True},
        },
    )
    assert (answer.model, answer.choices[0].message.content) == ("openai/gpt-5.5", "The answer is 42.")
    assert [each["model"] for each in result_of(answer)["responses"]] == PLUGIN["analysis_models"]
    assert answer.usage is not None
    calls = answer.usage.fusion["calls"]  # type: ignore[attr-defined]
    assert [(call["stage"], call["model"]) for call in calls][2:] == [("judge", "b"), ("synthesis", "a")]


@pytest.mark.client("OpenRouter's Fusion", "plugin, streaming")
def test_the_plugin_streams(client: openai.OpenAI) -> None:
    body = {"plugins": [PLUGIN], "usage": {"include": True}}
    chunks = list(
        client.chat.completions.create(model="openai/gpt-5.5", messages=QUESTION, stream=True, extra_body=body)
    )
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == "The answer is 42."
    assert chunks[-1].usage is not None
    assert chunks[-2].fusion["result"]["status"] == "ok"  # type: ignore[attr-defined]


TOOLS: Any = [{"type": "openrouter:fusion", "parameters": {"analysis_models": PLUGIN["analysis_models"]}}]
HARD: Any = [{"role": "user", "content": "Please deliberate: what is 6 times 7?"}]


@pytest.mark.client("OpenRouter's Fusion", "openrouter:fusion tool")
def test_the_tool(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="openai/gpt-5.5", messages=HARD, tools=TOOLS)
    assert answer.choices[0].message.content == "The panel says 42."
    assert not answer.choices[0].message.tool_calls
    assert [each["content"] for each in result_of(answer)["responses"]] == ["It is 42.", "I say 42."]


@pytest.mark.client("OpenRouter's Fusion", "openrouter:fusion tool, streaming")
def test_the_tool_while_it_streams(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="openai/gpt-5.5", messages=HARD, tools=TOOLS) as events:
        chunks = [event.chunk for event in events if event.type == "chunk"]
        answer = events.get_final_completion()
    assert answer.choices[0].message.content == "The panel says 42."
    assert chunks[-1].fusion["result"]["status"] == "ok"  # type: ignore[attr-defined]


@pytest.mark.client("OpenRouter's Fusion", "tool_choice: openrouter:fusion")
def test_the_tool_that_must_be_called(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "openrouter:fusion"}]
    choice: Any = {"type": "openrouter:fusion"}
    answer = client.chat.completions.create(model="openai/gpt-5.5", messages=QUESTION, tools=tools, tool_choice=choice)
    assert answer.choices[0].message.content == "The answer is 42."
    assert result_of(answer)["status"] == "ok"


@pytest.mark.client("OpenRouter's Fusion", "errors")
def test_models_and_plugins_that_are_not_here(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="aliases") as unknown:
        client.chat.completions.create(model="mistralai/large", messages=QUESTION)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="searches the web") as refused:
        client.chat.completions.create(
            model="openai/gpt-5.5", messages=QUESTION, extra_body={"plugins": [{"id": "web"}]}
        )
    assert refused.value.param == "plugins[0].id"


@pytest.mark.client("OpenRouter's Fusion", "model ids by alias")
def test_an_alias_of_an_engine_passes_through(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="openai/gpt-5.5", messages=QUESTION, logprobs=True)
    assert answer.choices[0].message.content == "It is 42."
