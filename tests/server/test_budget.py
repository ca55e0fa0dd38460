"""Budgets over HTTP: from a request, a fusion's configuration, and the server's; the least of them binds."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.scripted import Scripted
from tests.server.controlled import asking_over

VOTE = {"strategy": "vote", "panel": ["a", "b", "c"]}
JUDGED = {"strategy": "synthesize", "panel": ["a"], "judge": "j"}


def say(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "What is 6 times 7?"}], **more}


async def test_a_request_may_set_one_and_the_answer_says_what_ran_out() -> None:
    client = asking_over(*(Scripted(name, [name]) for name in "abc"), vote=VOTE)
    answer = await client.post("/v1/chat/completions", say("vote", fusion={"budget": {"calls": 2}}))
    assert answer.status == 200
    told = answer.json()
    assert told["choices"][0]["message"]["content"] == "a"
    assert told["fusion"]["budget"] == {"spent": "calls", "limit": 2, "used": 2}
    assert told["fusion"]["partial"]
    assert [each["code"] for each in told["fusion"]["failed"]] == ["budget_spent"]
    assert len(told["usage"]["fusion"]["calls"]) == 2


async def test_an_answer_that_cost_no_more_than_it_may_says_nothing_of_it() -> None:
    client = asking_over(*(Scripted(name) for name in "abc"), vote={**VOTE, "budget": {"calls": 3}})
    told = (await client.post("/v1/chat/completions", say("vote"))).json()
    assert "budget" not in told["fusion"]
    assert not told["fusion"]["partial"]


@pytest.mark.parametrize(
    ("asked", "configured", "servers", "calls"),
    [(None, 2, None, 2), (1, 2, None, 1), (9, 2, None, 2), (None, None, 1, 1), (9, 9, 1, 1), (None, 2, 9, 2)],
)
async def test_the_least_of_them_binds_so_a_request_can_only_lower(
    asked: int | None, configured: int | None, servers: int | None, calls: int
) -> None:
    vote = VOTE if configured is None else {**VOTE, "budget": {"calls": configured, "tokens": 9999}}
    models = [Scripted(name, [name]) for name in "abc"]
    client = asking_over(*models, server={} if servers is None else {"request_budget": {"calls": servers}}, vote=vote)
    more = {} if asked is None else {"fusion": {"budget": {"calls": asked}}}
    told = (await client.post("/v1/chat/completions", say("vote", **more))).json()
    assert told["fusion"]["budget"]["limit"] == calls
    assert sum(len(model.requests) for model in models) == calls


@pytest.mark.parametrize(
    ("budget", "param"),
    [
        ({"calls": 0}, "fusion.budget.calls"),
        ({"tokens": "many"}, "fusion.budget.tokens"),
        ({"seconds": -1}, "fusion.budget.seconds"),
        ({"euros": 5}, "fusion.budget.euros"),
        (7, "fusion.budget"),
    ],
)
async def test_a_bad_one_is_named(budget: Any, param: str) -> None:
    client = asking_over(*(Scripted(name) for name in "abc"), vote=VOTE)
    answer = await client.post("/v1/chat/completions", say("vote", fusion={"budget": budget}))
    assert answer.status == 400
    assert answer.json()["error"]["param"] == param


async def test_where_there_is_no_answer_by_then_it_is_a_400_that_says_how_to_get_one() -> None:
    client = asking_over(Scripted("a", hangs=True), Scripted("j"), judged=JUDGED)
    answer = await client.post("/v1/chat/completions", say("judged", fusion={"budget": {"seconds": 0.05}}))
    assert answer.status == 400
    error = answer.json()["error"]
    assert error["code"] == "budget_spent"
    assert "the budget of 0.05 seconds is spent, and there is no answer yet" in error["message"]
    assert "fusion.budget.seconds" in error["message"]


async def test_a_stream_that_is_cut_ends_as_if_by_its_length_with_all_that_was_sent() -> None:
    class Talking(Scripted):
        async def answer(self, request: Any, emit: Any = None) -> Any:
            await super().answer(request, lambda event: emit(event) if event.type == "text_delta" else None)
            await asyncio.Event().wait()

    client = asking_over(Talking("a", ["once upon a time"]), one={"strategy": "single", "panel": ["a"]})
    asked = say("one", stream=True, fusion={"budget": {"seconds": 0.5}})
    answer = await client.post("/v1/chat/completions", asked)
    chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    deltas = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta["delta"].get("content") or "" for delta in deltas) == "once upon a time"
    assert deltas[-1]["finish_reason"] == "length"
    assert chunks[-1]["fusion"]["budget"]["spent"] == "seconds"
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_the_servers_own_binds_an_engine_that_is_asked_in_another_dialect() -> None:
    client = asking_over(Scripted("a", ["one"], finish_reason="length"), server={"request_budget": {"tokens": 9}})
    answer = await client.post(
        "/v1/messages",
        {"model": "a", "max_tokens": 100, "messages": [{"role": "user", "content": "four words to read"}]},
    )
    assert answer.status == 200
    assert answer.json()["stop_reason"] == "max_tokens"
    assert answer.json()["fusion"]["budget"] == {"spent": "tokens", "limit": 9, "used": 5}
