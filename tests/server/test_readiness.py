"""`/ready`: who can answer, by engines that are up and by those that wake when they are called."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.server.door import Door
from local_fusion.server.readiness import readiness
from tests.server.controlled import ControlledRuntime, asking_of, controlled, overview

VOTE = {"strategy": "vote", "extract": "number", "panel": ["a", "b"]}
BEST = {"strategy": "best_of", "panel": [{"model": "a", "samples": 2}], "judge": "b"}
ERROR = "b did not start: it is no model"


async def ask(runtime: ControlledRuntime, door: Door | None = None) -> tuple[int, Any]:
    client = asking_of(runtime, door)
    answer = await client.get("/ready")
    return answer.status, answer.json()


async def test_all_engines_awake_is_ready() -> None:
    status, told = await ask(controlled(overview("a"), overview("b"), vote=VOTE))
    assert (status, told["ready"], told["reason"]) == (200, True, None)
    assert told["fusions"] == {"vote": {"ready": True, "lacking": [], "asleep": [], "reason": None}}
    assert told["engines"]["a"] == {"ready": True, "state": "awake", "last_error": None, "reason": None}


@pytest.mark.parametrize("state", ["asleep", "stopped"])
async def test_an_engine_that_sleeps_can_answer_because_a_call_wakes_it(state: str) -> None:
    status, told = await ask(controlled(overview("a"), overview("b", state), turns=["b"], best=BEST))
    assert status == 200
    assert told["fusions"]["best"] == {"ready": True, "lacking": [], "asleep": ["b"], "reason": None}


@pytest.mark.parametrize("state", ["waking", "falling_asleep", "starting", "backing_off"])
async def test_an_engine_that_moves_or_restarts_does_not_take_readiness_away(state: str) -> None:
    status, told = await ask(controlled(overview("a"), overview("b", state), best=BEST))
    assert (status, told["fusions"]["best"]["ready"]) == (200, True)


@pytest.mark.parametrize("state", ["stopped", "starting", "backing_off"])
async def test_until_the_engines_of_the_start_have_come_up_it_is_not_ready(state: str) -> None:
    coming = overview("b", state, seconds_to_ready=None)
    status, told = await ask(controlled(overview("a"), coming, vote=VOTE))
    assert (status, told["ready"], told["reason"]) == (503, False, "engines are starting")


async def test_engines_that_take_turns_need_not_have_been_up() -> None:
    later = overview("b", "stopped", seconds_to_ready=None)
    assert (await ask(controlled(overview("a"), later, turns=["b"], vote=VOTE)))[0] == 200


async def test_an_engine_whose_memory_others_hold_at_the_start_can_still_be_woken_later() -> None:
    waits = overview("b", "stopped", seconds_to_ready=None, last_error="GPU 0 has 3 GiB free of 7 GiB")
    status, told = await ask(controlled(overview("a"), waits, vote=VOTE))
    assert status == 200
    assert told["engines"]["b"]["last_error"] == "GPU 0 has 3 GiB free of 7 GiB"


async def test_a_fusion_without_its_judge_is_not_ready_and_says_why_others_are() -> None:
    broken = overview("b", "broken", last_error=ERROR)
    status, told = await ask(controlled(overview("a"), broken, vote=VOTE, best=BEST))
    assert (status, told["ready"]) == (200, True)
    assert told["fusions"]["best"] == {
        "ready": False,
        "lacking": ["b"],
        "asleep": [],
        "reason": f"cannot do without b: {ERROR}",
    }
    assert told["fusions"]["vote"]["ready"] is True
    assert told["fusions"]["vote"]["reason"] == f"goes on without b: {ERROR}"
    assert told["engines"]["b"] == {"ready": False, "state": "broken", "last_error": ERROR, "reason": ERROR}


async def test_an_engine_that_pinned_ones_keep_asleep_cannot_answer() -> None:
    why = "b cannot be woken while a is pinned"
    kept_out = overview("b", "stopped", unreachable=why)
    status, told = await ask(controlled(overview("a", pinned=True), kept_out, turns=["b"], best=BEST, vote=VOTE))
    assert status == 200
    assert told["engines"]["b"] == {"ready": False, "state": "stopped", "last_error": None, "reason": why}
    assert told["fusions"]["best"] == {
        "ready": False,
        "lacking": ["b"],
        "asleep": [],
        "reason": f"cannot do without b: {why}",
    }
    assert told["fusions"]["vote"]["ready"] is True


async def test_a_panel_below_its_quorum_is_not_ready() -> None:
    broken = overview("b", "broken", last_error=ERROR)
    _, told = await ask(controlled(overview("a"), broken, vote=VOTE | {"quorum": 2}))
    assert told["fusions"]["vote"]["ready"] is False


async def test_a_fusion_of_fusions_is_judged_by_the_engines_in_the_end() -> None:
    outer = {"strategy": "synthesize", "panel": ["vote", "best"], "judge": "a"}
    broken = overview("b", "broken", last_error=ERROR)
    told = readiness(controlled(overview("a"), broken, vote=VOTE, best=BEST, outer=outer))  # type: ignore[arg-type]
    assert told["fusions"]["outer"]["ready"] is True
    strict = controlled(overview("a"), broken, vote=VOTE, best=BEST, outer=outer | {"quorum": 2})
    assert readiness(strict)["fusions"]["outer"]["ready"] is False  # type: ignore[arg-type]


async def test_nothing_that_can_answer_is_503() -> None:
    status, told = await ask(controlled(overview("a", "broken"), overview("b", "broken"), vote=VOTE))
    assert (status, told["reason"]) == (503, "nothing can answer")


async def test_a_server_that_stops_is_not_ready() -> None:
    runtime = controlled(overview("a"))
    door = Door(runtime)  # type: ignore[arg-type]
    door.close()
    status, told = await ask(runtime, door)
    assert (status, told["reason"]) == (503, "the server is stopping")
