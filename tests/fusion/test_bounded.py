"""A fusion with a budget: calls that it does not allow fail, and what there is by then is the answer, labelled."""

from __future__ import annotations

import asyncio
import functools
import json
import random
import re
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from local_fusion.config.strategies import STRATEGY_CONFIGS
from local_fusion.core.budget import Budget, Spent
from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import CallEnded, ChoiceEnded, Failed, Noted, TextDelta
from local_fusion.core.metered import Metered
from local_fusion.core.model import ChatModel, Choice, Emit, FusionReport, Reply, unheard
from local_fusion.core.records import Usage
from local_fusion.core.sampling import Sampling
from local_fusion.errors import BudgetSpent, EngineDied, LocalFusionError, PanelFailed
from local_fusion.fusion.bounded import Bounded
from local_fusion.fusion.model import FusionModel
from local_fusion.simulation.clock import run
from tests.fusion.test_under_fire import TOOLS, Unreliable, options
from tests.scripted import Heard, Scripted, asking, fusion


class Slow(Scripted):
    """Writes its words, and then never ends."""

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        self.requests.append(request)
        try:
            for word in self.texts:
                emit(TextDelta(word, tokens=1))
                await asyncio.sleep(0)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            emit(CallEnded(self._call(request, len(self.texts), "cancelled")))
            raise
        raise AssertionError("it never ends")


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The same test on a clock that jumps: whatever goes on is done before any time passes."""

    @functools.wraps(test)
    def run_it(*given: Any, **more: Any) -> None:
        run(test(*given, **more))

    return run_it


def over(*models: Scripted, **fusions: Any) -> dict[str, FusionModel]:
    """Fusions over models that are metered, as a runtime has them."""
    return fusion([Metered(model) for model in models], **fusions)


def one(budget: dict[str, Any], *models: Scripted, **config: Any) -> FusionModel:
    return over(*models, f={"panel": [model.name for model in models], **config, "budget": budget})["f"]


def report_of(reply: Reply) -> FusionReport:
    assert reply.report is not None
    return reply.report


class TestCalls:
    async def test_one_that_suffices_changes_nothing(self) -> None:
        reply = await one({"calls": 2}, Scripted("a"), Scripted("b"), strategy="vote").answer(asking())
        assert reply.budget is None
        assert not report_of(reply).partial

    async def test_members_beyond_it_are_not_asked_and_the_answer_says_so(self) -> None:
        models = [Scripted(name, [name]) for name in "abc"]
        reply = await one({"calls": 2}, *models, strategy="vote").answer(asking())
        assert [len(model.requests) for model in models] == [1, 1, 0]
        assert reply.choices[0].text == "a"
        assert reply.budget == Spent("calls", 2, 2)
        assert report_of(reply).partial
        assert [(each.member, each.code) for each in report_of(reply).failed] == [("c", "budget_spent")]
        assert "c was not asked: the budget of 2 calls is spent" in report_of(reply).failed[0].message

    async def test_a_judge_beyond_it_is_not_asked_and_the_first_candidate_stands_in(self) -> None:
        judge = Scripted("j")
        models = [Scripted("a", ["the first"]), Scripted("b", ["the second"])]
        config = {"strategy": "synthesize", "panel": ["a", "b"], "judge": "j", "budget": {"calls": 2}}
        reply = await over(*models, judge, f=config)["f"].answer(asking())
        assert reply.choices == (Choice("the first"),)
        assert judge.requests == []
        assert reply.budget == Spent("calls", 2, 2)

    async def test_where_no_quorum_is_left_the_best_candidate_is_the_answer(self) -> None:
        heard, models = Heard(), [Scripted("a", ["41"]), Scripted("b", ["42"])]
        reply = await one({"calls": 1}, *models, strategy="vote", quorum=2).answer(asking(), heard)
        assert heard.text == reply.choices[0].text == "41"
        assert heard.of(ChoiceEnded) == [ChoiceEnded(0, reply.choices[0])]
        assert report_of(reply).notes[-1] == "the budget of 1 call is spent: c1 of a is the best answer so far"
        assert heard.of(Noted)[-1].text == report_of(reply).notes[-1]
        assert [each.id for each in report_of(reply).candidates] == ["c1"]

    async def test_samples_of_one_request_share_it(self) -> None:
        model = Scripted("a", ["42"])
        reply = await one({"calls": 2}, model, strategy="single").answer(asking(samples=3))
        assert len(reply.choices) == len(reply.calls) == len(model.requests) == 2
        assert reply.budget == Spent("calls", 2, 2)

    async def test_a_fusion_within_it_spends_of_it(self) -> None:
        models = [Scripted(name, ["42"]) for name in "abc"]
        fusions = over(
            *models,
            inner={"strategy": "vote", "panel": ["a", "b", "c"]},
            outer={"strategy": "vote", "panel": ["inner", "a"], "budget": {"calls": 3}},
        )
        reply = await fusions["outer"].answer(asking())
        assert len(reply.calls) == 3
        assert reply.budget == Spent("calls", 3, 3)

    async def test_a_fusion_within_it_has_its_own_too_and_the_outer_one_is_told(self) -> None:
        models = [Scripted(name, ["42"]) for name in "abc"]
        fusions = over(
            *models,
            inner={"strategy": "vote", "panel": ["a", "b"], "quorum": 2, "budget": {"calls": 1}},
            outer={"strategy": "vote", "panel": ["inner", "c"], "budget": {"calls": 9}},
        )
        reply = await fusions["outer"].answer(asking())
        assert len(reply.calls) == 2
        assert reply.budget is None  # the outer one's own was not spent
        assert [each.member for each in report_of(reply).failed] == ["inner › b"]
        assert report_of(reply).candidates[0].text == "42"

    async def test_a_call_that_never_reached_its_engine_costs_nothing(self) -> None:
        class Asleep(Scripted):
            async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
                raise EngineDied("it does not wake")

        reply = await one({"calls": 1}, Asleep("a"), Scripted("b"), strategy="single").answer(asking())
        assert reply.choices[0].text == "answer of b"
        assert reply.budget is None


class TestTokens:
    async def test_an_answer_gets_what_the_prompt_has_left_and_is_cut_short_there(self) -> None:
        model = Scripted("a", ["one two three"], finish_reason="length")
        reply = await one({"tokens": 10}, model, strategy="single").answer(asking("four words to read"))
        assert model.requests[0].sampling.max_tokens == 6
        assert reply.choices[0].finish_reason == "length"
        assert reply.budget == Spent("tokens", 10, 7)

    async def test_a_lower_limit_of_the_client_stays(self) -> None:
        model = Scripted("a", ["one two"], finish_reason="length")
        request = asking("four words to read", sampling=Sampling(max_tokens=2))
        reply = await one({"tokens": 10}, model, strategy="single").answer(request)
        assert model.requests[0].sampling.max_tokens == 2
        assert reply.budget is None

    async def test_where_the_context_ends_first_no_limit_is_set(self) -> None:
        model = Scripted("a", ["one"], limit=12)
        await one({"tokens": 1000}, model, strategy="single").answer(asking("four words to read"))
        assert model.requests[0].sampling.max_tokens is None

    async def test_answers_of_one_call_share_what_is_left(self) -> None:
        model = Scripted("a", ["one", "two"])
        panel = [{"model": "a", "samples": 2}]
        config = {"strategy": "vote", "panel": panel, "budget": {"tokens": 10}}
        await over(model, f=config)["f"].answer(asking("four words to read"))
        assert model.requests[0].sampling.max_tokens == 3

    async def test_a_prompt_that_is_longer_than_what_is_left_is_not_read(self) -> None:
        model = Scripted("a")
        with pytest.raises(BudgetSpent) as raised:
            await one({"tokens": 3}, model, strategy="single").answer(asking("four words to read"))
        assert model.requests == []
        assert "the budget of 3 tokens is spent, and there is no answer yet" in raised.value.message
        assert "fusion.budget.tokens" in raised.value.hint
        assert raised.value.status == 400

    async def test_members_that_spend_it_together_are_broken_off(self) -> None:
        models = [Slow("a", [f"{n} " for n in range(9)]), Slow("b", ["x "] * 5)]
        heard = Heard()
        reply = await one({"tokens": 15}, *models, strategy="vote").answer(asking("one two"), heard)
        assert [model.cancelled for model in models] == [1, 1]
        assert reply.budget is not None
        assert (reply.budget.spent, reply.budget.limit) == ("tokens", 15)
        assert 15 < reply.budget.used <= 18
        assert reply.usage.total_tokens == reply.budget.used
        assert [call.error for call in reply.calls] == ["cancelled", "cancelled"]
        assert reply.choices[0].finish_reason == "length"
        assert reply.choices[0].text.startswith("0 1 2 3")
        assert heard.text == reply.choices[0].text


class TestSeconds:
    @in_virtual_time
    async def test_what_was_sent_by_then_is_the_answer(self) -> None:
        model, heard = Slow("a", ["once ", "upon"]), Heard()
        reply = await one({"seconds": 5}, model, strategy="single").answer(asking(), heard)
        assert reply.choices == (Choice("once upon", "length"),)
        assert heard.of(ChoiceEnded) == [ChoiceEnded(0, reply.choices[0])]
        assert model.cancelled == 1
        assert reply.budget == Spent("seconds", 5, 5)
        assert report_of(reply).partial
        assert heard.of(Failed)[-1].failure.code == "budget_spent"
        assert report_of(reply).failed[-1].code == "budget_spent"
        assert reply.usage == Usage(5, 2)

    @in_virtual_time
    async def test_else_the_judges_winner(self) -> None:
        def member(name: str) -> Scripted:
            def says(request: ChatRequest) -> str:
                if request.response_format is None:
                    return f"answer of {name}"
                labels = dict(re.findall(r'<answer id="(.)">\nanswer of (.)', request.messages[-1].content))
                best = [label for label, author in labels.items() if author == "b"]
                return json.dumps({"ranking": [*best, *(label for label in labels if label not in best)]})

            return Scripted(name, answers=says)

        models = [*map(member, "abc"), Scripted("chair", hangs=True)]
        config = {"strategy": "council", "panel": ["a", "b", "c"], "chairman": "chair", "budget": {"seconds": 5}}
        reply = await over(*models, f=config)["f"].answer(asking())
        assert reply.choices[0].text == "answer of b"
        assert "c2 of b is the best answer so far" in report_of(reply).notes[-1]

    @in_virtual_time
    async def test_else_a_whole_candidate_before_a_longer_one_that_was_cut(self) -> None:
        models = [Slow("a", ["long "] * 9), Scripted("b", ["short"])]
        reply = await one({"seconds": 5}, *models, strategy="vote").answer(asking())
        assert reply.choices == (Choice("short"),)
        assert {each.finish_reason for each in report_of(reply).candidates} == {"stop", "length"}

    @in_virtual_time
    async def test_a_candidate_tells_which_stop_ended_it(self) -> None:
        ended = Choice("one", stopped_by="two")
        models = [Scripted("a", choices=[ended]), Scripted("b", hangs=True)]
        request = asking(sampling=Sampling(stop="two"))
        reply = await one({"seconds": 5}, *models, strategy="vote").answer(request)
        assert reply.choices == (ended,)

    @in_virtual_time
    async def test_else_the_longest_of_those_that_were_cut_without_its_thoughts(self) -> None:
        models = [
            Slow("a", ["<think>", "and think ", "and think"]),
            Slow("b", ["<think>hm</think>", "the ", "beginning"]),
        ]
        reply = await one({"seconds": 5}, *models, strategy="vote").answer(asking())
        assert reply.choices[0] == Choice("the beginning", "length", reasoning="hm")

    @in_virtual_time
    async def test_else_a_candidate_of_a_fusion_within_it_but_never_what_a_judge_said(self) -> None:
        models = [Scripted("a", ["an answer"]), Scripted("b", hangs=True), Scripted("j", ["a judgement"])]
        panel = {"strategy": "vote", "panel": ["a", "b"]}
        judges = {"strategy": "vote", "panel": ["j", "b"]}
        f = {"strategy": "single", "panel": ["inner"], "budget": {"seconds": 5}}
        reply = await over(*models, inner=panel, f=f)["f"].answer(asking())
        assert reply.choices[0].text == "an answer"
        f = {"strategy": "refine", "panel": ["j"], "reviewer": "judges", "budget": {"seconds": 5}}
        models[2].texts = ["draft"]
        reply = await over(*models, judges=judges, f=f)["f"].answer(asking())
        assert reply.choices[0].text == "draft"

    @in_virtual_time
    async def test_else_it_is_an_error_that_says_what_was_spent_and_how_to_raise_it(self) -> None:
        with pytest.raises(BudgetSpent, match=r"f: the budget of 5 seconds is spent, and there is no answer yet"):
            await one({"seconds": 5}, Scripted("a", hangs=True), strategy="single").answer(asking())

    @in_virtual_time
    async def test_the_stops_and_the_token_limit_of_the_client_bind_a_draft_too(self) -> None:
        models = [Scripted("a", ["one two three END four"]), Scripted("j", hangs=True)]
        config = {"strategy": "synthesize", "panel": ["a"], "judge": "j", "budget": {"seconds": 5}}
        model = over(*models, f=config)["f"]
        reply = await model.answer(asking(sampling=Sampling(stop="END")))
        assert reply.choices[0].text == "one two three "
        reply = await model.answer(asking(sampling=Sampling(max_tokens=2)))
        assert len(reply.choices[0].text.split()) <= 2
        assert reply.choices[0].finish_reason == "length"

    @in_virtual_time
    async def test_a_draft_in_prose_is_no_answer_where_json_was_asked_for(self) -> None:
        models = [Scripted("a", ["prose"]), Scripted("b", ['{"json": true}']), Scripted("j", hangs=True)]
        config = {"strategy": "synthesize", "panel": ["a", "b"], "judge": "j", "budget": {"seconds": 5}}
        model = over(*models, f=config)["f"]
        wanted = asking(response_format={"type": "json_object"})
        assert (await model.answer(wanted)).choices[0].text == '{"json": true}'
        models[1].texts = ["more prose"]
        with pytest.raises(BudgetSpent):
            await model.answer(wanted)


class TestErrors:
    async def test_what_has_nothing_to_do_with_it_is_raised_as_it_is(self) -> None:
        model = Scripted("a", ["one two"], error=EngineDied("gone"), fails_after=1)
        with pytest.raises(EngineDied):
            await one({"calls": 1}, model, strategy="single").answer(asking())

    async def test_other_causes_are_told_beside_it(self) -> None:
        models = [Scripted("a", error=EngineDied("gone")), Scripted("b")]
        with pytest.raises(PanelFailed) as raised:
            await one({"calls": 1}, *models, strategy="vote").answer(asking())
        assert {failure.code for failure in raised.value.failures} == {"engine_died", "budget_spent"}


class TestEngines:
    """An engine that is asked by itself."""

    @in_virtual_time
    async def test_what_it_has_said_by_then_is_the_answer(self) -> None:
        model = Bounded(Metered(Slow("a", ["once ", "upon"])), Budget(seconds=5))
        reply = await model.answer(asking())
        assert reply.choices == (Choice("once upon", "length"),)
        assert reply.report is None
        assert reply.budget is not None
        assert [call.error for call in reply.calls] == ["cancelled"]

    async def test_tokens_bind_it(self) -> None:
        model = Scripted("a", ["one"], finish_reason="length")
        reply = await Bounded(Metered(model), Budget(tokens=9)).answer(asking("four words to read"))
        assert model.requests[0].sampling.max_tokens == 5
        assert reply.budget == Spent("tokens", 9, 5)


@pytest.mark.parametrize("strategy", STRATEGY_CONFIGS)
@pytest.mark.parametrize("seed", range(12))
async def test_always_a_labelled_answer_or_an_error_and_never_more_than_allowed(strategy: str, seed: int) -> None:
    rng = random.Random(f"budget {strategy} {seed}")
    share = rng.choice([0, 0.1])
    models: list[ChatModel] = [Metered(Unreliable(name, rng, share)) for name in "abc"]
    inner = options(rng, rng.choice(list(STRATEGY_CONFIGS)), ["a", "b", "c"])
    outer = options(rng, strategy, ["a", "b", "c", "inner"])
    limits: dict[str, Any] = rng.choice(
        [{"calls": rng.randint(1, 9)}, {"tokens": rng.randint(20, 900)}, {"calls": 4, "tokens": 300}, {"seconds": 1e-3}]
    )
    outer["budget"] = limits
    if rng.random() < 0.3:
        inner["budget"] = {"calls": rng.randint(1, 3)}
    request = asking(
        samples=rng.choice([1, 1, 3]),
        tools=TOOLS if rng.random() < 0.2 else (),
        sampling=Sampling(seed=seed, max_tokens=rng.choice([None, 10, 200])),
    )
    heard, before = Heard(), asyncio.all_tasks()
    reply: Reply | None = None
    try:
        reply = await asyncio.wait_for(fusion(models, inner=inner, outer=outer)["outer"].answer(request, heard), 20)
    except LocalFusionError:
        pass
    finally:
        assert asyncio.all_tasks() == before
    calls = [event.call for event in heard.of(CallEnded)]
    assert len(calls) <= limits.get("calls", len(calls))
    if reply is None:
        return
    assert list(reply.calls) == calls
    refused = [each for each in report_of(reply).failed if each.code == "budget_spent"]
    if refused and "budget" not in inner:
        assert reply.budget is not None
    if reply.budget is not None:
        assert report_of(reply).partial
        assert refused
        assert reply.budget.limit == limits[reply.budget.spent]
    ended = {event.index: event.choice for event in heard.of(ChoiceEnded)}
    assert list(reply.choices) == [ended[index] for index in sorted(ended)]
    for index, choice in ended.items():
        sent = "".join(event.text for event in heard.of(TextDelta) if event.index == index)
        assert sent.strip() == choice.text.strip()
        assert choice.text.strip() or choice.tool_calls
