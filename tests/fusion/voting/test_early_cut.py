"""`early_cut`: the first candidates set the bar, later ones that fall below it while they are written are cut."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import CallEnded, ChoiceEnded, TextDelta
from local_fusion.core.model import Choice, Emit, FusionReport, Reply, unheard
from local_fusion.core.records import Candidate, Certainty
from local_fusion.fusion.voting.cutting import bars
from tests.scripted import Scripted, asking, fusion

LONG = Certainty.WINDOW + 20  # words


def answer(number: int, sureness: float, words: int = LONG) -> Choice:
    """An answer of `words` words, each as sure as the whole."""
    text = f"{'word ' * (words - 1)}{number}"
    return Choice(text, certainty=Certainty(-0.1, sureness, sureness, words))


class Numbered(Scripted):
    """Its n-th answer, over all calls, is its n-th choice; words come one by one, so that there is time to cut in."""

    given = 0

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        self.requests.append(request)
        words, choices = 0, []
        try:
            for index in range(request.samples):
                choice = self.choices[self.given % len(self.choices)]
                self.given += 1
                assert choice.certainty is not None
                for word in choice.text.split(" "):
                    words += 1
                    emit(TextDelta(f"{word} ", index, 1, certainties=(choice.certainty.self_certainty,)))
                    await asyncio.sleep(0)
                choices.append(choice if request.certainty else replace(choice, certainty=None))
                emit(ChoiceEnded(index, choices[-1]))
        except asyncio.CancelledError:
            self.cancelled += 1
            emit(CallEnded(self._call(request, words, "cancelled")))
            raise
        call = self._call(request, words, None)
        emit(CallEnded(call))
        return Reply(tuple(choices), (call,))


async def outcome(models: Sequence[Scripted], samples: int, warmup: int = 4, **options: Any) -> FusionReport:
    panel = [{"model": model.name, "samples": samples} for model in models]
    config = {
        "strategy": "vote", "extract": "number", "panel": panel, "weights": "certainty",
        "early_cut": {"warmup": warmup, "keep": 0.9}, **options,
    }  # fmt: skip
    reply = await fusion(models, f=config)["f"].answer(asking())
    assert reply.report is not None
    return reply.report


def ids(report: FusionReport) -> list[str]:
    return [candidate.id for candidate in report.candidates]


async def test_the_first_candidates_are_written_whole_and_each_later_one_is_a_call_of_its_own() -> None:
    model = Numbered("a", choices=[answer(42, 9.0)])
    report = await outcome([model], 7)
    assert [request.samples for request in model.requests] == [4, 1, 1, 1]
    assert all(request.certainty for request in model.requests)
    assert len(ids(report)) == 7
    assert report.savings == ()


async def test_a_later_candidate_that_is_less_sure_than_the_bar_is_cut_and_has_no_vote() -> None:
    model = Numbered("a", choices=[*[answer(42, 9.0)] * 4, answer(42, 9.5), answer(41, 2.0), answer(42, 9.5)])
    report = await outcome([model], 7)
    assert ids(report) == ["c1", "c2", "c3", "c4", "c5", "c7"]
    assert [(saving.kind, saving.samples) for saving in report.savings] == [("hopeless", 1)]
    assert "c6 of a became unsure: 2.00 over 64 tokens, where the bar is 9.00" in report.savings[0].reason
    assert report.verdict is not None
    assert list(report.verdict.votes) == ["42"]
    assert not report.failed
    assert model.cancelled == 1


async def test_a_cut_candidate_is_stopped_at_once_and_its_tokens_are_counted() -> None:
    model = Numbered("a", choices=[*[answer(number, 9.0) for number in range(4)], answer(41, 2.0, words=5000)])
    config = {
        "strategy": "vote", "extract": "number", "panel": [{"model": "a", "samples": 5}],
        "early_cut": {"warmup": 4},
    }  # fmt: skip
    reply = await fusion([model], f=config)["f"].answer(asking())
    cut = [call for call in reply.calls if call.error == "cancelled"]
    assert len(cut) == 1
    assert Certainty.WINDOW <= cut[0].usage.completion_tokens < Certainty.WINDOW + 10


async def test_a_candidate_shorter_than_the_window_is_never_cut() -> None:
    model = Numbered("a", choices=[*[answer(42, 9.0)] * 4, answer(41, 2.0, words=Certainty.WINDOW - 1)])
    report = await outcome([model], 5)
    assert len(ids(report)) == 5


async def test_members_that_tell_no_certainties_are_never_cut_and_it_is_said() -> None:
    report = await outcome([Scripted("a", ["42 " * LONG])], 6)
    assert len(ids(report)) == 6
    assert "no answer of a is cut early: too few of its first ones told how sure it was" in report.notes


async def test_each_model_is_measured_by_its_own_bar() -> None:
    models = [Numbered("a", choices=[answer(42, 9.0)]), Numbered("b", choices=[answer(42, 2.0)])]
    report = await outcome(models, 6)
    assert len(ids(report)) == 12


async def test_only_the_warm_up_sets_the_bar_however_many_waves_follow_it() -> None:
    models = [
        Numbered("a", choices=[answer(42, 9.0)]),
        Numbered("b", choices=[*[answer(42, 2.0)] * 3, answer(41, 1.0)]),
    ]
    report = await outcome(models, 4, adaptive={"wave": 2, "confidence": 1}, extract="text")
    assert [saving.reason[:8] for saving in report.savings if saving.kind == "hopeless"] == ["c8 of b "]
    assert report.notes == ()


async def test_nobody_is_cut_while_the_quorum_is_not_there() -> None:
    model = Numbered("a", choices=[*[answer(42, 9.0)] * 4, *[answer(41, 2.0)] * 3])
    report = await outcome([model], 7, quorum=7)
    assert len(ids(report)) == 7


async def test_with_adaptive_the_warm_up_comes_in_waves_too_and_may_be_all_that_is_asked() -> None:
    model = Numbered("a", choices=[answer(42, 9.0)])
    report = await outcome([model], 12, adaptive={"wave": 4, "confidence": 0.95}, weights="none")
    assert [request.samples for request in model.requests] == [4]
    assert [(saving.kind, saving.samples) for saving in report.savings] == [("decided", 8)]


def candidates(lowest: list[float], model: str = "a") -> list[Candidate]:
    return [
        Candidate(f"c{number}", "a", model, "", "stop", 0.0, certainty=Certainty(-1.0, one, one, 10))
        for number, one in enumerate(lowest, start=1)
    ]


@pytest.mark.parametrize(("keep", "bar"), [(0.9, 1.4), (0.5, 3.0), (0.1, 4.6)])
def test_the_bar_is_the_percentile_that_leaves_the_share_to_keep_above_it(keep: float, bar: float) -> None:
    assert bars(candidates([5.0, 3.0, 1.0, 2.0, 4.0]), keep) == {"a": pytest.approx(bar)}


def test_one_candidate_sets_no_bar() -> None:
    assert bars([*candidates([5.0]), *candidates([1.0, 2.0], "b")], 0.5) == {"b": pytest.approx(1.5)}


@given(st.lists(st.floats(0, 50), min_size=2, max_size=20), st.floats(0.01, 0.99))
def test_the_bar_lies_among_the_warm_up_and_keeps_at_least_that_share(lowest: list[float], keep: float) -> None:
    (bar,) = bars(candidates(lowest), keep).values()
    assert min(lowest) <= bar <= max(lowest)
    assert sum(one >= bar - 1e-9 for one in lowest) >= int(keep * (len(lowest) - 1))
