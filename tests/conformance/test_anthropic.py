"""Anthropic's own client on messages: synchronous and not, of an engine and of a fusion."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import pytest
from anthropic import beta_async_tool, beta_tool
from pydantic import BaseModel

from tests.conformance.conftest import CITY, Endpoint

QUESTION: Any = [{"role": "user", "content": "What is 6 times 7?"}]
WEATHER: Any = {
    "name": "weather",
    "description": "How the weather is.",
    "strict": True,
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
# A fusion that hands a member's tool calls on, and the engine itself.
CALLERS = pytest.mark.parametrize("caller", ["a", "best"], ids=["engine", "fusion"])
THINKERS = pytest.mark.parametrize("thinker", ["a", "one"], ids=["engine", "fusion"])


class City(BaseModel):
    city: str
    degrees: int


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=endpoint.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def later(endpoint: Endpoint) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=endpoint.url, api_key="none", max_retries=0) as client:
        yield client


def text_of(message: Any) -> str:
    """An answer's text: all of its blocks are text."""
    assert {block.type for block in message.content} == {"text"}
    return "".join(block.text for block in message.content)


@pytest.mark.client("anthropic", "messages")
def test_an_answer_and_what_it_cost(client: anthropic.Anthropic, either: str) -> None:
    answer = client.messages.create(model=either, max_tokens=500, messages=QUESTION, system="Be brief.")
    assert "42" in text_of(answer)
    assert (answer.type, answer.role, answer.model, answer.stop_reason) == ("message", "assistant", either, "end_turn")
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0
    told: Any = answer
    assert told.usage.fusion["calls"]
    assert (told.fusion["partial"], told.id) == (False, f"msg_{told.fusion['trace_id']}")


@pytest.mark.client("anthropic", "messages, async")
async def test_an_answer_without_blocking(later: anthropic.AsyncAnthropic, either: str) -> None:
    assert "42" in text_of(await later.messages.create(model=either, max_tokens=500, messages=QUESTION))


@pytest.mark.client("anthropic", "streaming")
def test_raw_events_of_a_stream(client: anthropic.Anthropic, either: str) -> None:
    stream = client.messages.create(model=either, max_tokens=500, messages=QUESTION, stream=True)
    kinds = [event.type for event in stream]
    assert (kinds[:2], kinds[-3:]) == (
        ["message_start", "content_block_start"],
        ["content_block_stop", "message_delta", "message_stop"],
    )


@pytest.mark.client("anthropic", "streaming helper")
def test_the_streaming_helper_puts_the_answer_together(client: anthropic.Anthropic, either: str) -> None:
    with client.messages.stream(model=either, max_tokens=500, messages=QUESTION) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert "42" in text
    assert text == text_of(final)
    assert final.stop_reason == "end_turn"
    assert final.usage.input_tokens > 0
    assert final.usage.output_tokens > 0


@pytest.mark.client("anthropic", "streaming helper, async")
async def test_the_streaming_helper_without_blocking(later: anthropic.AsyncAnthropic, either: str) -> None:
    async with later.messages.stream(model=either, max_tokens=500, messages=QUESTION) as stream:
        assert "42" in "".join([text async for text in stream.text_stream])
        assert "42" in await stream.get_final_text()


@pytest.mark.client("anthropic", "structured outputs")
def test_an_answer_is_parsed_into_a_class(client: anthropic.Anthropic, either: str) -> None:
    answer = client.messages.parse(model=either, max_tokens=500, messages=QUESTION, output_format=City)
    assert answer.parsed_output == City(**CITY)


@pytest.mark.client("anthropic", "structured outputs, streamed")
def test_a_streamed_answer_is_parsed_into_a_class(client: anthropic.Anthropic, either: str) -> None:
    with client.messages.stream(model=either, max_tokens=500, messages=QUESTION, output_format=City) as stream:
        assert stream.get_final_message().parsed_output == City(**CITY)


@pytest.mark.client("anthropic", "tool loop")
@CALLERS
def test_a_tool_is_called_and_its_result_used(client: anthropic.Anthropic, caller: str) -> None:
    messages: Any = [{"role": "user", "content": "How is the weather in Bonn?"}]
    asked = client.messages.create(model=caller, max_tokens=500, messages=messages, tools=[WEATHER])
    assert asked.stop_reason == "tool_use"
    call = asked.content[-1]
    assert call.type == "tool_use"
    assert call.input == {"city": "Bonn"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "12 °C"}]}
    messages += [{"role": "assistant", "content": asked.content}, {"role": "user", "content": [result]}]
    answer = client.messages.create(
        model=caller, max_tokens=500, messages=messages, tools=[WEATHER], tool_choice={"type": "none"}
    )
    assert (text_of(answer), answer.stop_reason) == ("It is 12 °C in Bonn.", "end_turn")


@pytest.mark.client("anthropic", "tool runner")
@CALLERS
def test_the_tool_runner_runs_a_tool(client: anthropic.Anthropic, caller: str) -> None:
    asked: list[str] = []

    @beta_tool
    def weather(city: str) -> str:
        """How the weather is."""
        asked.append(city)
        return "Rain, I fear."

    question: Any = {"role": "user", "content": "How is the weather in Bonn?"}
    runner = client.beta.messages.tool_runner(model=caller, max_tokens=500, tools=[weather], messages=[question])
    assert text_of(runner.until_done()) == "echo: Rain, I fear."
    assert asked == ["Bonn"]


@pytest.mark.client("anthropic", "tool runner, async and streamed")
@CALLERS
async def test_the_tool_runner_without_blocking(later: anthropic.AsyncAnthropic, caller: str) -> None:
    @beta_async_tool
    async def weather(city: str) -> str:
        """How the weather is."""
        return f"Rain in {city}."

    question: Any = {"role": "user", "content": "How is the weather in Bonn?"}
    runner = later.beta.messages.tool_runner(
        model=caller, max_tokens=500, tools=[weather], messages=[question], stream=True
    )
    last: Any = None
    async for stream in runner:
        last = await stream.get_final_message()
    assert text_of(last) == "echo: Rain in Bonn."


@pytest.mark.client("anthropic", "parallel tool calls, streamed")
@CALLERS
def test_several_tools_are_called_at_once_in_a_stream(client: anthropic.Anthropic, caller: str) -> None:
    question: Any = {"role": "user", "content": "Look at both towns."}
    with client.messages.stream(model=caller, max_tokens=500, messages=[question], tools=[WEATHER]) as stream:
        final = stream.get_final_message()
    calls = [block for block in final.content if block.type == "tool_use"]
    assert [call.input["city"] for call in calls] == ["Bonn", "Rome"]
    assert len({call.id for call in calls}) == 2


@pytest.mark.client("anthropic", "thinking")
@THINKERS
def test_what_was_thought_comes_in_a_block_where_it_is_asked_for(client: anthropic.Anthropic, thinker: str) -> None:
    question: Any = [{"role": "user", "content": "think"}]
    answer = client.messages.create(
        model=thinker, max_tokens=2000, messages=question, thinking={"type": "enabled", "budget_tokens": 1024}
    )
    thought, said = answer.content
    assert said.type == "text"
    assert thought.type == "thinking"
    assert thought.thinking.strip() == "Let me see."
    assert thought.signature
    again = [*question, {"role": "assistant", "content": answer.content}, {"role": "user", "content": "And now?"}]
    assert text_of(client.messages.create(model=thinker, max_tokens=500, messages=again)) == "echo: And now?"


@pytest.mark.client("anthropic", "thinking, streamed")
@THINKERS
def test_thoughts_are_streamed(client: anthropic.Anthropic, thinker: str) -> None:
    question: Any = [{"role": "user", "content": "think"}]
    with client.messages.stream(
        model=thinker, max_tokens=500, messages=question, thinking={"type": "adaptive"}
    ) as stream:
        thought = "".join(event.thinking for event in stream if event.type == "thinking")
        final = stream.get_final_message()
    assert thought.strip() == "Let me see."
    assert [block.type for block in final.content] == ["thinking", "text"]


@pytest.mark.client("anthropic", "stop sequences, max_tokens")
def test_what_ended_an_answer(client: anthropic.Anthropic) -> None:
    drawn = {"temperature": 0, "top_p": 0.9, "top_k": 5}  # which newer clients do not name any more
    stopped = client.messages.create(
        model="a", max_tokens=500, stop_sequences=["42", "41"], messages=QUESTION, extra_body=drawn
    )
    assert (text_of(stopped).strip(), stopped.stop_reason, stopped.stop_sequence) == ("It is", "stop_sequence", "42")
    cut = client.messages.create(model="a", max_tokens=2, messages=QUESTION)
    assert (text_of(cut), cut.stop_reason, cut.stop_sequence) == ("It is", "max_tokens", None)


@pytest.mark.client("anthropic", "count_tokens")
def test_a_conversation_is_counted_with_its_system_prompt_and_tools(client: anthropic.Anthropic, either: str) -> None:
    alone = client.messages.count_tokens(model=either, messages=QUESTION).input_tokens
    more = client.messages.count_tokens(model=either, messages=QUESTION, system="Be brief.", tools=[WEATHER])
    assert 0 < alone < more.input_tokens
    beta = client.beta.messages.count_tokens(model=either, messages=QUESTION)
    assert beta.input_tokens == alone


@pytest.mark.client("anthropic", "models")
def test_models_are_listed_page_by_page_and_looked_up(client: anthropic.Anthropic) -> None:
    listed = {model.id: model for model in client.models.list(limit=2)}
    assert {"quality", "vote", "best", "one", "a", "b", "slow"} <= listed.keys()
    assert listed["quality"].type == "model"
    assert listed["quality"].created_at.year > 2000
    one = client.models.retrieve("quality")
    assert (one.id, one.display_name, one.lifecycle) == ("quality", "quality", "active")
    assert one.max_input_tokens == 1024
    assert one.capabilities is not None
    assert one.capabilities.thinking.types.adaptive.supported
    assert not one.capabilities.image_input.supported


@pytest.mark.client("anthropic", "request ids")
def test_every_answer_has_a_request_id(client: anthropic.Anthropic, either: str) -> None:
    raw = client.messages.with_raw_response.create(model=either, max_tokens=500, messages=QUESTION)
    assert raw.headers["request-id"]
    assert raw.parse()._request_id == raw.headers["request-id"]


@pytest.mark.client("anthropic", "errors")
def test_errors_are_the_classes_that_clients_catch(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="quality") as missing:
        client.messages.create(model="qualty", max_tokens=500, messages=QUESTION)
    assert (missing.value.type, bool(missing.value.request_id)) == ("not_found_error", True)
    with pytest.raises(anthropic.BadRequestError, match="temperature") as refused:
        client.messages.create(model="quality", max_tokens=500, messages=QUESTION, extra_body={"temperature": 9})
    assert (refused.value.type, refused.value.error_code) == ("invalid_request_error", "invalid_request")
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("qualty")


@pytest.mark.client("anthropic", "errors in a stream")
def test_an_error_in_a_stream_is_raised(client: anthropic.Anthropic, either: str) -> None:
    question: Any = [{"role": "user", "content": "word " * 2000}]
    with (
        pytest.raises(anthropic.APIStatusError, match="too long") as raised,
        client.messages.stream(model=either, max_tokens=500, messages=question) as stream,
    ):
        stream.get_final_message()
    assert raised.value.type == "invalid_request_error"


@pytest.mark.client("anthropic", "leaving a stream")
def test_a_stream_may_be_left_in_the_middle(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="slow", max_tokens=500, messages=QUESTION) as stream:
        assert next(iter(stream.text_stream))
    assert client.messages.create(model="a", max_tokens=500, messages=QUESTION).content
