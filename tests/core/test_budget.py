"""What a request may cost, and the tally that its calls share."""

from __future__ import annotations

import pytest

from local_fusion.core.budget import Budget, Spending, Spent
from local_fusion.core.events import CallEnded
from local_fusion.core.metered import Metered
from local_fusion.core.records import Usage
from local_fusion.errors import BudgetSpent, EngineDied
from tests.scripted import Heard, Scripted, asking


class TestBudget:
    def test_the_least_of_each_limit_binds(self) -> None:
        one, other = Budget(tokens=100, calls=3), Budget(tokens=50, seconds=9)
        assert Budget.least(one, None, other) == Budget(tokens=50, calls=3, seconds=9)

    def test_no_limit_at_all_is_no_budget(self) -> None:
        assert Budget.least(None, Budget()) is None

    @pytest.mark.parametrize("limit", ["tokens", "calls", "seconds"])
    def test_a_limit_of_nothing_is_none_at_all(self, limit: str) -> None:
        with pytest.raises(ValueError, match="greater"):
            Budget(**{limit: 0})


class TestSpending:
    async def test_a_call_counts_as_announced_then_as_written_and_at_last_as_it_was(self) -> None:
        spending = Spending(Budget(tokens=100))
        call = spending.begin("a", read=10, answers=1)
        assert (spending.tokens, call.most) == (10, 90)
        call.writes(5)
        assert spending.tokens == 15
        call.ends(Usage(12, 6))
        call.close()
        assert (spending.tokens, spending.calls) == (18, 1)

    async def test_a_call_that_never_began_costs_nothing(self) -> None:
        spending = Spending(Budget(tokens=100, calls=1))
        spending.begin("a", read=10, answers=1).close()
        assert (spending.tokens, spending.calls) == (0, 0)
        spending.begin("a", read=10, answers=1)

    async def test_it_is_over_in_the_moment_in_which_more_tokens_come_than_there_are(self) -> None:
        spending = Spending(Budget(tokens=20))
        call = spending.begin("a", read=10, answers=1)
        call.writes(10)
        assert not spending.is_over
        assert spending.spent() is None
        call.writes(1)
        assert spending.is_over
        assert spending.spent() == Spent("tokens", 20, 21)

    async def test_what_is_spent_within_another_one_is_spent_of_that_too_and_either_binds(self) -> None:
        whole = Spending(Budget(tokens=30, calls=2))
        part = Spending(Budget(tokens=100), above=whole)
        call = part.begin("a", read=10, answers=2)
        assert call.most == 10
        assert (whole.tokens, whole.calls) == (10, 1)
        part.begin("a", read=10, answers=1)
        with pytest.raises(BudgetSpent, match=r"a was not asked: the budget of 2 calls is spent"):
            part.begin("a", read=0, answers=1)
        assert part.spent() == whole.spent() == Spent("calls", 2, 2)
        call.writes(11)
        assert part.is_over
        assert not part.over.done()


class TestMetered:
    """Calls of an engine's model, counted."""

    async def test_without_a_budget_it_is_the_model_as_it_is(self) -> None:
        model, heard = Scripted("a"), Heard()
        request = asking()
        reply = await Metered(model).answer(request, heard)
        assert model.requests[0] is request
        assert reply.choices[0].text == heard.text == "answer of a"

    @pytest.mark.parametrize("kind", ["answer", "weigh", "score"])
    async def test_every_kind_of_call_is_counted_and_refused_once_there_are_no_more(self, kind: str) -> None:
        model, heard, spending = Metered(Scripted("a")), Heard(), Spending(Budget(calls=1, tokens=1000))
        request = asking(spending=spending)

        async def call() -> None:
            match kind:
                case "answer":
                    await model.answer(request, heard)
                case "weigh":
                    await model.weigh(request, ("A", "B"), heard)
                case _:
                    await model.score(request, ("one", "two three"), heard)

        await call()
        (ended,) = heard.of(CallEnded)
        assert (spending.calls, spending.tokens) == (1, ended.call.usage.total_tokens)
        with pytest.raises(BudgetSpent):
            await call()
        assert len(heard.of(CallEnded)) == 1

    async def test_a_call_that_fails_costs_what_it_had_used(self) -> None:
        model = Metered(Scripted("a", ["one two three"], error=EngineDied("gone"), fails_after=2))
        spending = Spending(Budget(tokens=1000))
        with pytest.raises(EngineDied):
            await model.answer(asking("four words to read", spending=spending))
        assert (spending.calls, spending.tokens) == (1, 4 + 2)

    async def test_it_can_be_measured_and_expected_whatever_was_spent(self) -> None:
        spending = Spending(Budget(calls=1))
        spending.begin("a", 0, 1)
        model = Metered(Scripted("a", takes_images=False))
        assert (await model.measure(asking("two words", spending=spending))).tokens == 2
        with model.expecting(asking(spending=spending)):
            assert not model.takes_images
