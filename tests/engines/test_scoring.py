"""How likely given answers are to an engine's model: only their own tokens count, and every pass is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.events import CallEnded
from local_fusion.core.model import Score
from local_fusion.core.records import Usage
from local_fusion.engines import scoring
from local_fusion.engines.model import EngineModel
from local_fusion.errors import ContextTooLong
from tests.conftest import MakeEngine
from tests.engines.conftest import MakeModel
from tests.engines.test_model import Turnstile
from tests.engines.waiting import recorded
from tests.fake_engine import Script
from tests.scripted import Heard
from tests.vllm_dialect import token_id

ASKED = ChatRequest(messages=(Message("user", "one two three"),))
LOGPROBS = {"<user>": -70.0, "one": -60.0, "two": -50.0, "three": -40.0, "red": -0.5, "green": -0.25, "blue": -2.0}


def ids(text: str) -> list[int]:
    return [token_id(word) for word in text.split()]


async def test_only_the_tokens_of_the_answers_count_and_all_are_read_in_one_request(
    make_model: MakeModel, tmp_path: Path
) -> None:
    model, heard = await make_model(Script(logprobs=LOGPROBS, record=str(tmp_path / "record"))), Heard()
    scores = await model.score(ASKED, ("red green", "blue"), heard)
    assert scores == (Score(-0.75, 2), Score(-2.0, 1))
    assert [score.mean for score in scores] == [-0.375, -2.0]
    (entry,) = recorded(tmp_path / "record")
    assert entry["body"]["prompt"] == [ids("<user> one two three red green"), ids("<user> one two three blue")]
    assert (entry["body"]["prompt_logprobs"], entry["body"]["max_tokens"]) == (0, 1)
    (ended,) = heard.of(CallEnded)
    assert (ended.call.usage, ended.call.samples, ended.call.error) == (Usage(6 + 5, 2), 2, None)


async def test_an_answer_that_was_begun_is_scored_after_its_beginning(make_model: MakeModel, tmp_path: Path) -> None:
    model = await make_model(Script(logprobs=LOGPROBS, record=str(tmp_path / "record")))
    assert await model.score(ASKED.but(prefix="red"), (" green",)) == (Score(-0.25, 1),)
    (entry,) = recorded(tmp_path / "record")
    assert entry["body"]["prompt"] == [ids("<user> one two three <assistant> red green")]


async def test_an_empty_answer_is_certain_and_costs_nothing(make_model: MakeModel) -> None:
    model, heard = await make_model(Script(logprobs=LOGPROBS)), Heard()
    assert await model.score(ASKED, ("", "blue", ""), heard) == (Score(0.0, 0), Score(-2.0, 1), Score(0.0, 0))
    assert heard.of(CallEnded)[0].call.usage == Usage(5, 1)


async def test_many_long_answers_are_read_in_several_requests_and_counted_as_one_call(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_BATCH_TOKENS", 12)
    model, heard = await make_model(Script(logprobs=LOGPROBS, record=str(tmp_path / "record"))), Heard()
    answers = ("red green", "blue", "blue blue", "red " * 20, "green")
    assert [score.logprob for score in await model.score(ASKED, answers, heard)] == [-0.75, -2.0, -4.0, -10.0, -0.25]
    assert [len(entry["body"]["prompt"]) for entry in recorded(tmp_path / "record")] == [2, 1, 1, 1]
    assert [event.call.usage for event in heard.of(CallEnded)] == [Usage(6 + 5 + 6 + 24 + 5, 5)]


async def test_an_answer_that_does_not_fit_the_context_is_refused_and_the_call_recorded(make_model: MakeModel) -> None:
    model, heard = await make_model(Script()), Heard()
    with pytest.raises(ContextTooLong, match="maximum context length is 4096 tokens"):
        await model.score(ASKED, ("red", "green " * 4092), heard)
    assert [event.call.usage for event in heard.of(CallEnded)] == [Usage()]
    assert "maximum context length" in heard.of(CallEnded)[0].call.error
    assert (await model.score(ASKED, ("green " * 4091,)))[0].tokens == 4091


async def test_what_was_read_before_a_request_failed_is_not_lost(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_BATCH_TOKENS", 12)
    model, heard = await make_model(Script()), Heard()
    with pytest.raises(ContextTooLong):
        await model.score(ASKED, ("red green", "blue", "green " * 4092), heard)
    assert [event.call.usage for event in heard.of(CallEnded)] == [Usage(6 + 5, 2)]


async def test_scoring_takes_a_sequence_of_the_engine_for_each_answer(make_engine: MakeEngine) -> None:
    engine, gate = make_engine("qwen", Script()), Turnstile()
    gate.open.set()
    engine.start()
    await EngineModel(engine, gate).score(ASKED.but(request_id="r", priority="batch"), ("red", "green", "blue"))
    assert [(call.request_id, call.samples, call.priority) for call in gate.passed] == [("r", 3, "batch")]
