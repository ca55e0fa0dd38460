"""OpenAI's own client on chat completions: synchronous and not, of an engine and of a fusion."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.conformance.conftest import CITY, Endpoint

QUESTION: Any = [{"role": "user", "content": "What is 6 times 7?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "How the weather is.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
# A fusion that hands a member's tool calls on, and the engine itself.
CALLERS = pytest.mark.parametrize("caller", ["a", "best"], ids=["engine", "fusion"])


class City(BaseModel):
    city: str
    degrees: int


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=endpoint.v1, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def later(endpoint: Endpoint) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=endpoint.v1, api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.client("openai", "chat")
def test_an_answer_and_what_it_cost(client: openai.OpenAI, either: str) -> None:
    answer = client.chat.completions.create(model=either, messages=QUESTION)
    assert "42" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


@pytest.mark.client("openai", "chat, async")
async def test_an_answer_without_blocking(later: openai.AsyncOpenAI, either: str) -> None:
    answer = await later.chat.completions.create(model=either, messages=QUESTION)
    assert "42" in (answer.choices[0].message.content or "")


@pytest.mark.client("openai", "streaming")
def test_a_stream_with_its_usage_at_the_end(client: openai.OpenAI, either: str) -> None:
    stream = client.chat.completions.create(
        model=either, messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "42" in text
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens > 0


@pytest.mark.client("openai", "streaming, async")
async def test_a_stream_without_blocking(later: openai.AsyncOpenAI, either: str) -> None:
    stream = await later.chat.completions.create(model=either, messages=QUESTION, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert "42" in text


@pytest.mark.client("openai", "streaming helper")
def test_the_streaming_helper_puts_the_answer_together(client: openai.OpenAI, either: str) -> None:
    with client.chat.completions.stream(model=either, messages=QUESTION) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "42" in (final.choices[0].message.content or "")
    assert kinds.count("content.done") == 1


@pytest.mark.client("openai", "structured outputs")
def test_an_answer_is_parsed_into_a_class(client: openai.OpenAI, either: str) -> None:
    answer = client.chat.completions.parse(model=either, messages=QUESTION, response_format=City)
    assert answer.choices[0].message.parsed == City(**CITY)


@pytest.mark.client("openai", "structured outputs, streamed")
async def test_a_streamed_answer_is_parsed_into_a_class(later: openai.AsyncOpenAI, either: str) -> None:
    async with later.chat.completions.stream(model=either, messages=QUESTION, response_format=City) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == City(**CITY)


@pytest.mark.client("openai", "tool loop")
@CALLERS
def test_a_tool_is_called_and_its_result_used(client: openai.OpenAI, caller: str) -> None:
    messages: Any = [{"role": "user", "content": "How is the weather in Bonn?"}]
    asked = client.chat.completions.create(model=caller, messages=messages, tools=[WEATHER]).choices[0]
    assert asked.finish_reason == "tool_calls"
    assert asked.message.tool_calls is not None
    call: Any = asked.message.tool_calls[0]
    assert json.loads(call.function.arguments) == {"city": "Bonn"}
    messages += [asked.message, {"role": "tool", "tool_call_id": call.id, "content": "12 °C"}]
    answer = client.chat.completions.create(model=caller, messages=messages)
    assert answer.choices[0].message.content == "It is 12 °C in Bonn."


@pytest.mark.client("openai", "parallel tool calls, streamed")
@CALLERS
def test_several_tools_are_called_at_once_in_a_stream(client: openai.OpenAI, caller: str) -> None:
    with client.chat.completions.stream(
        model=caller, messages=[{"role": "user", "content": "Look at both towns."}], tools=[WEATHER]
    ) as stream:
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls or []
    assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Bonn", "Rome"]
    assert len({call.id for call in calls}) == 2


@pytest.mark.client("openai", "tool_choice: none")
@CALLERS
def test_no_tool_is_called_where_none_may_be(client: openai.OpenAI, caller: str) -> None:
    answer = client.chat.completions.create(
        model=caller, messages=[{"role": "user", "content": "weather?"}], tools=[WEATHER], tool_choice="none"
    )
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content == "It is 12 °C in Bonn."


@pytest.mark.client("openai", "reasoning content")
@pytest.mark.parametrize("thinker", ["a", "one"], ids=["engine", "fusion"])
def test_what_was_thought_stands_beside_the_answer(client: openai.OpenAI, thinker: str) -> None:
    answer = client.chat.completions.create(model=thinker, messages=[{"role": "user", "content": "think"}])
    message: Any = answer.choices[0].message
    assert message.content == "Thought through."
    assert message.reasoning.strip() == "Let me see."


@pytest.mark.client("openai", "n, stop, seed, max_completion_tokens")
def test_several_answers_with_limits(client: openai.OpenAI, either: str) -> None:
    answer = client.chat.completions.create(
        model=either, messages=QUESTION, n=2, stop=["\n\n"], seed=7, max_completion_tokens=50, user="me"
    )
    assert [choice.index for choice in answer.choices] == [0, 1]


@pytest.mark.client("openai", "logprobs (engines)")
def test_an_engine_tells_probabilities(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="a", messages=QUESTION, logprobs=True, top_logprobs=2)
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content is not None
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2


def test_a_fusion_says_that_probabilities_are_for_engines(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="engine") as refused:
        client.chat.completions.create(model="quality", messages=QUESTION, logprobs=True)
    assert refused.value.param == "logprobs"


@pytest.mark.client("openai", "request ids")
def test_every_answer_has_a_request_id(client: openai.OpenAI, either: str) -> None:
    raw = client.chat.completions.with_raw_response.create(model=either, messages=QUESTION)
    assert raw.request_id
    assert raw.parse().choices


@pytest.mark.client("openai", "models")
def test_models_are_listed_and_looked_up(client: openai.OpenAI) -> None:
    assert {"quality", "vote", "best", "one", "a", "b", "slow"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("quality").id == "quality"


@pytest.mark.client("openai", "completions (engines)")
def test_an_engine_completes_a_text(client: openai.OpenAI) -> None:
    assert client.completions.create(model="a", prompt="Hello").choices[0].text


@pytest.mark.client("openai", "embeddings (engines)")
def test_an_engine_embeds_texts(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="a", input=["one", "two"], encoding_format="float")
    assert [entry.index for entry in answer.data] == [0, 1]


@pytest.mark.client("openai", "errors")
def test_errors_are_the_classes_that_clients_catch(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="quality"):
        client.chat.completions.create(model="qualty", messages=QUESTION)
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="quality", messages=QUESTION, temperature=9)
    assert refused.value.param == "temperature"
    assert refused.value.request_id


@pytest.mark.client("openai", "leaving a stream")
def test_a_stream_may_be_left_in_the_middle(client: openai.OpenAI) -> None:
    with client.chat.completions.create(model="slow", messages=QUESTION, stream=True) as stream:
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break
    assert client.chat.completions.create(model="a", messages=QUESTION).choices
