"""What one request may cost, and what it has cost so far: one tally, shared by every call that is made for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from local_fusion.errors import BudgetSpent

if TYPE_CHECKING:
    from local_fusion.core.records import Usage

Limited = Literal["tokens", "calls", "seconds"]


class Budget(BaseModel):
    """Limits of one request, over all the calls that are made for it; None is no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int | None = Field(None, ge=1, description="Most tokens, those read and those written.")
    calls: int | None = Field(None, ge=1, description="Most calls of engines.")
    seconds: float | None = Field(None, gt=0, description="Longest time; waiting for an engine counts.")

    @classmethod
    def least(cls, *budgets: Budget | None) -> Budget | None:
        """The least of each limit; None where there is no limit at all."""
        given = [budget.model_dump(exclude_none=True) for budget in budgets if budget is not None]
        limits = {
            name: min(values) for name in cls.model_fields if (values := [each[name] for each in given if name in each])
        }
        return cls(**limits) if limits else None


@dataclass(frozen=True, slots=True)
class Spent:
    """What a request ran out of: `used` of at most `limit` tokens, calls or seconds."""

    spent: Limited
    limit: float
    used: float

    @property
    def text(self) -> str:
        """For people: `the budget of 500 tokens is spent`."""
        unit = self.spent.removesuffix("s") if self.limit == 1 else self.spent
        return f"the budget of {self.limit:g} {unit} is spent"


class Spending:
    """What was spent of `budget`; where that is part of a larger one, what is spent of it is spent of that (`above`).

    Belongs to one event loop. `over` is done once work for the request has to end at once.
    """

    def __init__(self, budget: Budget, above: Spending | None = None) -> None:
        self.budget = budget
        self.tokens = 0
        self.calls = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._above = above
        self._spent: Limited | None = None
        self._began = self._now()

    @contextmanager
    def running(self) -> Iterator[None]:
        """While in this block, time counts: once the budget's seconds have passed, `over` is done."""
        if self.budget.seconds is None:
            yield
            return
        timer = asyncio.get_running_loop().call_at(self._began + self.budget.seconds, self._end, "seconds")
        try:
            yield
        finally:
            timer.cancel()

    @property
    def is_over(self) -> bool:
        """Whether work for the request has to end at once."""
        return any(each.over.done() for each in self._chain())

    @property
    def counts_tokens(self) -> bool:
        """Whether tokens are limited: only then prompts need be measured before they are read."""
        return any(each.budget.tokens is not None for each in self._chain())

    def spent(self) -> Spent | None:
        """What has run out, so that something was left out or cut short; None where nothing has."""
        for each in self._chain():
            if each._spent is not None:
                limit = getattr(each.budget, each._spent)
                used = {"tokens": each.tokens, "calls": each.calls, "seconds": round(each._now() - each._began, 3)}
                return Spent(each._spent, limit, used[each._spent])
        return None

    def ran_out(self) -> None:
        """An answer ended early because its tokens had been limited to what was left."""
        least = min(
            (each for each in self._chain() if each.budget.tokens is not None),
            key=lambda each: (each.budget.tokens or 0) - each.tokens,
        )
        least._spent = least._spent or "tokens"

    def refuse_if_spent(self, model: str) -> None:
        """Raises `BudgetSpent` where there are no calls or no tokens left."""
        for each in self._chain():
            calls, tokens = each.budget.calls, each.budget.tokens
            if calls is not None and each.calls >= calls:
                each._refuse(model, "calls")
            if tokens is not None and each.tokens >= tokens:
                each._refuse(model, "tokens")

    def begin(self, model: str, read: int, answers: int) -> Call:
        """Count a call of `model` that reads about `read` tokens and gives so many answers, of one token at least.

        Raises `BudgetSpent` where the budget does not allow it.
        """
        self.refuse_if_spent(model)
        left: int | None = None
        for each in self._chain():
            if each.budget.tokens is None:
                continue
            here = (each.budget.tokens - each.tokens - read) // answers
            if here < 1:
                each._refuse(model, "tokens")
            left = here if left is None else min(left, here)
        self._add(read, calls=1)
        return Call(self, read, left)

    def _chain(self) -> Iterator[Spending]:
        each: Spending | None = self
        while each is not None:
            yield each
            each = each._above

    def _add(self, tokens: int, *, calls: int = 0) -> None:
        for each in self._chain():
            each.tokens += tokens
            each.calls += calls
            if each.budget.tokens is not None and each.tokens > each.budget.tokens:
                each._end("tokens")

    def _refuse(self, model: str, limited: Limited) -> None:
        self._spent = self._spent or limited
        spent = Spent(limited, getattr(self.budget, limited), 0).text
        raise BudgetSpent(f"{model} was not asked: {spent}", hint=f"raise budget.{limited}")

    def _end(self, limited: Limited) -> None:
        self._spent = self._spent or limited
        if not self.over.done():
            self.over.set_result(None)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


class Call:
    """A call that goes on: counted as it was announced, then token by token, in the end as it was in truth.

    `most`: tokens that each of its answers may have, None where nothing limits them.
    """

    def __init__(self, spending: Spending, read: int, most: int | None) -> None:
        self.most = most
        self._spending = spending
        self._counted = read
        self._ended = False

    def writes(self, tokens: int) -> None:
        """More tokens were written."""
        self._counted += tokens
        self._spending._add(tokens)

    def ends(self, usage: Usage) -> None:
        """The call is over, and this is what it used."""
        self._ended = True
        self._spending._add(usage.total_tokens - self._counted)
        self._counted = usage.total_tokens

    def close(self) -> None:
        """Nothing more will come: a call that never reached its engine has cost nothing."""
        if not self._ended:
            self._spending._add(-self._counted, calls=-1)
            self._counted = 0
