"""Chat completions over HTTP: the official client, the raw wire, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from local_fusion.config.strategies import STRATEGY_CONFIGS
from tests.engines.waiting import eventually, recorded
from tests.fake_engine import Script
from tests.serving import Served, serving, tiny_config

ANALYSIS = {
    "consensus": ["it is 42"],
    "contradictions": [],
    "partial_coverage": [],
    "unique_insights": [],
    "blind_spots": [],
}
FUSIONS = {
    "panel": {
        "strategy": "synthesize",
        "panel": [{"model": "a", "samples": 2}, "b"],
        "judge": "b",
    },
    "vote": {"strategy": "vote", "extract": "number", "panel": [{"model": "a", "samples": 2}, "b"]},
    "best": {"strategy": "best_of", "panel": [{"model": "a", "samples": 2}], "judge": "b"},
    "one": {"strategy": "single", "panel": ["a"]},
}
QUESTION: Any = [{"role": "user", "content": "What is 6 times 7?"}]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "record.jsonl"


@pytest.fixture
async def served(tmp_path: Path, record: Path) -> AsyncIterator[Served]:
    config = tiny_config(tmp_path, ["a", "b"], fusions=FUSIONS, server={"keep_alive_seconds": 0.1})
    scripts: dict[str, Script | list[Script]] = {
        "a": Script(rules=[(r"^What", ["It is 41.", "It is 42."])], record=str(record)),
        "b": Script(
            rules=[("write the final answer", "The answer is 42."), (r"^What", "I say 42.")],
            json_reply=ANALYSIS,
            token_seconds=0.01,
            weights=[("answer_a>\nIt is 42", {"A": 0.9, "B": 0.1}), ("answer_b>\nIt is 42", {"A": 0.1, "B": 0.9})],
        ),
    }
    async with serving(config, scripts) as running:
        yield running


@pytest.fixture
async def client(served: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def post(served: Served, body: Any, path: str = "/v1/chat/completions") -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with session.post(served.url + path, data=data) as response:
            answer: dict[str, Any] = await response.json()
            return response.status, answer


async def lines(served: Served, body: dict[str, Any]) -> list[str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(served.url + "/v1/chat/completions", json={**body, "stream": True}) as response,
    ):
        assert response.status == 200, await response.text()
        assert response.headers["content-type"].startswith("text/event-stream")
        return [line.decode().rstrip("\n") async for line in response.content if line != b"\n"]


def chunks(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


async def test_the_official_client_asks_a_fusion(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="panel", messages=QUESTION)
    assert answer.choices[0].message.content == "The answer is 42."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    calls = answer.usage.fusion["calls"]  # type: ignore[attr-defined]
    assert [call["stage"] for call in calls] == ["panel", "panel", "judge", "synthesis"]
    assert answer.usage.prompt_tokens == sum(call["prompt_tokens"] for call in calls)
    assert answer.usage.completion_tokens == sum(call["completion_tokens"] for call in calls)
    told = answer.fusion  # type: ignore[attr-defined]
    assert (told["strategy"], told["partial"], told["failed"]) == ("synthesize", False, [])
    assert answer.id == f"chatcmpl-{told['trace_id']}"
    assert "candidates" not in told


async def test_the_official_client_streams_a_fusion(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="panel",
        messages=QUESTION,
        stream=True,
        stream_options={"include_usage": True},
    )
    received = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in received if chunk.choices) == "The answer is 42."
    assert len([chunk for chunk in received if chunk.choices and chunk.choices[0].delta.content]) > 1
    assert [chunk.choices[0].finish_reason for chunk in received if chunk.choices][-1] == "stop"
    assert received[-1].usage is not None
    assert received[-1].choices == []


async def test_the_first_byte_comes_at_once_and_comments_while_the_panel_works(tmp_path: Path, record: Path) -> None:
    config = tiny_config(tmp_path, ["a"], fusions={"one": FUSIONS["one"]}, server={"keep_alive_seconds": 0.05})
    async with (
        serving(config, {"a": Script(hang=True, record=str(record))}) as served,
        aiohttp.ClientSession() as session,
    ):
        body = {"model": "one", "messages": QUESTION, "stream": True}
        async with session.post(f"{served.url}/v1/chat/completions", json=body) as response:
            first = await asyncio.wait_for(response.content.readline(), 5)
            assert json.loads(first[6:])["choices"][0]["delta"] == {"role": "assistant", "content": ""}
            await response.content.readline()
            assert (await asyncio.wait_for(response.content.readline(), 5)).startswith(b": ")


async def test_comments_come_also_while_the_panel_makes_progress_that_the_client_does_not_see(tmp_path: Path) -> None:
    vote = {"strategy": "vote", "extract": "number", "panel": ["a"]}
    config = tiny_config(tmp_path, ["a"], fusions={"vote": vote}, server={"keep_alive_seconds": 0.3})
    # Progress is told every 0.1 s, so no pause between events is as long as a comment is to wait.
    slow = Script(rules=[("", "word " * 30 + "42")], token_seconds=0.05)
    async with serving(config, {"a": slow}) as served:
        told = await lines(served, {"model": "vote", "messages": QUESTION})
    assert told.count(": the panel is at work") >= 2


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_takes_the_engines_work_with_it(
    tmp_path: Path, record: Path, stream: bool
) -> None:
    # Comments are rare here, so that only the disconnect itself can tell the server.
    config = tiny_config(tmp_path, ["a"], fusions={"one": FUSIONS["one"]}, server={"keep_alive_seconds": 600})
    async with serving(config, {"a": Script(hang=True, record=str(record))}) as served:
        for model in ("one", "a"):
            async with aiohttp.ClientSession() as session:
                body = {"model": model, "messages": QUESTION, "stream": stream}
                asking = asyncio.create_task(session.post(f"{served.url}/v1/chat/completions", json=body))
                before = len(recorded(record))
                await eventually(lambda before=before: len(recorded(record)) > before)  # type: ignore[misc]
                asking.cancel()
                await asyncio.wait({asking})
            await eventually(lambda: recorded(record)[-1]["event"] == "disconnected", 1.0)


async def test_usage_candidates_and_verdict_come_when_asked_for(served: Served) -> None:
    status, answer = await post(
        served,
        {
            "model": "vote",
            "messages": QUESTION,
            "fusion": {"include": ["candidates", "verdict", "trace"]},
            "user": "me",
        },
    )
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "It is 42."
    told = answer["fusion"]
    assert [candidate["text"] for candidate in told["candidates"]] == ["It is 41.", "It is 42.", "I say 42."]
    assert told["verdict"]["votes"] == {"41": ["c1"], "42": ["c2", "c3"]}
    assert told["trace"][0]["type"] == "request"
    assert told["trace"][0]["user"] == "me"
    assert [entry["type"] for entry in told["trace"]].count("call_ended") == 2


async def test_best_of_returns_the_candidate_that_the_judge_prefers(served: Served) -> None:
    _, answer = await post(served, {"model": "best", "messages": QUESTION, "fusion": {"include": ["verdict"]}})
    assert answer["choices"][0]["message"]["content"] == "It is 42."
    assert answer["fusion"]["verdict"]["winner"] == "c2"


async def test_panel_events_ride_in_chunks_without_choices(served: Served) -> None:
    received = chunks(await lines(served, {"model": "panel", "messages": QUESTION, "fusion": {"events": True}}))
    told = [chunk["fusion"]["event"]["type"] for chunk in received if chunk.get("fusion", {}).get("event")]
    assert told[0] == "stage_started"
    assert {"member_started", "member_finished", "verdict_reached"} <= set(told)
    assert all(chunk["choices"] == [] for chunk in received if chunk.get("fusion", {}).get("event"))
    assert received[-1]["fusion"]["partial"] is False


async def test_a_request_overrides_parts_of_the_fusion(served: Served) -> None:
    status, answer = await post(
        served,
        {
            "model": "panel",
            "messages": QUESTION,
            "fusion": {
                "strategy": "vote",
                "extract": "number",
                "panel": [{"model": "b", "samples": 2}],
                "include": ["candidates"],
            },
        },
    )
    assert status == 200, answer
    assert answer["fusion"]["strategy"] == "vote"
    assert [candidate["model"] for candidate in answer["fusion"]["candidates"]] == ["b", "b"]


async def test_an_engine_request_passes_through_untouched(client: openai.AsyncOpenAI, record: Path) -> None:
    answer = await client.chat.completions.create(
        model="a",
        messages=QUESTION,
        n=2,
        extra_body={"min_p": 0.1, "anything": {"goes": True}},
    )
    assert [choice.message.content for choice in answer.choices] == ["It is 41.", "It is 42."]
    sent = next(entry["body"] for entry in recorded(record) if entry["event"] == "request")
    assert sent["anything"] == {"goes": True}
    completion = await client.completions.create(model="a", prompt="Hello")
    assert completion.choices[0].text == " world"
    assert (await client.embeddings.create(model="a", input="x")).data[0].embedding == [0.0, 1.0]


async def test_models_are_listed_fusions_first(client: openai.AsyncOpenAI) -> None:
    listed = [model async for model in client.models.list()]
    assert [model.id for model in listed] == ["panel", "vote", "best", "one", "a", "b"]
    assert (await client.models.retrieve("panel")).strategy == "synthesize"  # type: ignore[attr-defined]
    assert (await client.models.retrieve("a")).max_model_len == 1024  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError, match="did you mean 'panel'"):
        await client.models.retrieve("pannel")


NEEDS: dict[str, dict[str, Any]] = {
    "best_of": {"judge": "b"},
    "review": {"judge": "b"},
    "evolve": {"judge": "b", "generations": 1, "islands": 1},
    "refine": {"panel": ["a"], "reviewer": "b"},
    "muse": {"panel": ["a"], "muse": "b", "trigger": {"every": 1}},
    "relay": {"panel": ["a", "b"], "max_tokens": 8},
    "route": {"otherwise": "b"},
}


async def test_a_fusion_takes_any_strategy_for_one_request(served: Served) -> None:
    for strategy in STRATEGY_CONFIGS:
        fusion = {"strategy": strategy, **NEEDS.get(strategy, {})}
        status, answer = await post(served, {"model": "panel", "messages": QUESTION, "fusion": fusion})
        assert (status, answer.get("fusion", {}).get("strategy")) == (200, strategy), answer
        assert answer["choices"][0]["message"]["content"]
        assert answer["usage"]["total_tokens"] > 0


async def test_a_request_may_ask_for_a_preset_of_all_models(served: Served) -> None:
    asked = {"model": "one", "messages": QUESTION, "fusion": {"preset": "debate", "include": ["candidates"]}}
    status, answer = await post(served, asked)
    assert (status, answer["fusion"]["strategy"]) == (200, "debate")
    assert {candidate["model"] for candidate in answer["fusion"]["candidates"]} == {"a", "b"}


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"model": None}, "model", "missing"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", "system"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, None, "missing"),
        ({"temperature": 9}, "temperature", "less than or equal to 2"),
        ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
        ({"n": 17}, "n", "16"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'function'"),
        ({"logprobs": True}, "logprobs", "engines"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream"),
        ({"fusion": {"include": ["secrets"]}}, "fusion.include", "candidates"),
        ({"fusion": {"events": True}}, "fusion.events", "stream"),
        ({"fusion": {"panel": [{"model": "c"}]}}, "fusion.panel[0].model", "c"),
        ({"fusion": {"strategie": "vote"}}, "fusion.strategie", "strategy"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "differ"),
        ({"fusion": {"strategy": "vote", "extract": "regex:(a|aa)+$"}}, "fusion.extract", "configuration"),
        ({"fusion": {"panel": [{"model": "a", "samples": 256}] * 3}}, "fusion", "may order 512"),
        ({"user": "\ud800"}, None, "surrogate"),
    ],
)
async def test_a_field_is_honoured_or_rejected_by_name(
    served: Served, change: dict[str, Any], param: str | None, says: str
) -> None:
    status, answer = await post(served, {"model": "panel", "messages": QUESTION, **change})
    assert status == 400, answer
    assert answer["error"]["fault"] == "caller"
    assert answer["error"]["type"] == "invalid_request_error"
    assert says in answer["error"]["message"]
    if param is not None:
        assert answer["error"]["param"] == param


async def test_what_is_no_json_no_model_or_no_path_is_told(served: Served) -> None:
    assert (await post(served, b"{nope"))[0] == 400
    assert (await post(served, b"[1]"))[0] == 400
    assert (await post(served, b"[" * 100_000))[0] == 400
    status, answer = await post(served, {"model": "pane", "messages": QUESTION})
    assert status == 404
    assert "did you mean 'panel'" in answer["error"]["message"]
    status, answer = await post(served, {"model": "panel", "prompt": "x"}, "/v1/completions")
    assert (status, answer["error"]["param"]) == (400, "model")
    status, answer = await post(served, {}, "/v1/nothing")
    assert (status, answer["error"]["code"]) == (404, "not_found")
    status, answer = await post(served, {"model": "a", "messages": QUESTION, "fusion": {}})
    assert (status, answer["error"]["param"]) == (400, "fusion")


async def test_a_body_over_the_limit_is_refused(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, ["a"], fusions={"one": FUSIONS["one"]}, server={"max_body_bytes": 1000})
    async with serving(config, {}) as served:
        status, answer = await post(served, {"model": "one", "messages": [{"role": "user", "content": "x" * 2000}]})
    assert (status, answer["error"]["code"]) == (413, "request_too_large")


async def test_an_engine_killed_in_the_middle_leaves_the_rest_of_the_panel_and_comes_back(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, ["a", "b"], fusions={"vote": FUSIONS["vote"]})
    scripts: dict[str, Script | list[Script]] = {
        "a": [Script(die_after_tokens=3), Script(rules=[("", "7")])],
        "b": Script(rules=[("", "42")]),
    }
    async with serving(config, scripts) as served:
        status, answer = await post(served, {"model": "vote", "messages": QUESTION})
        assert status == 200
        assert answer["choices"][0]["message"]["content"] == "42"
        assert answer["fusion"]["partial"] is True
        (failure,) = answer["fusion"]["failed"]
        assert (failure["member"], failure["code"]) == ("a", "engine_died")
        failed = [call for call in answer["usage"]["fusion"]["calls"] if call["error"]]
        assert [call["completion_tokens"] for call in failed] == [3]
        await eventually(lambda: served.runtime.engines["a"].snapshot.restarts == 1)
        await served.runtime.engines["a"].ensure_awake()
        _, again = await post(served, {"model": "vote", "messages": QUESTION})
        assert again["fusion"]["partial"] is False


async def test_no_candidate_at_all_is_502_with_every_cause(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, ["a", "b"], fusions={"vote": FUSIONS["vote"]})
    scripts: dict[str, Script | list[Script]] = {"a": Script(cut_after_tokens=2), "b": Script(error_after_tokens=1)}
    async with serving(config, scripts) as served:
        status, answer = await post(served, {"model": "vote", "messages": QUESTION})
        assert status == 502
        assert answer["error"]["fault"] == "engine"
        assert {failure["member"] for failure in answer["error"]["failed"]} == {"a", "b"}
        assert "unwell" in answer["error"]["message"]
        told = await lines(served, {"model": "vote", "messages": QUESTION})
        assert chunks(told)[-1]["error"]["code"] == "panel_failed"
        assert told[-1] == "data: [DONE]"


async def test_the_official_client_raises_an_error_in_the_middle_of_a_stream(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, ["a"], fusions={"one": FUSIONS["one"]})
    async with serving(config, {"a": Script(error_after_tokens=2)}) as served:
        address = f"{served.url}/v1"
        async with openai.AsyncOpenAI(base_url=address, api_key="none", max_retries=0) as client:
            stream = await client.chat.completions.create(model="one", messages=QUESTION, stream=True)
            heard: list[str] = []

            async def listen() -> None:
                async for chunk in stream:
                    heard.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 - kept when it raises

            with pytest.raises(openai.APIError, match="unwell"):
                await listen()
    assert "".join(heard) == "echo: What"


async def test_a_conversation_too_long_for_every_member_is_the_callers_fault(served: Served) -> None:
    body = {"model": "one", "messages": [{"role": "user", "content": "word " * 2000}]}
    status, answer = await post(served, body)
    assert status == 400
    assert answer["error"]["code"] == "context_length_exceeded"


async def test_ready_says_what_can_be_answered(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, ["a", "b"], fusions={"vote": FUSIONS["vote"], "best": FUSIONS["best"]})
    scripts: dict[str, Script | list[Script]] = {
        "b": Script(crash_log="ValueError: Model architectures ['Foo'] are not supported for now.")
    }
    async with serving(config, scripts) as served, aiohttp.ClientSession() as session:
        await eventually(lambda: served.runtime.engines["b"].snapshot.state == "broken")
        async with session.get(f"{served.url}/ready") as response:
            told = await response.json()
            assert response.status == 200
        vote, best = told["fusions"]["vote"], told["fusions"]["best"]
        assert (vote["ready"], vote["lacking"], "Foo" in vote["reason"]) == (True, ["b"], True)
        assert (best["ready"], best["lacking"], "Foo" in best["reason"]) == (False, ["b"], True)
        assert told["engines"]["a"]["state"] == "awake"
        assert "Foo" in told["engines"]["b"]["last_error"]
        both = {"panel": ["a", "b"]}  # of which one is no majority, so the vote is not decided without the other
        status, answer = await post(served, {"model": "vote", "messages": QUESTION, "fusion": both})
        assert (status, answer["fusion"]["partial"]) == (200, True)
        status, answer = await post(served, {"model": "b", "messages": QUESTION})
        assert (status, answer["error"]["fault"]) == (503, "engine")
        async with session.get(f"{served.url}/health") as response:
            assert response.status == 200


async def test_every_response_has_a_request_id(served: Served) -> None:
    async with aiohttp.ClientSession() as session:
        ids = []
        for path in ("/health", "/v1/models", "/nothing"):
            async with session.get(served.url + path) as response:
                ids.append(response.headers["x-request-id"])
    assert len(set(ids)) == 3


async def test_a_killed_engine_process_is_noticed_and_restarted(served: Served) -> None:
    engine = served.runtime.engines["a"]
    os.kill(served.host.pids["a"][-1], signal.SIGKILL)
    await eventually(lambda: engine.snapshot.state != "awake")
    await engine.ensure_awake()
    assert engine.snapshot.restarts == 1


async def test_an_engine_that_dies_in_a_passed_through_stream_ends_it_with_an_error_event(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, ["a"])
    async with serving(config, {"a": Script(die_after_tokens=2)}) as served:
        told = await lines(served, {"model": "a", "messages": QUESTION})
    assert chunks(told)[-1]["error"]["code"] == "engine_died"
    assert told[-1] == "data: [DONE]"


async def test_a_method_that_a_path_does_not_take_is_told_with_those_it_does(served: Served) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{served.url}/v1/chat/completions") as response:
        assert response.status == 405
        assert response.headers["allow"] == "POST"
        assert (await response.json())["error"]["code"] == "method_not_allowed"
