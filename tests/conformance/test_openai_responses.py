"""The official client's Responses, synchronous and asynchronous, against the real server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseReasoningItem,
    ResponseTextDeltaEvent,
)
from pydantic import BaseModel, SecretStr

from tests.conformance.conftest import CITY, Endpoint

QUESTION = "What is 6 times 7?"
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "How the weather is.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class City(BaseModel):
    city: str
    degrees: int


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=endpoint.v1, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def asynchronous(endpoint: Endpoint) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=endpoint.v1, api_key="none", max_retries=0) as client:
        yield client


def exactly(response: Response) -> Response:
    """The response, whose every field is of the type that the client's own classes say: it does not look itself."""
    return Response.model_validate(json.loads(response.model_dump_json(by_alias=True, warnings="error")), strict=False)


@pytest.mark.client("openai", "Responses")
def test_an_answer(client: openai.OpenAI, either: str) -> None:
    response = client.responses.create(model=either, input=QUESTION, instructions="Be brief.", metadata={"a": "b"})
    assert "42" in exactly(response).output_text
    assert response.status == "completed"
    assert response.instructions == "Be brief."
    assert response.metadata == {"a": "b"}
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    calls = response.usage.fusion["calls"]  # type: ignore[attr-defined]
    assert response.usage.output_tokens == sum(call["completion_tokens"] for call in calls)
    assert response.fusion["trace_id"] in response.id  # type: ignore[attr-defined]


@pytest.mark.client("openai", "Responses, async")
async def test_an_answer_asynchronously(asynchronous: openai.AsyncOpenAI, either: str) -> None:
    response = await asynchronous.responses.create(model=either, input=[{"role": "user", "content": QUESTION}])
    assert "42" in exactly(response).output_text


@pytest.mark.client("openai", "Responses, streaming")
def test_a_stream(client: openai.OpenAI, either: str) -> None:
    events = list(client.responses.create(model=either, input=QUESTION, stream=True))
    assert events[0].type == "response.created"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if isinstance(event, ResponseTextDeltaEvent))
    last = events[-1]
    assert isinstance(last, ResponseCompletedEvent)
    assert exactly(last.response).output_text == text
    assert "42" in text


@pytest.mark.client("openai", "Responses, panel events")
def test_the_panel_at_work_is_told_to_a_client_that_does_not_know_it(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="quality", input=QUESTION, stream=True))
    told = [str(event.type) for event in events if event.type.startswith("response.fusion_call.")]
    assert told[0] == "response.fusion_call.in_progress"
    assert told.count("response.fusion_call.panel.added") == 3
    assert told.count("response.fusion_call.panel.completed") == 3
    assert "response.fusion_call.analysis.completed" in told
    assert told[-1] == "response.fusion_call.completed"


@pytest.mark.client("openai", "Responses, streaming helper")
def test_the_streaming_helper(client: openai.OpenAI, either: str) -> None:
    with client.responses.stream(model=either, input=QUESTION) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert "42" in text
    assert exactly(final).output_text == text


@pytest.mark.client("openai", "Responses, streaming helper, async")
async def test_the_streaming_helper_asynchronously(asynchronous: openai.AsyncOpenAI, either: str) -> None:
    async with asynchronous.responses.stream(model=either, input=QUESTION) as stream:
        final = await stream.get_final_response()
    assert "42" in exactly(final).output_text


@pytest.mark.client("openai", "Responses, structured outputs")
def test_an_answer_in_a_shape(client: openai.OpenAI, either: str) -> None:
    parsed = client.responses.parse(model=either, input="How warm is it in Bonn?", text_format=City)
    assert parsed.output_parsed == City(**CITY)
    assert parsed.text is not None
    assert parsed.text.format is not None
    assert parsed.text.format.type == "json_schema"


@pytest.mark.client("openai", "Responses, structured outputs, streamed")
async def test_an_answer_in_a_shape_streamed(asynchronous: openai.AsyncOpenAI, either: str) -> None:
    asked: Any = {"model": either, "input": "How warm is it in Bonn?", "text_format": City}
    async with asynchronous.responses.stream(**asked) as stream:
        done = [event async for event in stream if event.type == "response.output_text.done"]
        final = await stream.get_final_response()
    assert [event.parsed for event in done] == [City(**CITY)]
    assert final.output_parsed == City(**CITY)
    parsed = await asynchronous.responses.parse(**asked)
    assert parsed.output_parsed == City(**CITY)


@pytest.mark.client("openai", "Responses, tool loop")
@pytest.mark.parametrize("model", ["a", "one"])
@pytest.mark.parametrize("stored", [True, False])
def test_a_tool_is_called_and_its_result_read(client: openai.OpenAI, model: str, stored: bool) -> None:
    question: Any = {"role": "user", "content": "How is the weather in Bonn?"}
    first = client.responses.create(model=model, input=[question], tools=[WEATHER], store=stored)
    (call,) = [item for item in exactly(first).output if isinstance(item, ResponseFunctionToolCall)]
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Bonn"})
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "12 °C"}
    # Either the server remembers, or the client sends back what it has got, as it came.
    before: Any = [question, *(item.model_dump(exclude_unset=True) for item in first.output)]
    asked: Any = {"input": [result], "previous_response_id": first.id} if stored else {"input": [*before, result]}
    second = client.responses.create(model=model, tools=[WEATHER], **asked)
    assert exactly(second).output_text == "It is 12 °C in Bonn."


@pytest.mark.client("openai", "Responses, parallel tool calls, streamed")
def test_several_tools_are_called_at_once_and_streamed(client: openai.OpenAI, either: str) -> None:
    with client.responses.stream(model=either, input="Is it warm in both towns?", tools=[WEATHER]) as stream:
        arguments = [event.snapshot for event in stream if event.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()
    calls = [item for item in final.output if item.type == "function_call"]
    assert [json.loads(call.arguments)["city"] for call in calls] == ["Bonn", "Rome"]
    assert [json.loads(text) for text in arguments] == [json.loads(call.arguments) for call in calls]
    assert [call.parsed_arguments for call in calls] == [{"city": "Bonn"}, {"city": "Rome"}]


@pytest.mark.client("openai", "Responses, reasoning")
@pytest.mark.parametrize("model", ["a", "one"])
def test_what_was_thought_is_an_item_of_its_own(client: openai.OpenAI, model: str) -> None:
    response = exactly(client.responses.create(model=model, input="think"))
    thoughts, answer = response.output
    assert isinstance(thoughts, ResponseReasoningItem)
    assert thoughts.content is not None
    assert "".join(part.text for part in thoughts.content).strip() == "Let me see."
    assert answer.type == "message"
    assert response.output_text == "Thought through."
    assert response.usage is not None
    assert 0 < response.usage.output_tokens_details.reasoning_tokens < response.usage.output_tokens
    with client.responses.stream(model=model, input="think", reasoning={"summary": "auto"}) as stream:
        told = "".join(event.delta for event in stream if event.type == "response.reasoning_summary_text.delta")
        final = stream.get_final_response()
    assert told.strip() == "Let me see."
    assert isinstance(final.output[0], ResponseReasoningItem)
    assert final.output[0].summary[0].text == told


@pytest.mark.client("openai", "Responses, stored and gone on from")
def test_a_conversation_goes_on(client: openai.OpenAI, either: str) -> None:
    first = client.responses.create(model=either, input="Hello")
    second = client.responses.create(model=either, input="How is the weather in Bonn?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    items = client.responses.input_items.list(second.id, order="asc")
    assert [item.type for item in items] == ["message", "message", "message"]
    assert [item.id for item in client.responses.input_items.list(second.id, limit=1)] == [
        item.id for item in reversed(items.data)
    ]
    kept = client.responses.retrieve(second.id, include=["message.input_image.image_url"])
    assert kept.to_dict() == second.to_dict()
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as told:
        client.responses.create(model=either, input="And?", previous_response_id=second.id)
    assert told.value.code == "previous_response_not_found"
    assert told.value.param == "previous_response_id"


@pytest.mark.client("openai", "Responses, input_tokens")
def test_tokens_of_the_input_are_counted(client: openai.OpenAI, either: str) -> None:
    assert client.responses.input_tokens.count(model=either, input=QUESTION).input_tokens > 0


def test_an_answer_that_is_cut_says_so(client: openai.OpenAI) -> None:
    response = exactly(client.responses.create(model="slow", input="Count.", max_output_tokens=3))
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    last = list(client.responses.create(model="slow", input="Count.", max_output_tokens=3, stream=True))[-1]
    assert last.type == "response.incomplete"


@pytest.mark.client("openai", "Responses, errors")
def test_errors_are_the_clients_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="did you mean 'quality'"):
        client.responses.create(model="qualty", input="Hi")
    with pytest.raises(openai.BadRequestError) as told:
        client.responses.create(model="quality", input=[{"role": "user", "content": [{"type": "input_file"}]}])
    assert told.value.param == "input[0].content[0].type"
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.create(model="quality", input="Hi", background=True)
    made = client.responses.create(model="a", input="Hi")
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(made.id)
    with pytest.raises(openai.BadRequestError, match="not streamed again"):
        list(client.responses.retrieve(made.id, stream=True))


async def test_a_stream_that_is_left_ends(asynchronous: openai.AsyncOpenAI) -> None:
    async with asynchronous.responses.stream(model="slow", input="Count.") as stream:
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
    assert "42" in (await asynchronous.responses.create(model="quality", input=QUESTION)).output_text


@tool
def weather(city: str) -> str:
    """How the weather is."""
    return f"12 °C in {city}"


def langchain(endpoint: Endpoint, model: str) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=endpoint.v1, api_key=SecretStr("none"), model=model, max_retries=0, use_responses_api=True
    )


@pytest.mark.client("LangChain", "Responses")
def test_langchain_asks_and_streams(endpoint: Endpoint, either: str) -> None:
    model = langchain(endpoint, either)
    answer = model.invoke(QUESTION)
    assert "42" in answer.text
    assert answer.usage_metadata is not None
    whole = AIMessageChunk(content="")
    for chunk in model.stream(QUESTION):
        whole += chunk
    assert whole.text == answer.text
    assert whole.usage_metadata is not None
    shaped = model.with_structured_output(City, method="json_schema").invoke("How warm is it in Bonn?")
    assert shaped == City(**CITY)


@pytest.mark.client("LangChain", "Responses, tools")
@pytest.mark.parametrize("model", ["a", "one"])
def test_langchain_calls_tools(endpoint: Endpoint, model: str) -> None:
    able = langchain(endpoint, model).bind_tools([weather])
    question = HumanMessage("How is the weather in Bonn?")
    first = able.invoke([question])
    assert [(call["name"], call["args"]) for call in first.tool_calls] == [("weather", {"city": "Bonn"})]
    results = [weather.invoke(call) for call in first.tool_calls]
    assert able.invoke([question, first, *results]).text == "It is 12 °C in Bonn."


@pytest.mark.client("LangChain", "Responses, gone on from")
def test_langchain_goes_on_from_a_response(endpoint: Endpoint, either: str) -> None:
    model = ChatOpenAI(
        base_url=endpoint.v1, api_key=SecretStr("none"), model=either, max_retries=0, use_previous_response_id=True
    )
    first = model.invoke("Hello")
    assert "42" in model.invoke([HumanMessage("Hello"), first, HumanMessage(QUESTION)]).text


@pytest.mark.client("LiteLLM", "Responses")
def test_litellm_asks_and_streams(endpoint: Endpoint, either: str) -> None:
    import litellm  # which takes seconds

    asked: Any = {"model": f"openai/{either}", "input": QUESTION, "api_base": endpoint.v1, "api_key": "none"}
    answer: Any = litellm.responses(**asked)
    assert "42" in answer.output[-1].content[0].text
    events: Any = litellm.responses(**asked, stream=True)
    assert [str(event.type.value) for event in events][-1] == "response.completed"
