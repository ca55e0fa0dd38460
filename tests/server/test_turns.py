"""Models that do not fit together, behind one server: who waits is told for what, and everybody is answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from tests.engines.waiting import eventually, recorded
from tests.fake_engine import Script
from tests.serving import Served, in_turns, serving

QUESTION: Any = [{"role": "user", "content": "What is 6 times 7?"}]
FUSIONS = {
    "vote": {"strategy": "vote", "extract": "number", "panel": ["a", "b"], "quorum": 2},
    "a-alone": {"strategy": "single", "panel": ["a"]},
    "b-alone": {"strategy": "single", "panel": ["b"]},
}


class Turns:
    """A server over `a` and `b`, of which `a` is awake first and works on a call until it is told to finish."""

    def __init__(self, served: Served, session: aiohttp.ClientSession, record: Path) -> None:
        self.served = served
        self.session = session
        self.record = record

    async def get(self, path: str) -> Any:
        async with self.session.get(self.served.url + path) as response:
            return await response.json()

    async def post(self, path: str, body: Any = None) -> tuple[int, Any]:
        async with self.session.post(self.served.url + path, json=body) as response:
            return response.status, await response.json()

    async def ask(self, model: str, **more: Any) -> tuple[int, Any]:
        return await self.post("/v1/chat/completions", {"model": model, "messages": QUESTION, **more})

    async def keep_busy(self) -> asyncio.Task[tuple[int, Any]]:
        """A call to `a` that has begun."""
        before = len(recorded(self.record))
        task = asyncio.ensure_future(self.ask("a"))
        await eventually(lambda: len(recorded(self.record)) > before)
        return task

    async def waiting(self, count: int = 1) -> Any:
        """The entry of `b`, once so many calls wait for it."""
        while (entry := await self.get("/admin/engines/b"))["queue"]["waiting"] < count:
            await asyncio.sleep(0.02)
        return entry


@pytest.fixture
def scheduling() -> dict[str, Any]:
    return {"fairness_seconds": None}


@pytest.fixture
async def turns(tmp_path: Path, scheduling: dict[str, Any]) -> AsyncIterator[Turns]:
    record = tmp_path / "record.jsonl"
    config = in_turns(tmp_path, ["a", "b"], fusions=FUSIONS, scheduling=scheduling, server={"keep_alive_seconds": 0.05})
    scripts: dict[str, Script | list[Script]] = {
        "a": [Script(hang=True, record=str(record)), Script(rules=[("", "42")])],
        "b": Script(rules=[("", "42")]),
    }
    async with serving(config, scripts) as served, aiohttp.ClientSession() as session:
        yield Turns(served, session, record)


async def test_who_waits_is_seen_by_the_administrator_with_the_reason(turns: Turns) -> None:
    busy = await turns.keep_busy()
    waiting = asyncio.ensure_future(turns.ask("b", service_tier="flex"))
    entry = await turns.waiting()
    assert entry["queue"] == {"running": 0, "waiting": 1, "batch": 1}
    assert entry["reason"].startswith("waiting for b: 1 ahead, a has its memory")
    assert entry["oldest_wait_seconds"] >= 0
    assert (await turns.get("/admin/engines/a"))["queue"]["running"] == 1
    busy.cancel()
    status, answer = await waiting
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "42")
    assert (await turns.get("/admin/engines/b"))["swaps"] == 1
    assert (await turns.get("/admin/engines/a"))["state"] == "stopped"


async def test_a_passed_through_answer_keeps_its_engine_awake_until_its_last_byte(turns: Turns) -> None:
    busy = await turns.keep_busy()
    waiting = asyncio.ensure_future(turns.ask("b"))
    await turns.waiting()
    assert turns.served.host.starts == {"a": 1}
    busy.cancel()
    await waiting
    assert turns.served.host.starts == {"a": 1, "b": 1}


async def test_a_client_that_gives_up_waiting_is_waited_for_no_more(turns: Turns) -> None:
    busy = await turns.keep_busy()
    waiting = asyncio.ensure_future(turns.ask("b"))
    await turns.waiting()
    waiting.cancel()
    while (await turns.get("/admin/engines/b"))["queue"]["waiting"]:
        await asyncio.sleep(0.02)
    busy.cancel()
    await asyncio.wait({busy, waiting})
    assert turns.served.host.starts == {"a": 1}


async def test_a_stream_that_waits_is_told_for_what_in_comments(turns: Turns) -> None:
    busy = await turns.keep_busy()
    body = {"model": "b-alone", "messages": QUESTION, "stream": True}
    async with turns.session.post(turns.served.url + "/v1/chat/completions", json=body) as response:
        told = ""
        while not told.startswith(": waiting for b: a has its memory"):
            told = (await asyncio.wait_for(response.content.readline(), 5)).decode()
        busy.cancel()
        rest = (await response.content.read()).decode()
    assert '"content":"42"' in rest
    assert rest.endswith("data: [DONE]\n\n")


async def test_waiting_rides_along_with_the_panels_events_and_is_kept_in_the_trace(turns: Turns) -> None:
    busy = await turns.keep_busy()
    asked = {"events": True, "include": ["trace"]}
    body = {"model": "b-alone", "messages": QUESTION, "stream": True, "fusion": asked}
    heard: list[Any] = []
    async with turns.session.post(turns.served.url + "/v1/chat/completions", json=body) as response:
        async for line in response.content:
            if line.startswith(b"data: {"):
                heard.append(json.loads(line[6:]).get("fusion") or {})
                if "queued" in str(heard[-1]):
                    busy.cancel()
    waits = [each["event"]["event"] for each in heard if each.get("event", {}).get("source") == "b"]
    assert waits[0]["type"] == "queued"
    assert (waits[0]["model"], waits[0]["ahead"]) == ("b", 0)
    assert "queued" in [entry.get("event", {}).get("type") for entry in heard[-1]["trace"]]


async def test_members_that_do_not_fit_together_answer_one_after_the_other(turns: Turns) -> None:
    await turns.post("/admin/engines/a/restart")  # its second script is well
    status, answer = await turns.ask("vote")
    assert (status, answer["fusion"]["partial"]) == (200, False)
    assert answer["choices"][0]["message"]["content"] == "42"
    assert turns.served.host.starts == {"a": 2, "b": 1}


async def test_ready_counts_engines_that_sleep_and_says_who_they_are(turns: Turns) -> None:
    told = await turns.get("/ready")
    assert told["ready"] is True
    assert told["fusions"]["vote"] == {"ready": True, "lacking": [], "asleep": ["b"], "reason": None}
    assert told["engines"]["b"]["state"] == "stopped"


async def test_engines_are_put_to_sleep_woken_and_pinned_by_hand(turns: Turns) -> None:
    status, entry = await turns.post("/admin/sleep", {"model": "a"})
    assert (status, entry["state"]) == (200, "stopped")
    status, entry = await turns.post("/admin/engines/b/pin")
    assert (status, entry["state"], entry["pinned"]) == (200, "awake", True)
    status, answer = await turns.ask("a")
    assert status == 503, answer
    assert "pinned" in answer["error"]["message"]
    told = await turns.get("/ready")
    assert told["engines"]["a"]["reason"] == "a cannot be woken while b is pinned"
    assert [name for name, each in told["fusions"].items() if each["ready"]] == ["b-alone"]
    await turns.post("/admin/engines/b/unpin")
    assert (await turns.get("/ready"))["engines"]["a"]["ready"] is True
    status, answer = await turns.ask("a")
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "42")


class TestFullQueue:
    """Room for one waiting call."""

    @pytest.fixture
    def scheduling(self) -> dict[str, Any]:
        return {"fairness_seconds": None, "max_queued_calls": 1}

    async def test_whoever_finds_it_full_is_told_when_to_come_back_and_nobody_else_is_harmed(
        self, turns: Turns
    ) -> None:
        busy = await turns.keep_busy()
        waiting = asyncio.ensure_future(turns.ask("b"))
        await turns.waiting()
        url = f"{turns.served.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            for model in ("b", "vote"):
                with pytest.raises(openai.RateLimitError) as refused:
                    await client.chat.completions.create(model=model, messages=QUESTION)
                assert int(refused.value.response.headers["retry-after"]) >= 1
        busy.cancel()
        assert (await waiting)[0] == 200
