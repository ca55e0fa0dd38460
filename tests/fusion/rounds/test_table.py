"""Asking members again with everybody's answers in sight: what layers, debates and convergence share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import takewhile
from typing import Any

import pytest

from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import Failed, StageStarted
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineDied
from local_fusion.fusion.rounds.table import Table
from local_fusion.fusion.session import Session
from tests.fusion.rounds.debaters import Debater, prompt_of
from tests.scripted import Heard, Scripted, asking, fusion

MARK = "answered independently several times"


async def opened(
    *models: Scripted, request: ChatRequest | None = None, panel: list[Any] | None = None, **more: Any
) -> tuple[Table, Heard]:
    heard = Heard()
    config = {"strategy": "debate", "panel": panel or [model.name for model in models], **more}
    personas = {"terse": "be terse", "long": "wordy " * 200}
    built = fusion(models, personas=personas, f=config)["f"]
    session = Session("f", built.config, request or asking(), built.resolve, personas, heard)
    return await Table.opened(session, verbatim=True), heard


def texts(table: Table) -> list[str]:
    return [candidate.text for candidate in table.candidates]


async def test_everybody_sees_all_answers_in_one_order_and_is_told_which_is_its_own() -> None:
    panel = [Debater("a", "one", "uno"), Debater("b", "two", "due"), Debater("c", "three", "tre")]
    table, _ = await opened(*panel)
    assert await table.revise() == 3
    assert texts(table) == ["uno", "due", "tre"]
    assert [candidate.id for candidate in table.candidates] == ["c1.2", "c2.2", "c3.2"]
    prompts = [prompt_of(model.requests[1]) for model in panel]
    blocks = {prompt[: prompt.index("Look for mistakes")] for prompt in prompts}
    assert len(blocks) == 1  # one block, which the prefix cache serves
    shown = [candidate.text for candidate in table.shown]
    for prompt, own in zip(prompts, ["uno", "due", "tre"], strict=True):
        assert f"Answer {shown.index(own) + 1} is your own" in prompt
        assert "c1" not in prompt


@pytest.mark.parametrize("seed", range(6))
async def test_prompts_of_later_rounds_share_all_up_to_the_first_answer_that_changed(seed: int) -> None:
    panel = [Debater("a", "stays"), Debater("b", "two", "due", "dos"), Debater("c", "three", "tre", "tres")]
    table, _ = await opened(*panel, request=asking(sampling=Sampling(seed=seed)))
    await table.revise()
    await table.revise()
    stays_first = table.order[0] == 1
    for model in panel:
        second, third = (prompt_of(request) for request in model.requests[1:])
        common = shared(second, third)
        assert common.startswith(second[: second.index('<answer id="1">')])
        assert ("stays" in common) == stays_first


async def test_the_order_comes_from_the_requests_seed() -> None:
    orders = []
    for seed in (*range(12), 0):
        table, _ = await opened(*(Debater(name, name) for name in "abc"), request=asking(sampling=Sampling(seed=seed)))
        orders.append(tuple(table.order))
    assert len(set(orders)) > 3
    assert orders[0] == orders[-1]


def shared(one: str, other: str) -> str:
    """What both begin with."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(letter for letter, _ in same)


async def test_every_sample_debates_by_itself_with_a_seed_of_its_own() -> None:
    model = Scripted("a", answers=lambda request: f"answer of seed {request.sampling.seed}")
    table, _ = await opened(model, request=asking(sampling=Sampling(seed=7)), panel=[{"model": "a", "samples": 3}, "a"])
    assert [request.samples for request in model.requests] == [3, 1]
    await table.revise()
    again = model.requests[2:]
    assert [request.samples for request in again] == [1, 1, 1, 1]
    assert len({request.sampling.seed for request in again}) == 4
    assert len({prompt_of(request).partition("is your own")[0] for request in again}) == 4
    assert [candidate.id for candidate in table.candidates] == ["c1.2", "c2.2", "c3.2", "c4.2"]


async def test_a_debater_that_fails_keeps_its_last_answer_and_is_asked_again() -> None:
    panel = [Debater("a", "one", EngineDied("gone"), "uno"), Debater("b", "two", "due")]
    table, heard = await opened(*panel)
    assert await table.revise() == 1
    assert texts(table) == ["one", "due"]
    assert [event.failure.member for event in heard.of(Failed)] == ["a"]
    assert table.session.notes == ["round 2: c1 stand as they were, nothing new came of them"]
    assert await table.revise() == 2
    assert texts(table) == ["uno", "due"]
    assert "one" in prompt_of(panel[1].requests[2])


async def test_an_empty_answer_is_no_revision() -> None:
    panel = [Debater("a", "one", " "), Debater("b", "two")]
    table, heard = await opened(*panel)
    assert await table.revise() == 1
    assert texts(table) == ["one", "two"]
    assert [event.failure.code for event in heard.of(Failed)] == ["empty_answer"]


async def test_whoever_gives_no_first_answer_takes_no_part() -> None:
    panel = [Debater("a", EngineDied("gone"), "late"), Debater("b", "two"), Debater("c", "three")]
    table, _ = await opened(*panel)
    await table.revise()
    assert len(panel[0].requests) == 1
    assert sorted(table.standing) == [2, 3]


async def test_a_refusal_is_not_shown_but_who_refused_is_asked_again() -> None:
    panel = [Debater("a", "I'm sorry, but I can't help with that.", "one"), Debater("b", "two"), Debater("c", "three")]
    table, _ = await opened(*panel)
    await table.revise()
    assert all("can't help" not in prompt_of(request) for model in panel for request in model.requests)
    assert "is your own" not in prompt_of(panel[0].requests[1])
    assert texts(table)[0] == "one"


async def test_personas_are_worn_and_questions_are_not_put_in_other_words_in_later_rounds() -> None:
    model = Scripted("a", answers=lambda request: "rephrased" if "in other words" in prompt_of(request) else "text")
    table, _ = await opened(model, panel=[{"model": "a", "persona": "terse", "rephrase": True, "samples": 2}])
    before = len(model.requests)
    await table.revise()
    again = model.requests[before:]
    assert len(again) == 2
    assert all(request.messages[0].content == "be terse" and MARK in prompt_of(request) for request in again)


async def test_answers_are_cut_to_each_members_context_and_so_is_what_it_may_write() -> None:
    roomy, narrow = Debater("roomy", "one " * 300), Debater("narrow", "two " * 300, limit=700)
    table, _ = await opened(
        roomy, narrow, panel=[{"model": "roomy", "max_tokens": 400}, {"model": "narrow", "max_tokens": 400}]
    )
    await table.revise()
    assert {trim.reader for trim in table.session.trims} == {"narrow"}
    last = narrow.requests[1]
    assert (await narrow.measure(last)).tokens + (last.sampling.max_tokens or 0) <= 700
    assert roomy.requests[1].sampling.max_tokens == 400


async def test_members_whose_context_holds_no_answers_keep_theirs_each_with_its_cause() -> None:
    small = Debater("small", "one", limit=80)
    roomy = Debater("roomy", "two")
    table, heard = await opened(small, roomy, panel=[{"model": "small", "samples": 2}, "roomy"])
    assert await table.revise() == 1
    assert texts(table) == ["one", "one", "two"]
    assert [event.failure.code for event in heard.of(Failed)] == ["context_length_exceeded"] * 2
    assert len(small.requests) == 1


async def test_a_persona_takes_its_share_of_the_context() -> None:
    worn = Debater("worn", "one " * 300, limit=700)
    table, _ = await opened(
        worn, Debater("b", "two"), panel=[{"model": "worn", "persona": "long", "max_tokens": 300}, "b"]
    )
    await table.revise()
    last = worn.requests[1]
    assert last.messages[0].content == "wordy " * 200
    assert (await worn.measure(last)).tokens + (last.sampling.max_tokens or 0) <= 700


async def test_samples_of_one_model_are_measured_once() -> None:
    measured = 0

    class Counting(Debater):
        async def measure(self, request: ChatRequest) -> Any:
            nonlocal measured
            measured += 1
            return await super().measure(request)

    table, _ = await opened(Counting("a", "one"), panel=[{"model": "a", "samples": 8}])
    await table.revise()
    assert measured == 1


async def test_rounds_are_told() -> None:
    table, heard = await opened(Debater("a", "one"), Debater("b", "two"))
    await table.revise()
    assert [(event.stage, event.round) for event in heard.of(StageStarted)] == [("panel", 1), ("panel", 2)]
    assert {candidate.round for candidate in table.candidates} == {2}
    assert [candidate.id for candidate in table.session.candidates] == ["c1", "c2", "c1.2", "c2.2"]


async def test_stragglers_of_a_round_are_given_up_after_quorum_and_grace() -> None:
    slow = Debater("slow", "one", None)
    table, _ = await opened(slow, Debater("b", "two"), grace_seconds=0.01)
    assert await table.revise() == 1
    assert slow.cancelled == 1
    assert texts(table) == ["one", "two"]
    assert [(saving.kind, saving.samples) for saving in table.session.savings] == [("straggler", 1)]


async def test_who_could_not_be_asked_is_no_straggler() -> None:
    small, slow = Debater("small", "one", limit=80), Debater("slow", "two", None)
    table, _ = await opened(small, slow, Debater("c", "three"), grace_seconds=0.01)
    assert await table.revise() == 1
    assert [(saving.kind, saving.samples) for saving in table.session.savings] == [("straggler", 1)]


async def test_cancelling_a_round_leaves_nothing_running() -> None:
    panel = [Debater("a", "one", None), Debater("b", "two", None)]
    table, _ = await opened(*panel)
    task = asyncio.create_task(table.revise())
    await _until(lambda: all(len(model.requests) == 2 for model in panel))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [model.cancelled for model in panel] == [1, 1]
    assert len(asyncio.all_tasks()) == 1


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0)
