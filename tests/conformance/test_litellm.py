"""LiteLLM as a client: with OpenAI's interface and as a vLLM of its own, of an engine and of a fusion."""

from __future__ import annotations

from typing import Any

import litellm
import litellm.exceptions
import pytest

from tests.conformance.conftest import Endpoint

QUESTION: Any = [{"role": "user", "content": "What is 6 times 7?"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "How the weather is.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
PROVIDERS = pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])


def options(endpoint: Endpoint, provider: str, model: str) -> dict[str, Any]:
    return {"model": f"{provider}/{model}", "api_base": endpoint.v1, "api_key": "none", "num_retries": 0}


@pytest.mark.client("LiteLLM", "completion")
@PROVIDERS
def test_an_answer_and_what_it_cost(endpoint: Endpoint, either: str, provider: str) -> None:
    answer: Any = litellm.completion(messages=QUESTION, **options(endpoint, provider, either))
    assert "42" in answer.choices[0].message.content
    assert answer.usage.total_tokens > 0


@pytest.mark.client("LiteLLM", "acompletion, streamed")
@PROVIDERS
async def test_a_stream(endpoint: Endpoint, either: str, provider: str) -> None:
    stream: Any = await litellm.acompletion(messages=QUESTION, stream=True, **options(endpoint, provider, either))
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert "42" in text


@pytest.mark.client("LiteLLM", "tools")
@pytest.mark.parametrize("caller", ["a", "best"], ids=["engine", "fusion"])
def test_a_tool_is_called(endpoint: Endpoint, caller: str) -> None:
    messages = [{"role": "user", "content": "How is the weather in Bonn?"}]
    answer: Any = litellm.completion(messages=messages, tools=[TOOL], **options(endpoint, "openai", caller))
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"


@pytest.mark.client("LiteLLM", "errors")
def test_errors_are_the_classes_that_clients_catch(endpoint: Endpoint) -> None:
    with pytest.raises(litellm.exceptions.NotFoundError, match="quality"):
        litellm.completion(messages=QUESTION, **options(endpoint, "openai", "qualty"))
    with pytest.raises(litellm.exceptions.BadRequestError, match="logprobs"):
        litellm.completion(messages=QUESTION, logprobs=True, **options(endpoint, "openai", "quality"))
