"""A panel at work in lines that chat pages show as thoughts, where a fusion is to do so."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from local_fusion.core.events import (
    Answered,
    CallEnded,
    ChoiceEnded,
    Event,
    Failed,
    MemberFinished,
    MemberProgress,
    MemberStarted,
    Nested,
    Noted,
    Queued,
    StageStarted,
    TextDelta,
    VerdictReached,
)
from local_fusion.core.model import Choice, Reply
from local_fusion.core.records import CallRecord, Candidate, Failure, Usage, Verdict
from local_fusion.errors import EngineDied
from local_fusion.server.progress import Lines, as_reasoning
from tests.scripted import Scripted
from tests.server.controlled import asking_over


def finished(member: str, *texts: str) -> MemberFinished:
    candidates = tuple(Candidate(f"c{n}", member, member, text, "stop", 0.0) for n, text in enumerate(texts, 1))
    return MemberFinished(member, candidates, 0.0)


class TestLines:
    def said(self, *events: Event) -> list[str]:
        lines = Lines()
        return [line for event in events if (line := lines.of(event)) is not None]

    def test_a_panel_from_its_first_question_to_the_writer(self) -> None:
        assert self.said(
            StageStarted("panel", ("smollm2", "gemma")),
            *(MemberStarted(member, "smollm2", 1) for member in ("smollm2 #1", "smollm2 #2", "gemma")),
            MemberProgress("gemma", 5),
            finished("smollm2 #1", "one"),
            finished("gemma", "two"),
            finished("smollm2 #2"),
            StageStarted("judge", ("gemma",)),
            VerdictReached(Verdict("gemma", winner="c1")),
            StageStarted("synthesis", ("gemma",)),
        ) == [
            "smollm2 and gemma answer",
            "smollm2 #1 answered (1 of 3)",
            "gemma answered (2 of 3)",
            "smollm2 #2 gave no answer (3 of 3)",
            "gemma compares the answers",
            "gemma: c1 is the best answer",
            "gemma writes the answer",
        ]

    def test_rounds_are_counted_anew(self) -> None:
        assert self.said(
            StageStarted("panel", ("a",)),
            MemberStarted("a", "a", 1),
            finished("a", "x"),
            StageStarted("panel", ("a",), 2),
            MemberStarted("a", "a", 1),
            finished("a", "y"),
        ) == ["a answers", "a answered (1 of 1)", "a answers, round 2", "a answered (1 of 1)"]

    def test_what_is_waited_for_is_said_once_and_again_only_when_more_than_numbers_change(self) -> None:
        assert self.said(
            Queued("gemma", 3, "its engine is busy"),
            Nested("inner", Queued("gemma", 2, "its engine is busy")),
            Queued("gemma", 0, "it wakes, ready in about 9 s"),
        ) == ["waiting for gemma: 3 ahead, its engine is busy", "waiting for gemma: it wakes, ready in about 9 s"]

    def test_of_several_that_are_waited_for_each_is_said_once(self) -> None:
        waits = [Queued(model, ahead, "its engine is busy") for ahead in (3, 2, 1) for model in ("gemma", "qwen")]
        assert self.said(*waits) == [f"waiting for {name}: 3 ahead, its engine is busy" for name in ("gemma", "qwen")]

    def test_failures_and_notes_are_told_in_one_short_line(self) -> None:
        failure = Failure("panel", "gemma", "gemma", "engine_died", "it went\naway " + "x" * 300)
        failed, noted = self.said(Failed(failure), Noted("the first candidate stands in"))
        assert failed.startswith("gemma failed: it went away xxx")
        assert len(failed) < 200
        assert noted == "the first candidate stands in"

    def test_what_happens_in_a_fusion_within_it_says_where(self) -> None:
        assert self.said(
            Nested("inner", StageStarted("panel", ("a", "b"))),
            Nested("inner", MemberStarted("a", "a", 1)),
            Nested("inner", finished("a", "x")),
        ) == ["inner › a and b answer", "inner › a answered (1 of 1)"]

    def test_a_verdict_without_a_winner_gives_its_reason(self) -> None:
        assert self.said(VerdictReached(Verdict("j", reason="they differ")), VerdictReached(Verdict("j"))) == [
            "j: they differ",
            "j is done",
        ]


async def reasoned(*events: Event) -> list[Event]:
    async def happening() -> AsyncGenerator[Event]:
        for event in events:
            yield event

    return [event async for event in as_reasoning(happening())]


class TestReasoning:
    async def test_lines_come_before_the_answer_and_belong_to_it(self) -> None:
        whole = Choice("42", reasoning="hm")
        call = CallEnded(CallRecord("panel", "a", Usage(), 0.0))
        answered = Answered(Reply((whole,)))
        heard = await reasoned(
            StageStarted("panel", ("a",)),
            TextDelta("", reasoning="hm"),
            TextDelta("42"),
            call,
            ChoiceEnded(0, whole),
            answered,
        )
        told = Choice("42", reasoning="a answers\nhm")
        assert heard == [
            TextDelta("", reasoning="a answers\n"),
            StageStarted("panel", ("a",)),
            TextDelta("", reasoning="hm"),
            TextDelta("42"),
            call,
            ChoiceEnded(0, told),
            Answered(Reply((told,))),
        ]

    async def test_once_the_answer_has_begun_there_are_no_more(self) -> None:
        heard = await reasoned(TextDelta("4"), Noted("late"), TextDelta("2"))
        assert heard == [TextDelta("4"), Noted("late"), TextDelta("2")]

    async def test_of_several_answers_they_belong_to_the_first_unless_that_failed(self) -> None:
        one, two = Choice("1"), Choice("2")
        begin = StageStarted("panel", ("a",))
        heard = await reasoned(begin, ChoiceEnded(1, two), ChoiceEnded(0, one), Answered(Reply((one, two))))
        assert heard[-1] == Answered(Reply((Choice("1", reasoning="a answers\n"), two)))
        heard = await reasoned(begin, ChoiceEnded(1, two), Answered(Reply((two,))))
        assert heard[-1] == Answered(Reply((two,)))


PANEL = {"strategy": "synthesize", "panel": ["a", "b"], "judge": "j", "analysis": False}
TOLD = {**PANEL, "progress": "reasoning"}


def say(**more: Any) -> dict[str, Any]:
    return {"model": "f", "messages": [{"role": "user", "content": "What is 6 times 7?"}], "stream": True, **more}


def deltas(text: str) -> list[dict[str, Any]]:
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


class TestOverHttp:
    async def test_chat_completions_send_them_under_both_names_that_pages_know(self) -> None:
        models = Scripted("a"), Scripted("b", error=EngineDied("it is gone")), Scripted("j", ["42"])
        answer = await asking_over(*models, f=TOLD).post("/v1/chat/completions", say())
        lines = [delta["reasoning"] for delta in deltas(answer.text) if "reasoning" in delta]
        assert lines == [
            "a and b answer\n",
            "b failed: it is gone\n",
            "a answered (1 of 2)\n",
            "j writes the answer\n",
        ]
        assert lines == [delta["reasoning_content"] for delta in deltas(answer.text) if "reasoning_content" in delta]
        assert "".join(delta.get("content") or "" for delta in deltas(answer.text)) == "42"

    async def test_by_default_there_are_none_and_a_request_may_ask_for_them(self) -> None:
        models = Scripted("a"), Scripted("b"), Scripted("j", ["42"])
        asking = asking_over(*models, f=PANEL)
        answer = await asking.post("/v1/chat/completions", say())
        assert not any("reasoning" in delta for delta in deltas(answer.text))
        answer = await asking.post("/v1/chat/completions", say(fusion={"progress": "reasoning"}))
        assert any("reasoning" in delta for delta in deltas(answer.text))

    async def test_an_answer_that_is_not_streamed_holds_none(self) -> None:
        models = Scripted("a"), Scripted("b"), Scripted("j", ["42"])
        asking = asking_over(*models, f=TOLD)
        answer = await asking.post("/v1/chat/completions", say(stream=False))
        assert "reasoning" not in answer.json()["choices"][0]["message"]

    async def test_other_dialects_show_them_where_they_show_thoughts(self) -> None:
        models = Scripted("a"), Scripted("b"), Scripted("j", ["42"])
        asking = asking_over(*models, f=TOLD)
        question = [{"role": "user", "content": "What is 6 times 7?"}]
        asked = {"model": "f", "max_tokens": 2000, "messages": question, "stream": True}
        shown = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
        answer = await asking.post("/v1/messages", {**asked, **shown})
        assert '"thinking_delta","thinking":"j writes the answer\\n"' in answer.text
        answer = await asking.post(
            "/v1/responses", {"model": "f", "input": "6 times 7?", "stream": True, "store": False}
        )
        assert "j writes the answer" in answer.text


@pytest.mark.parametrize(("keep_alive", "sent"), [("comments", ": "), ("deltas", "data: ")])
async def test_a_waiting_stream_is_kept_alive_by_comments_or_by_empty_deltas(keep_alive: str, sent: str) -> None:
    models = Scripted("a", hangs=True), Scripted("b"), Scripted("j")
    asking = asking_over(*models, server={"keep_alive": keep_alive, "keep_alive_seconds": 0.02}, f=PANEL)
    answer = await asking.post("/v1/chat/completions", say(fusion={"deadlines": {"panel": 0.3}}))
    events = answer.text.split("\n\n")
    waiting = events[1]  # the first one names the role
    assert waiting.startswith(sent)
    if keep_alive == "deltas":
        (choice,) = json.loads(waiting.removeprefix("data: "))["choices"]
        assert choice["delta"] == {"content": ""}
        assert choice["finish_reason"] is None
        assert not any(event.startswith(":") for event in events)
