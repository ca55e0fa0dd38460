"""What the administrator sees and may do."""

from __future__ import annotations

import json

import pytest

from local_fusion.errors import MemoryTaken
from local_fusion.planner.plan_json import plan_json
from local_fusion.server.door import Door
from tests.server.controlled import asking_of, controlled, overview

ACTIONS = ("sleep", "wake", "restart", "pin", "unpin")


async def test_every_engine_is_told_with_its_memory_queue_errors_and_seconds() -> None:
    awake = overview("a", held_bytes=700, devices=(0, 1), running=2, swaps=3, pid=42, restarts=1, pinned=True)
    asleep = overview(
        "team/b",
        "asleep",
        level=1,
        held_bytes=50,
        host_bytes=600,
        rest="level 1",
        waiting=4,
        waiting_batch=3,
        oldest_wait=7.5,
        reason="swap in progress",
        note="KV cache lowered from 2 GiB to 1.5 GiB after running out of memory twice",
        seconds_to_sleep=1.5,
        seconds_to_wake=0.8,
    )
    client = asking_of(controlled(awake, asleep))
    first, second = (await client.get("/admin/engines")).json()["engines"]
    alone = (await client.get("/admin/engines/team/b")).json()
    assert first == {
        "name": "a",
        "state": "awake",
        "level": None,
        "since": 1000.0,
        "pid": 42,
        "devices": [0, 1],
        "held_bytes": {"0": 700, "1": 700},
        "host_bytes": 0,
        "rest": "stopped",
        "pinned": True,
        "queue": {"running": 2, "waiting": 0, "batch": 0},
        "oldest_wait_seconds": None,
        "reason": None,
        "note": None,
        "last_error": None,
        "hint": None,
        "log_tail": None,
        "swaps": 3,
        "restarts": 1,
        "seconds": {"start": 2.0, "sleep": None, "wake": None},
    }
    assert (second["state"], second["level"], second["rest"], second["host_bytes"]) == ("asleep", 1, "level 1", 600)
    assert second["queue"] == {"running": 0, "waiting": 4, "batch": 3}
    assert second["oldest_wait_seconds"] == 7.5
    assert second["reason"] == "waiting for team/b: 4 ahead, swap in progress"
    assert second["note"].startswith("KV cache lowered")
    assert second["seconds"] == {"start": 2.0, "sleep": 1.5, "wake": 0.8}
    assert alone == second


async def test_a_broken_engine_is_told_with_its_cause_and_last_lines() -> None:
    broken = overview("a", "broken", last_error="a did not start: no such file", hint="Fetch it.", log_tail="one\ntwo")
    client = asking_of(controlled(broken))
    told = (await client.get("/admin/engines/a")).json()
    assert (told["state"], told["last_error"], told["hint"], told["log_tail"]) == (
        "broken",
        "a did not start: no such file",
        "Fetch it.",
        "one\ntwo",
    )


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("short", [False, True])
async def test_an_action_answers_with_the_engine_once_it_is_done(action: str, short: bool) -> None:
    runtime = controlled(overview("team/a"), overview("b"))
    client = asking_of(runtime)
    if short:
        answer = await client.post(f"/admin/{action}", {"model": "team/a"})
    else:
        answer = await client.post(f"/admin/engines/team/a/{action}")
    assert (answer.status, answer.json()["name"]) == (200, "team/a")
    assert runtime.scheduler.done == [(action, "team/a")]


async def test_an_unknown_engine_is_told_with_the_nearest_name() -> None:
    runtime = controlled(overview("gemma"), one={"strategy": "single", "panel": ["gemma"]})
    client = asking_of(runtime)
    answers = [
        await client.get("/admin/engines/gema"),
        await client.post("/admin/engines/gema/sleep"),
        await client.post("/admin/sleep", {"model": "gema"}),
    ]
    fusion = await client.post("/admin/engines/one/sleep")
    for answer in answers:
        assert answer.status == 404
        assert answer.json()["error"]["code"] == "model_not_found"
        assert "did you mean 'gemma'" in answer.json()["error"]["message"]
    assert fusion.status == 404
    assert runtime.scheduler.done == []


@pytest.mark.parametrize("path", ["/admin/engines/a/slep", "/admin/slep", "/admin/engines/a"])
async def test_an_unknown_action_is_told_with_those_there_are(path: str) -> None:
    runtime = controlled(overview("a"))
    client = asking_of(runtime)
    answer = await client.post(path, {"model": "a"})
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (404, "not_found")
    assert all(f"/{action}" in error["message"] for action in ACTIONS)
    assert runtime.scheduler.done == []


async def test_an_action_that_fails_is_told_in_the_houses_shape() -> None:
    runtime = controlled(overview("a", "asleep"))
    runtime.scheduler.fails = MemoryTaken("GPU 0 has 3 GiB free of 7 GiB", hint="process 1234 holds the rest")
    client = asking_of(runtime)
    answer = await client.post("/admin/engines/a/wake")
    error = answer.json()["error"]
    assert (answer.status, error["code"], error["fault"]) == (503, "memory_taken", "engine")
    assert "process 1234" in error["message"]
    assert answer.headers["retry-after"]


async def test_the_short_form_needs_a_model() -> None:
    client = asking_of(controlled(overview("a")))
    answer = await client.post("/admin/sleep", {})
    assert (answer.status, answer.json()["error"]["param"]) == (400, "model")


async def test_the_plan_is_the_one_that_the_command_prints() -> None:
    runtime = controlled(overview("a"), overview("b"))
    client = asking_of(runtime)
    told = (await client.get("/admin/plan")).json()
    assert told == json.loads(json.dumps(plan_json(runtime.plan)))
    assert [each["model"] for each in told["placements"]] == ["a", "b"]


async def test_a_server_that_stops_moves_no_engine_but_still_shows_them() -> None:
    runtime = controlled(overview("a"))
    door = Door(runtime)  # type: ignore[arg-type]
    door.close()
    client = asking_of(runtime, door)
    assert (await client.post("/admin/engines/a/wake")).status == 503
    assert (await client.get("/admin/engines")).status == 200
    assert runtime.scheduler.done == []


HERE = "127.0.0.1:8000"


@pytest.mark.parametrize("path", ["/admin/engines/a/sleep", "/admin/sleep"])
@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:3000", "http://evil.example:8000", "null"])
async def test_a_web_page_of_another_host_may_not_control_engines(origin: str, path: str) -> None:
    runtime = controlled(overview("a"))
    refused = await asking_of(runtime).post(path, {"model": "a"}, {"Host": HERE, "Origin": origin})
    error = refused.json()["error"]
    assert (refused.status, error["code"], error["fault"]) == (403, "forbidden", "caller")
    assert origin in error["message"]
    assert runtime.scheduler.done == []


@pytest.mark.parametrize("headers", [{}, {"Origin": f"http://{HERE}"}, {"Origin": "HTTP://127.0.0.1:8000"}])
async def test_programs_and_the_servers_own_pages_may(headers: dict[str, str]) -> None:
    runtime = controlled(overview("a"))
    answer = await asking_of(runtime).post("/admin/engines/a/sleep", headers={"Host": HERE, **headers})
    assert (answer.status, runtime.scheduler.done) == (200, [("sleep", "a")])
