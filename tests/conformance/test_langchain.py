"""LangChain's model for OpenAI's interface, of an engine and of a fusion."""

from __future__ import annotations

import httpx
import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from tests.conformance.conftest import CITY, Endpoint

QUESTION = "What is 6 times 7?"


class City(BaseModel):
    """A town and its weather."""

    city: str
    degrees: int


@tool
def weather(city: str) -> str:
    """How the weather is."""
    return f"12 °C in {city}"


def chat(endpoint: Endpoint, model: str) -> ChatOpenAI:
    # Its own would be kept from one test to the next, and belongs to the event loop of the first.
    connections = httpx.AsyncClient()
    return ChatOpenAI(
        base_url=endpoint.v1, api_key=SecretStr("none"), model=model, max_retries=0, http_async_client=connections
    )


@pytest.mark.client("LangChain", "invoke")
def test_an_answer_and_what_it_cost(endpoint: Endpoint, either: str) -> None:
    answer = chat(endpoint, either).invoke(QUESTION)
    assert "42" in answer.text
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] > 0


@pytest.mark.client("LangChain", "ainvoke, batch")
async def test_several_questions_at_once(endpoint: Endpoint, either: str) -> None:
    answers = await chat(endpoint, either).abatch([QUESTION, QUESTION])
    assert all("42" in answer.text for answer in answers)


@pytest.mark.client("LangChain", "stream")
def test_a_stream_adds_up_to_the_answer(endpoint: Endpoint, either: str) -> None:
    whole = AIMessageChunk(content="")
    for chunk in chat(endpoint, either).stream(QUESTION, stream_usage=True):
        whole += chunk
    assert "42" in whole.text
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] > 0


@pytest.mark.client("LangChain", "astream")
async def test_a_stream_without_blocking(endpoint: Endpoint, either: str) -> None:
    text = "".join([chunk.text async for chunk in chat(endpoint, either).astream(QUESTION)])
    assert "42" in text


@pytest.mark.client("LangChain", "bind_tools")
@pytest.mark.parametrize("caller", ["a", "best"], ids=["engine", "fusion"])
def test_a_tool_is_called_and_its_result_used(endpoint: Endpoint, caller: str) -> None:
    question = HumanMessage("How is the weather in Bonn?")
    asked = chat(endpoint, caller).bind_tools([weather]).invoke([question])
    assert [(call["name"], call["args"]) for call in asked.tool_calls] == [("weather", {"city": "Bonn"})]
    result = ToolMessage(weather.invoke(asked.tool_calls[0]["args"]), tool_call_id=asked.tool_calls[0]["id"])
    assert chat(endpoint, caller).invoke([question, asked, result]).text == "It is 12 °C in Bonn."


@pytest.mark.client("LangChain", "with_structured_output")
def test_an_answer_is_parsed_into_a_class(endpoint: Endpoint, either: str) -> None:
    model = chat(endpoint, either).with_structured_output(City, method="json_schema")
    assert model.invoke(QUESTION) == City(**CITY)
