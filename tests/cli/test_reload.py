"""SIGHUP to `serve`: the configuration is loaded again, unless the terminal was closed."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cli.commands import Home, until
from tests.cli.test_serve import ONE, Asking, get, listens, serving
from tests.cli.test_terminal import Terminal
from tests.engines.waiting import recorded
from tests.fake_engine import Script

TWO = {**ONE, "two": {"strategy": "single", "panel": ["a"]}}


STOPPED = (0, 120)  # the latter is Python's own where its last words could not be written


def engines(url: str) -> dict[str, int]:
    return {engine["name"]: engine["pid"] for engine in get(f"{url}/admin/engines")["engines"]}


def test_sighup_loads_the_file_again_and_engines_that_did_not_change_are_kept(home: Home) -> None:
    path = home.configure("a", fusions=ONE)
    with serving(home) as (running, url):
        before = engines(url)
        home.write(path.read_text().replace("kv_cache_bytes", "kv_cash_bytes"))
        running.signal(signal.SIGHUP)
        running.wait_for(r"not reloaded, and all goes on as before: local-fusion.yaml:\d+: models.a.kv_cash_bytes")
        asking = Asking(url)
        asking.join(60)
        assert asking.answer == "echo: Hello", asking.error
        home.configure("a", "b", fusions=TWO, server={"port": 4711})
        running.signal(signal.SIGHUP)
        running.wait_for(r"reloaded the configuration: started b; kept a; new fusions two")
        assert engines(url)["a"] == before["a"]
        running.wait_for("engine b: awake")
        assert get(f"{url}/ready")["fusions"].keys() == {"one", "two"}
        assert "only a restart" not in running.err, "the port is the command line's, and stays so"
        home.configure("b")
        running.signal(signal.SIGHUP)
        running.wait_for(r"reloaded the configuration: stopped a; kept b; fusions gone one, two")
        running.wait_for("engine a: stopped")
        assert list(engines(url)) == ["b"]
        running.signal(signal.SIGTERM)
        assert running.code() == 0, running.err
    assert "Traceback" not in running.err
    assert home.left_behind() == []


def test_a_sighup_before_anything_is_served_waits_until_it_is(home: Home) -> None:
    home.configure("a", fusions=ONE)
    running = home.start("serve", "--port", "0")
    try:
        until(lambda: any(home.runtime.glob("*/.lock")))
        home.configure("a", fusions=TWO)
        running.signal(signal.SIGHUP)
        url = running.url()
        running.wait_for("reloaded the configuration: kept a; new fusions two")
        assert [model["id"] for model in get(f"{url}/v1/models")["data"]] == ["one", "two", "a"]
        running.signal(signal.SIGTERM)
        assert running.code() in (0, 130), running.err
    finally:
        running.process.kill()
        running.process.wait()


def test_a_signal_to_stop_in_the_middle_of_a_reload_stops_everything(home: Home) -> None:
    home.configure("a", "b", fusions=ONE, server={"drain_seconds": 600})
    record = home.folder / "record.jsonl"
    home.script(a=Script(hang=True, record=str(record)))
    with serving(home) as (running, url):
        asking = Asking(url)
        until(lambda: "request" in [entry["event"] for entry in recorded(record)])
        home.configure("b", server={"drain_seconds": 600})
        running.signal(signal.SIGHUP)
        until(lambda: [model["id"] for model in get(f"{url}/v1/models")["data"]] == ["b"])
        running.signal(signal.SIGTERM)
        until(lambda: not listens(url))
        running.signal(signal.SIGTERM)
        assert running.code() == 130, running.err
        asking.join(10)
        assert asking.error is not None
    assert "Traceback" not in running.err
    assert home.left_behind() == []


@contextmanager
def on_a_terminal(home: Home, **options: bool) -> Iterator[Terminal]:
    terminal = Terminal(home, "serve", "--port", "0", **options)
    try:
        terminal.wait_for("engine a: awake")
        yield terminal
    finally:
        terminal.close()


def test_a_server_whose_terminal_is_closed_stops_but_a_signal_from_somebody_else_reloads(home: Home) -> None:
    home.configure("a", fusions=ONE)
    with on_a_terminal(home) as terminal:
        home.configure("a", fusions=TWO)
        os.kill(terminal.process.pid, signal.SIGHUP)
        terminal.wait_for("reloaded the configuration")
        terminal.hang_up()
        assert terminal.process.wait(30) in STOPPED
    assert home.left_behind() == []


def test_a_server_that_is_to_outlive_its_terminal_does(home: Home) -> None:
    home.configure("a", fusions=ONE)
    with on_a_terminal(home, nohup=True) as terminal:
        (url,) = re.findall(r"listening on (http://[\d.:]+)", terminal.sent)
        terminal.hang_up()
        asking = Asking(url)
        asking.join(60)
        assert asking.answer == "echo: Hello", asking.error
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.process.wait(30) in STOPPED
    assert home.left_behind() == []
