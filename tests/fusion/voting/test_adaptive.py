"""`adaptive`: samples are asked for in waves, members in turn, and no more of them once the vote is decided."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from local_fusion.core.chat import ChatRequest, ToolCall
from local_fusion.core.model import Choice, Emit, FusionReport, Reply, unheard
from local_fusion.core.records import Saving
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineDied, PanelFailed
from tests.fusion.voting.slow import Slow
from tests.scripted import Scripted, asking, fusion


def seed_of(request: ChatRequest) -> int:
    assert request.sampling.seed is not None
    return request.sampling.seed


class Numbered(Scripted):
    """Sample n of this member is always the same, in whatever wave it is asked for: its seed tells which it is."""

    def _choice(self, request: Any, index: int) -> Any:
        return super()._choice(request, seed_of(request) - seed_of(self.requests[0]) + index)


async def outcome(models: Sequence[Scripted], samples: int, **options: Any) -> tuple[str, FusionReport]:
    panel = [{"model": model.name, "samples": samples} for model in models]
    config = {"strategy": "vote", "extract": "number", "panel": panel, **options}
    reply = await fusion(models, f=config)["f"].answer(asking(sampling=Sampling(seed=0)))
    assert reply.report is not None
    return reply.choices[0].text, reply.report


async def test_members_are_asked_in_turn_a_wave_at_a_time() -> None:
    models = [Numbered(name, ["1", "2", "3", "4"]) for name in "ab"]
    await outcome(models, 4, adaptive={"wave": 3, "confidence": 1})
    assert [[request.samples for request in model.requests] for model in models] == [[2, 1, 1], [1, 2, 1]]


async def test_samples_of_later_waves_are_drawn_as_they_would_have_been_at_once() -> None:
    model = Scripted("a", [str(number) for number in range(8)])
    await outcome([model], 8, adaptive={"wave": 3, "confidence": 1})
    first = seed_of(model.requests[0])
    assert [(seed_of(request) - first, request.samples) for request in model.requests] == [(0, 3), (3, 3), (6, 2)]


async def test_an_agreeing_panel_is_asked_no_further() -> None:
    model = Scripted("a", ["42"])
    text, report = await outcome([model], 16, adaptive={"confidence": 0.95})
    assert text == "42"
    assert [request.samples for request in model.requests] == [4]
    assert report.savings == (Saving("decided", 12, "the leading answer stays ahead with a probability of 0.980"),)
    assert len(report.candidates) == 4
    assert not report.partial


async def test_a_divided_panel_is_asked_to_the_end() -> None:
    model = Numbered("a", ["1", "2", "2", "1", "1", "2", "2", "1"])
    text, report = await outcome([model], 8, adaptive={"wave": 2, "confidence": 0.95})
    assert (text, len(report.candidates), report.savings) == ("1", 8, ())


async def test_a_surer_demand_asks_for_more() -> None:
    asked = []
    for confidence in (0.9, 0.99, 0.999, 1):
        model = Scripted("a", ["42"])
        await outcome([model], 16, adaptive={"wave": 1, "confidence": confidence})
        asked.append(len(model.requests))
    assert asked == sorted(asked)
    assert asked[0] < asked[-1] == 9


async def test_a_wave_is_broken_off_where_nothing_can_change_any_more_in_the_middle_of_it() -> None:
    model = Scripted("a", ["42"], hangs_at=5)
    text, report = await outcome([model], 9, adaptive={"wave": 8, "confidence": 0.95})
    assert text == "42"
    assert model.cancelled == 1
    assert [(saving.samples, saving.reason) for saving in report.savings] == [
        (3, "no answer can overtake the leading one any more"),
        (1, "no answer can overtake the leading one any more"),
    ]


async def test_answers_that_are_only_written_faster_than_others_do_not_make_a_probability() -> None:
    slow = Slow("b", ["1"])
    models = [Scripted("a", ["2", "2", "2", "2", "2"]), slow]
    asked = asyncio.create_task(outcome(models, 8, adaptive={"wave": 10, "confidence": 0.6}))
    await slow.asked.wait()
    slow.go.set()
    _, report = await asked
    assert slow.cancelled == 0
    assert len(report.candidates) >= 10


async def test_the_quorum_is_asked_for_even_if_the_vote_is_decided() -> None:
    model = Scripted("a", ["42"])
    _, report = await outcome([model], 16, quorum=10, adaptive={"wave": 4, "confidence": 0.95})
    assert len(report.candidates) >= 10


async def test_a_member_that_fails_is_not_asked_again_and_its_samples_are_no_saving() -> None:
    models = [Scripted("a", error=EngineDied("gone")), Numbered("b", ["1", "2", "3", "4"])]
    _, report = await outcome(models, 4, adaptive={"wave": 2, "confidence": 1})
    assert len(models[0].requests) == 1
    assert len(report.candidates) == 4
    assert [failure.message for failure in report.failed] == ["gone"]
    assert report.savings == ()


async def test_a_member_one_of_whose_samples_came_back_empty_is_asked_for_the_others() -> None:
    _, report = await outcome([Numbered("a", ["", "1", "2", "3"])], 4, adaptive={"wave": 2, "confidence": 1})
    assert [candidate.text for candidate in report.candidates] == ["1", "2", "3"]
    assert [failure.code for failure in report.failed] == ["empty_answer"]


async def test_a_wave_of_which_all_is_written_is_not_broken_off_by_what_it_decides() -> None:
    """Its engine has yet to say what the call used."""

    class Lingers(Scripted):
        done = 0

        async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
            reply = await super().answer(request, emit)
            for _ in range(10):
                await asyncio.sleep(0)
            self.done += 1
            return reply

    model = Lingers("a", ["42"])
    _, report = await outcome([model], 4, adaptive={"wave": 3, "confidence": 1})
    assert model.done == 1
    assert [saving.samples for saving in report.savings] == [1]


async def test_where_tools_are_offered_words_decide_nothing_while_most_may_still_call() -> None:
    look = ToolCall("1", "look", "{}")
    model = Scripted("a", choices=[Choice("", "tool_calls", (look,)), Choice("42"), Choice("42")])
    config = {"strategy": "vote", "panel": [{"model": "a", "samples": 4}], "adaptive": {"wave": 3, "confidence": 0.6}}
    reply = await fusion([model], f=config)["f"].answer(asking(tools=({"type": "function"},)))
    assert [request.samples for request in model.requests] == [3, 1]
    assert reply.choices[0].tool_calls == (look,)


async def test_where_all_members_fail_the_causes_are_told_once() -> None:
    models = [Scripted("a", error=EngineDied("gone")), Scripted("b", error=EngineDied("lost"))]
    with pytest.raises(PanelFailed) as caught:
        await outcome(models, 4, adaptive={"wave": 2, "confidence": 0.95})
    assert [failure.message for failure in caught.value.failures] == ["gone", "lost"]


async def test_weighted_votes_are_decided_by_what_they_weigh() -> None:
    """Nobody tells how sure it is, so all weigh the same; certain it can never be."""
    model = Scripted("a", ["42"])
    _, report = await outcome([model], 16, weights="certainty", adaptive={"wave": 4, "confidence": 1})
    assert len(report.candidates) == 16
    _, report = await outcome([model], 16, weights="certainty", adaptive={"wave": 4, "confidence": 0.9})
    assert len(report.candidates) == 4


@pytest.mark.parametrize("number", range(60))
async def test_certain_stopping_never_changes_the_winner_and_every_sample_is_asked_for_or_saved(number: int) -> None:
    rng = random.Random(number)
    samples, members = rng.randint(2, 6), rng.randint(1, 3)
    models = [
        Numbered(name, [rng.choice(["1", "1", "2", "3", "none"]) for _ in range(samples)]) for name in "abc"[:members]
    ]
    size = samples * members
    _, full = await outcome(models, samples, quorum=size)
    for model in models:
        model.requests.clear()
    _, adaptive = await outcome(models, samples, adaptive={"wave": rng.choice([1, 1, 2, size - 1]), "confidence": 1})
    assert _answer(full) == _answer(adaptive)
    asked = sum(request.samples for model in models for request in model.requests)
    saved = sum(saving.samples for saving in adaptive.savings)
    assert asked + saved >= size
    if all(len(model.requests) == samples for model in models) or asked == len(adaptive.candidates):
        assert asked + saved == size


def _answer(report: FusionReport) -> str | None:
    assert report.verdict is not None
    return next((answer for answer, ids in report.verdict.votes.items() if report.verdict.winner in ids), None)
