"""`POST /admin/reload`: another configuration for a server that goes on, and nobody who can wait is interrupted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from local_fusion.errors import ConfigError
from local_fusion.hardware.rigs import parse_rig
from tests.engines.waiting import alive, eventually
from tests.fake_engine import Script
from tests.server.controlled import asking_of, controlled, overview
from tests.server.guard.guarded import entry, keyed
from tests.server.reloadable import Reloadable, reloadable, single

LONG = "word " * 40
SLOW = Script(rules=[("", LONG)], token_seconds=0.02)
ONE = {"one": single("a")}


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Reloadable]:
    """`a`, which answers slowly, `b`, and a fusion of `a`."""
    async with reloadable(tmp_path, "a", "b", scripts={"a": SLOW}, fusions=ONE) as served:
        yield served


async def test_a_new_fusion_is_served_and_no_engine_notices(two: Reloadable) -> None:
    before = two.pids()
    two.configure("a", "b", fusions={**ONE, "two": single("b")})
    told = await two.reloaded()
    assert told["fusions"] == {"added": ["two"], "removed": [], "changed": []}
    assert (told["kept"], told["started"], told["stopped"], told["restarted"]) == (["a", "b"], [], [], {})
    assert (await two.ask("two"))[0] == 200
    assert two.pids() == before
    assert [model["id"] for model in (await two.get("/v1/models"))["data"]] == ["one", "two", "a", "b"]


async def test_what_is_in_flight_ends_with_what_it_began_with_and_what_is_new_gets_the_new(two: Reloadable) -> None:
    two.configure("a", "b", "c", fusions={"one": single("b"), "two": single("c")})
    async with two.streaming("one") as old, two.streaming("a") as passed_through:
        told = await two.reloaded()
        assert (told["kept"], told["started"], told["fusions"]["changed"]) == (["a", "b"], ["c"], ["one"])
        assert not old.done()
        assert await two.ask("one") == (200, "echo: What is 6 times 7?")
        assert await old == LONG.strip()
        assert await passed_through == LONG.strip()
    assert await two.ask("two") == (200, "echo: What is 6 times 7?")


async def test_a_model_that_goes_finishes_what_needs_it_and_is_not_there_any_more(two: Reloadable) -> None:
    pids = two.pids()
    two.configure("b", fusions={})
    async with two.streaming("one") as old, two.streaming("a") as passed_through:
        reloading = asyncio.ensure_future(two.reloaded())
        await eventually(lambda: "a" not in two.runtime.engines)
        status, error = await two.ask("a")
        assert (status, error["code"]) == (404, "model_not_found")
        assert await old == LONG.strip()
        assert await passed_through == LONG.strip()
        assert (await reloading)["stopped"] == ["a"]
    assert pids["a"] is not None
    assert not alive(pids["a"])
    assert two.pids() == {"b": pids["b"]}
    assert [engine["name"] for engine in (await two.get("/admin/engines"))["engines"]] == ["b"]
    assert list((await two.get("/ready"))["engines"]) == ["b"]


async def test_what_still_needs_a_model_when_the_drain_is_over_hears_why_it_is_cut_off(tmp_path: Path) -> None:
    scripts: dict[str, Any] = {"a": Script(hold_after_tokens=2)}
    async with reloadable(tmp_path, "a", "b", scripts=scripts, fusions=ONE) as served:
        served.configure("b", fusions={}, server={"drain_seconds": 0.2})
        async with served.streaming("one") as fusion, served.streaming("a") as passed_through:
            assert (await served.reloaded())["stopped"] == ["a"]
            assert "a was taken out of the configuration" in await fusion
            assert "a was taken out of the configuration" in await passed_through
        assert any("a goes, and takes with it what still needed it after 0.2 s" in line for line in served.told)


async def test_a_call_that_waits_for_a_model_that_goes_is_still_answered(tmp_path: Path) -> None:
    async with reloadable(tmp_path, "a", "b", scripts={"a": SLOW}, fusions=ONE) as served:
        served.change("a", max_num_seqs=1)
        assert (await served.reloaded())["restarted"] == {"a": "changed: max_num_seqs"}
        await served.awake("a")
        asked = [asyncio.ensure_future(served.ask("one")) for _ in range(2)]
        await eventually(lambda: served.runtime.scheduler.overview()[0].waiting == 1)
        served.configure("b")
        await served.reloaded()
        assert [await each for each in asked] == [(200, LONG.strip())] * 2


async def test_calls_to_a_model_that_changes_wait_until_it_is_back(tmp_path: Path) -> None:
    scripts: dict[str, Script | list[Script]] = {"a": [SLOW, Script(rules=[("", "anew")], sick_polls=3)]}
    async with reloadable(tmp_path, "a", "b", scripts=scripts, fusions=ONE) as served:
        pids = served.pids()
        served.change("a", max_num_seqs=8)
        async with served.streaming("a") as old:
            reloading = asyncio.ensure_future(served.reloaded())
            await eventually(lambda: "a" in served.runtime.scheduler.holding)
            asked = [asyncio.ensure_future(served.ask(name)) for name in ("a", "one")]
            assert await old == LONG.strip()
            told = await reloading
        assert (told["kept"], told["restarted"]) == (["b"], {"a": "changed: max_num_seqs"})
        assert [await each for each in asked] == [(200, "anew")] * 2
        assert served.host.commands["a"][1].argv[-1:] != served.host.commands["a"][0].argv
        assert served.pids()["b"] == pids["b"]
        assert served.pids()["a"] != pids["a"]


async def test_a_server_stays_ready_while_a_model_joins(two: Reloadable) -> None:
    two.host.scripts["c"] = Script(never_healthy=True)
    two.configure("a", "b", "c", fusions=ONE)
    await two.reloaded()
    state = await two.get("/ready")
    assert state["ready"] is True
    assert state["engines"]["c"]["state"] == "starting"


async def test_what_cannot_be_done_changes_nothing_and_is_told(two: Reloadable) -> None:
    good, before = two.load(), (two.pids(), two.runtime.config, two.runtime.plan)

    async def refused() -> tuple[int, str, str]:
        status, answer = await two.reload()
        assert (two.pids(), two.runtime.config, two.runtime.plan) == before
        assert (await two.ask("b"))[0] == 200
        assert f"not reloaded, and all goes on as before: {answer['error']['message'].split(' → ')[0]}" in two.told[-1]
        return status, answer["error"]["code"], answer["error"]["message"]

    two.config = ConfigError(["local-fusion.yaml:3: models.a.sauce: there is no such option; did you mean 'source'?"])
    status, code, message = await refused()
    assert (status, code) == (400, "invalid_config")
    assert "local-fusion.yaml:3: models.a.sauce" in message

    two.config = good
    two.change("b", source=str(two.folder / "nowhere"))
    status, code, message = await refused()
    assert status == 400
    assert "nowhere" in message

    two.configure("a", "b", "c", fusions=ONE)
    two.change("c", kv_cache_bytes=2**50)
    status, code, message = await refused()
    assert (status, code) == (503, "does_not_fit")
    assert "c: it needs" in message
    assert "leave out `kv_cache_bytes`" in message


async def test_settings_take_effect_at_once_or_are_told_to_need_a_restart(two: Reloadable) -> None:
    two.configure(
        "a",
        "b",
        fusions=ONE,
        scheduling={"max_queued_calls": 1},
        server={"max_body_bytes": 500, "port": 9999},
    )
    told = await two.reloaded()
    assert told["kept"] == ["a", "b"]
    assert told["settings"] == ["scheduling.max_queued_calls", "server.port", "server.max_body_bytes"]
    assert told["needs_restart"] == ["server.port"]
    assert two.runtime.config.server.port == 8000
    status, error = await two.ask("b", user="x" * 500)
    assert (status, error["code"]) == (413, "request_too_large")


async def test_keys_cannot_be_dropped_from_a_server_that_others_reach(tmp_path: Path) -> None:
    async with reloadable(tmp_path, "a", server={"host": "0.0.0.0", "allow_remote": True}) as served:
        served.configure("a")
        status, answer = await served.reload()
        assert (status, answer["error"]["code"]) == (400, "invalid_config")
        assert "host 0.0.0.0 is reachable by others" in answer["error"]["message"]
        assert served.runtime.config.server.allow_remote


async def test_keys_that_the_configuration_now_names_are_asked_for_at_once(two: Reloadable) -> None:
    file = keyed(two.folder, entry("admin", role="admin"))
    two.configure("a", "b", fusions=ONE, server={"api_keys_file": str(file)})
    await two.reloaded()
    assert (await two.ask("b"))[0] == 401
    assert (await two.reload())[0] == 401
    two.session.headers["Authorization"] = "Bearer lf-admin"
    assert (await two.ask("b"))[0] == 200
    two.configure("a", "b")
    await two.reloaded()


async def test_engine_settings_reach_engines_that_are_kept(two: Reloadable) -> None:
    pids = two.pids()
    two.configure("a", "b", fusions=ONE, engines={"stop_seconds": 3, "start_seconds": 30})
    assert (await two.reloaded())["settings"] == ["engines.stop_seconds"]
    assert two.pids() == pids
    assert two.runtime.engines["a"]._frame.settings.stop_seconds == 3


async def test_two_reloads_at_the_same_time_are_carried_out_one_after_the_other(two: Reloadable) -> None:
    two.configure("a", "b", "c", fusions=ONE)
    first, second = await asyncio.gather(two.reloaded(), two.reloaded())
    assert sorted([first["started"], second["started"]]) == [[], ["c"]]
    await two.awake("c")
    assert two.host.starts["c"] == 1


async def test_who_asked_for_a_reload_may_go_away(two: Reloadable) -> None:
    two.configure("a", fusions=ONE)
    async with two.streaming("one") as old:
        asking = asyncio.ensure_future(two.reload())
        await eventually(lambda: "b" not in two.runtime.engines)
        asking.cancel()
        assert await old == LONG.strip()
    await eventually(lambda: [each.name for each in two.runtime.scheduler.overview()] == ["a"])


async def test_a_server_that_was_started_from_no_file_says_so() -> None:
    answer = await asking_of(controlled(overview("a"))).post("/admin/reload", {})
    assert answer.status == 404
    assert "not started from a configuration file" in answer.json()["error"]["message"]


async def test_a_reload_takes_no_fields(two: Reloadable) -> None:
    status, answer = await two.post("/admin/reload", {"force": True})
    assert (status, answer["error"]["param"]) == (400, "force")
    assert (await two.post("/admin/reload", {}))[0] == 200


async def test_a_model_may_become_a_fusion_and_a_fusion_a_model(two: Reloadable) -> None:
    two.configure("a", "one", fusions={"b": single("one")})
    told = await two.reloaded()
    assert (told["kept"], told["started"], told["stopped"]) == (["a"], ["one"], ["b"])
    assert await two.ask("b") == (200, "echo: What is 6 times 7?")
    assert await two.ask("one") == (200, "echo: What is 6 times 7?")


async def test_metrics_and_plan_are_those_of_what_is_there_now(two: Reloadable) -> None:
    two.configure("a", "c")
    await two.reloaded()
    await two.awake("c")
    assert (await two.ask("c"))[0] == 200
    assert [each["model"] for each in (await two.get("/admin/plan"))["placements"]] == ["a", "c"]
    async with two.session.get(f"{two.url}/metrics") as response:
        text = await response.text()
    assert 'local_fusion_swaps_total{engine="c",kind="start"} 1.0' in text
    assert 'local_fusion_engine_state{engine="b"' not in text


async def test_twenty_reloads_leave_nothing_behind(tmp_path: Path) -> None:
    def belongings() -> tuple[int, int, list[str]]:
        folder = Path(os.environ["LOCAL_FUSION_RUNTIME"])
        files = sorted(file.name for file in folder.glob("*/*"))
        return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks()), files

    async with reloadable(tmp_path, "a", "b", fusions=ONE) as served:

        async def reload(*models: str, sequences: int = 64) -> None:
            served.configure(*models, fusions=ONE)
            if "b" in models:
                served.change("b", max_num_seqs=sequences)
            await served.runtime.reload(served.load, served.told.append)

        await reload("a", "b", "c")
        await reload("a", "b")
        before, kept = belongings(), served.pids()["a"]
        for turn in range(18):
            await reload("a", *(["c"] if turn % 3 == 1 else ["b"]), sequences=64 - turn)
        await reload("a", "b")
        await served.awake("b")
        assert served.pids()["a"] == kept
        files, tasks, names = belongings()
        assert names == before[2]
        # Connections to engines come and go; what is lost with each reload would be there eighteen times.
        assert max(files - before[0], tasks - before[1]) < 9
        living = {pid for pids in served.host.pids.values() for pid in pids if alive(pid)}
        assert living == set(served.pids().values())


async def test_an_engine_that_cannot_stay_as_it_is_is_placed_anew_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its KV cache was all that was free of the GPU, of which more is to be left alone now."""
    monkeypatch.setattr("local_fusion.runtime.opening.probe_rig", lambda **_: parse_rig("1x16GiB"))
    options = {"a": {"kv_cache_bytes": None, "max_num_seqs": 2**16}}
    async with reloadable(tmp_path, "a", options=options) as served:
        before = served.runtime.placement("a").kv_cache_bytes
        served.configure("a", engines={"gpu_reserve": "8GiB"})
        told = await served.reloaded()
        assert told["restarted"] == {"a": "placed anew, because otherwise not all models would fit"}
        assert told["plan"]["placements"][0]["kv_cache_bytes"] < before - 7 * 2**30
        await served.awake("a")
        assert f"{told['plan']['placements'][0]['kv_cache_bytes']}" in served.host.commands["a"][1].argv
