"""`serve`: up in order, down in reverse, and nothing left behind however it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from local_fusion.core.warden import read_process
from tests.cli.commands import Home, Running, until
from tests.cli.turns import take_turns
from tests.engines.waiting import recorded
from tests.fake_engine import Script

ONE = {"one": {"strategy": "single", "panel": ["a"]}}


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as response:
        return json.load(response)


class Asking(threading.Thread):
    """A request to `model` in a thread of its own: its answer, or what went wrong."""

    def __init__(self, url: str, model: str = "one") -> None:
        super().__init__(daemon=True)
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
        self._request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode())
        self.answer: str | None = None
        self.error: Exception | None = None
        self.told = ""
        self.start()

    def finished(self) -> Asking:
        """The same, once it is answered."""
        self.join(60)
        return self

    def run(self) -> None:
        try:
            with urllib.request.urlopen(self._request, timeout=60) as response:
                self.answer = json.load(response)["choices"][0]["message"]["content"]
        except OSError as error:
            self.error = error
            if isinstance(error, urllib.error.HTTPError):
                self.told = json.load(error)["error"]["message"]


def listens(url: str) -> bool:
    address = urlsplit(url)
    try:
        socket.create_connection((str(address.hostname), int(address.port or 0)), 5).close()
    except ConnectionRefusedError:
        return False
    return True


@contextmanager
def serving(home: Home, *arguments: str) -> Iterator[tuple[Running, str]]:
    running = home.start("serve", "--port", "0", *arguments)
    try:
        url = running.url()
        running.wait_for("engine a: awake")
        yield running, url
    finally:
        running.process.kill()
        running.process.wait()


def test_it_says_where_it_listens_and_what_it_serves_and_sigterm_ends_it(home: Home) -> None:
    home.configure("a", fusions=ONE)
    with serving(home) as (running, url):
        for told in ("one", "panel of a", "engine", "on the CPU"):
            assert told in running.err
        assert [model["id"] for model in get(f"{url}/v1/models")["data"]] == ["one", "a"]
        assert get(f"{url}/ready")["ready"] is True
        running.signal(signal.SIGTERM)
        assert running.code() == 0, running.err
        assert "Traceback" not in running.err
    assert home.left_behind() == []


def test_sigterm_lets_a_running_request_finish_before_the_engines_stop(home: Home) -> None:
    home.configure("a", fusions=ONE)
    record = home.folder / "record.jsonl"
    home.script(a=Script(rules=[("Hello", "word " * 30)], token_seconds=0.05, record=str(record)))
    with serving(home) as (running, url):
        asking = Asking(url)
        until(lambda: "request" in [entry["event"] for entry in recorded(record)])
        running.signal(signal.SIGTERM)
        until(lambda: not listens(url))
        asking.join(60)
        assert asking.answer == ("word " * 30).strip(), asking.error
        assert running.code() == 0, running.err
    assert [entry["event"] for entry in recorded(record)] == ["request", "answered"]
    assert home.left_behind() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_wait_for_running_requests(home: Home, number: signal.Signals) -> None:
    home.configure("a", fusions=ONE, server={"drain_seconds": 600})
    record = home.folder / "record.jsonl"
    home.script(a=Script(hang=True, record=str(record)))
    with serving(home) as (running, url):
        asking = Asking(url)
        until(lambda: "request" in [entry["event"] for entry in recorded(record)])
        running.signal(number)
        until(lambda: not listens(url))
        assert running.process.poll() is None, running.err
        running.signal(number)
        assert running.code() == 130, running.err
        assert "interrupted; everything that was started has been stopped" in running.err
        asking.join(10)
        assert asking.error is not None
    assert "Traceback" not in running.err
    assert home.left_behind() == []


def test_a_signal_while_engines_start_stops_everything(home: Home) -> None:
    home.configure("a", "b", fusions=ONE)
    home.script(a=Script(never_healthy=True), b=Script(never_healthy=True, ignore_sigterm=True))
    running = home.start("serve", "--port", "0")
    until(lambda: (home.folder / "a.starts").exists() and (home.folder / "b.starts").exists())
    running.signal(signal.SIGINT)
    assert running.code() in (0, 130), running.err
    assert "Traceback" not in running.err
    assert home.left_behind() == []


def test_after_sigkill_no_engine_lives_on_and_the_next_start_removes_the_folder(home: Home) -> None:
    home.configure("a", fusions=ONE)
    home.script(a=Script(ignore_sigterm=True))
    with serving(home) as (running, _):
        assert len(home.processes()) > 1
        running.signal(signal.SIGKILL)
        running.process.wait()
    until(lambda: home.processes() == [], 10)
    (left,) = home.runtime.iterdir()
    with serving(home) as (running, _):
        assert not left.exists()
        running.signal(signal.SIGTERM)
        assert running.code() == 0
    assert home.left_behind() == []


def test_engines_that_outlived_their_server_are_killed_at_the_next_start_which_says_so(home: Home) -> None:
    home.configure("a", fusions=ONE)
    with serving(home) as (running, _):
        (note,) = home.runtime.glob("*/*.family")
        warden = json.loads(note.read_text())["warden"]
        os.kill(warden, signal.SIGSTOP)  # so that it cannot see to its family
        running.signal(signal.SIGKILL)
        running.process.wait()
    orphans = home.processes()
    assert warden in orphans
    with serving(home) as (running, _):
        assert f"cleaned up {len(orphans)} processes" in running.err
        assert [pid for pid in orphans if (found := read_process(pid)) and found.state not in "ZX"] == []
        running.signal(signal.SIGTERM)
        assert running.code() == 0
    assert home.left_behind() == []


def test_an_address_that_others_can_reach_is_refused(home: Home) -> None:
    home.configure("a", fusions=ONE)
    done = home.run("serve", "--host", "0.0.0.0")
    assert done.code == 2
    assert done.err.startswith("local-fusion: server: host 0.0.0.0 is reachable by others")
    assert "allow_remote: true" in done.err
    assert len(done.err.splitlines()) == 1
    assert not (home.folder / "a.starts").exists()


def test_a_server_without_a_single_working_engine_ends_with_the_cause(home: Home) -> None:
    home.configure("a", fusions=ONE)
    home.script(a=Script(crash_log="ValueError: Model architectures ['Foo'] are not supported for now."))
    done = home.run("serve", "--port", "0")
    assert done.code == 1
    assert "local-fusion: a did not start" in done.err
    assert "Foo" in done.err
    assert "Traceback" not in done.err
    assert home.left_behind() == []


def test_an_engine_that_dies_is_told_and_comes_back(home: Home) -> None:
    home.configure("a", fusions=ONE)
    home.script(a=[Script(die_after_tokens=1), Script(rules=[("", "well again")])])
    with serving(home) as (running, url):
        first = Asking(url)
        first.join(60)
        assert first.answer is None
        running.wait_for(r"engine a: backing off .*crashed")
        running.wait_for(r"(?s)engine a: awake.*engine a: awake")
        second = Asking(url)
        second.join(60)
        assert second.answer == "well again", second.error


def test_two_servers_live_side_by_side(home: Home) -> None:
    home.configure("a", fusions=ONE)
    with serving(home) as (_, one), serving(home) as (second, other):
        assert one != other
        second.signal(signal.SIGTERM)
        assert second.code() == 0
        assert get(f"{one}/ready")["ready"] is True


def test_a_runtime_folder_that_others_can_open_is_refused(home: Home) -> None:
    home.configure("a", fusions=ONE)
    home.runtime.mkdir()
    Path(home.runtime).chmod(0o755)
    done = home.run("serve", "--port", "0")
    assert done.code == 1
    assert f"chmod 700 {home.runtime}" in done.err


def test_an_engines_own_words_are_shown_as_they_are(home: Home) -> None:
    home.configure("a", engines={"restarts": 0, "stop_seconds": 1})
    home.script(a=Script(crash_log="ValueError: bad value in [/models/foo] here [cuda] now", crash_code=3))
    outcome = home.run("serve", "--port", "0")
    assert outcome.code == 1
    assert "bad value in [/models/foo] here [cuda] now" in outcome.err
    assert "Traceback" not in outcome.err
    assert not home.left_behind()


def test_a_request_that_outlasts_the_drain_is_told_that_the_server_stops(home: Home) -> None:
    home.configure("a", fusions=ONE, server={"drain_seconds": 1})
    home.script(a=Script(hang=True, record=str(home.folder / "record")))
    running = home.start("serve", "--port", "0")
    asking = Asking(running.url())
    until(lambda: bool(recorded(home.folder / "record")))
    running.signal(signal.SIGTERM)
    asking.join(30)
    assert running.code() == 0
    assert "503" in str(asking.error)
    assert "Traceback" not in running.err


def test_the_engines_are_started_as_the_plan_says(home: Home) -> None:
    config = home.configure("a", "b", fusions=ONE, server={"port": 0})
    config.write_text(config.read_text().replace("kv_cache_bytes: 1MiB", "kv_cache_bytes: auto"))
    told = json.loads(home.run("plan", "--json").out)["placements"]
    planned = {each["model"]: (each["kv_cache_bytes"], each["max_model_len"], each["tensor_parallel"]) for each in told}
    with serving(home) as (running, _):
        running.wait_for("engine b: awake")
        started = dict(engine for pid in home.processes() if (engine := command_line(pid)) is not None)
    assert planned.keys() == {"a", "b"}
    assert started == planned


def command_line(pid: int) -> tuple[str, tuple[int, ...]] | None:
    """An engine's name, KV bytes, context and split, from how its process was started; None for other processes."""
    argv = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    if "--kv-cache-memory-bytes" not in argv:
        return None
    options = ("--kv-cache-memory-bytes", "--max-model-len", "--tensor-parallel-size")
    numbers = tuple(int(argv[argv.index(option) + 1]) for option in options)
    return argv[argv.index("--served-model-name") + 1], numbers


@contextmanager
def one_at_work_one_waiting(home: Home, model: str) -> Iterator[tuple[Running, Asking, Asking]]:
    """A server whose `a` is answering, and a call to `model` that waits for `b`."""
    record = home.folder / "record.jsonl"
    with serving(home) as (running, url):
        working = Asking(url, "a")
        until(lambda: "request" in [entry["event"] for entry in recorded(record)])
        waiting = Asking(url, model)
        until(lambda: get(f"{url}/admin/engines/b")["queue"]["waiting"] == 1)
        yield running, working, waiting


def test_engines_that_take_turns_are_announced_and_every_swap_is_told(home: Home) -> None:
    take_turns(home)
    with serving(home) as (running, url):
        assert "in turns with b: awake first" in running.err
        assert "in turns with a: started when it is called" in running.err
        asking = Asking(url, "b-alone")
        running.wait_for(r"engine b: awake ready after \d+\.\d s")
        running.wait_for(r"engine a: (stopped|asleep)")
        asking.join(60)
        assert asking.answer == "echo: Hello", asking.error
        assert get(f"{url}/ready")["fusions"]["a-alone"]["asleep"] == ["a"]
        running.signal(signal.SIGTERM)
        assert running.code() == 0, running.err
    assert home.left_behind() == []


@pytest.mark.parametrize("model", ["b", "b-alone"])
def test_a_call_that_waits_for_its_engines_turn_is_still_answered_when_the_server_is_told_to_stop(
    home: Home, model: str
) -> None:
    take_turns(home)
    a = Script(rules=[("Hello", "word " * 30)], token_seconds=0.05, record=str(home.folder / "record.jsonl"))
    home.script(a=a, b=Script(rules=[("Hello", "at last")]))
    with one_at_work_one_waiting(home, model) as (running, working, waiting):
        running.signal(signal.SIGTERM)
        working.join(60)
        waiting.join(60)
        assert working.answer == ("word " * 30).strip(), working.error
        assert waiting.answer == "at last", waiting.error
        assert running.code() == 0, running.err
    assert "Traceback" not in running.err
    assert home.left_behind() == []


@pytest.mark.parametrize("model", ["b", "b-alone"])
def test_a_call_whose_turn_does_not_come_before_the_drain_is_over_is_told_so(home: Home, model: str) -> None:
    take_turns(home, server={"drain_seconds": 1}, scheduling={"fairness_seconds": None})
    home.script(a=Script(hang=True, record=str(home.folder / "record.jsonl")))
    with one_at_work_one_waiting(home, model) as (running, working, waiting):
        running.signal(signal.SIGTERM)
        for each in (working, waiting):
            each.join(60)
            assert "503" in str(each.error)
            assert "the server is stopping" in each.told
        assert running.code() == 0, running.err
    assert "Traceback" not in running.err
    assert not (home.folder / "b.starts").exists()
    assert home.left_behind() == []


def test_a_second_signal_does_not_wait_for_turns_either(home: Home) -> None:
    take_turns(home, server={"drain_seconds": 600}, scheduling={"fairness_seconds": None})
    home.script(a=Script(hang=True, record=str(home.folder / "record.jsonl")))
    with one_at_work_one_waiting(home, "b-alone") as (running, working, waiting):
        running.signal(signal.SIGTERM)
        until(lambda: not listens(running.url()))
        assert running.process.poll() is None, running.err
        running.signal(signal.SIGTERM)
        assert running.code() == 130, running.err
        for each in (working, waiting):
            each.join(10)
            assert each.error is not None
    assert "Traceback" not in running.err
    assert home.left_behind() == []


def test_an_engine_that_waits_for_its_turn_is_no_failure_but_a_reason_to_stay(home: Home) -> None:
    take_turns(home)
    home.script(a=Script(crash_log="ValueError: Model architectures ['Foo'] are not supported for now."))
    running = home.start("serve", "--port", "0")
    try:
        url = running.url()
        running.wait_for("engine a: broken")
        asking = Asking(url, "b-alone")
        asking.join(60)
        assert asking.answer == "echo: Hello", asking.error
        running.signal(signal.SIGTERM)
        assert running.code() == 0, running.err
    finally:
        running.process.kill()
        running.process.wait()
    assert home.left_behind() == []


def test_the_log_as_json_is_all_that_comes_on_stderr(home: Home) -> None:
    home.configure("a", fusions=ONE, server={"log_format": "json"})
    running = home.start("serve", "--port", "0")
    try:
        url = running.wait_for(r"listening on (http://[^\s\"]+)")[1]
        running.wait_for("engine a: awake")
        assert Asking(url).finished().answer is not None
        running.signal(signal.SIGTERM)
        assert running.code() == 0, running.err
    finally:
        running.process.kill()
        running.process.wait()
    entries = [json.loads(line) for line in running.err.splitlines()]
    (access,) = [entry for entry in entries if entry["logger"] == "local_fusion.access"]
    assert (access["model"], access["status"]) == ("one", 200)
    assert access["request_id"]
    assert any("stopping the engines" in entry["message"] for entry in entries)
