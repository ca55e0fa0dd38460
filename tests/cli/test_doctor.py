"""`doctor`: what is there, what is missing, what to do; nothing is started."""

from __future__ import annotations

import json
import signal
import socket
import urllib.request
from typing import Any

import pytest

from tests.cli.commands import Home
from tests.fake_engine import Script

ONE = {"one": {"strategy": "single", "panel": ["a"]}}


def findings(home: Home, code: int) -> dict[str, dict[str, Any]]:
    """By what was looked at; of several for one thing, the worst."""
    done = home.run("doctor", "--json")
    assert done.code == code, done.out + done.err
    told = json.loads(done.out)
    assert told["healthy"] is (code == 0)
    rank = ["ok", "warning", "problem"]
    by_name: dict[str, dict[str, Any]] = {}
    for finding in sorted(told["findings"], key=lambda finding: rank.index(finding["state"])):
        by_name[finding["what"]] = finding
    return by_name


def test_a_healthy_machine_is_told_line_by_line(home: Home) -> None:
    home.configure("a", fusions=ONE, server={"port": 0})
    done = home.run("doctor")
    assert done.code == 0, done.out
    for told in ("local-fusion", "Python", "vLLM", "runtime folder", "1 models, 1 fusions", "model a", "plan", "disk"):
        assert told in done.out
    assert "✗" not in done.out
    assert done.err == ""
    assert home.left_behind() == []


def test_json_says_the_same_to_programs(home: Home) -> None:
    home.configure("a", fusions=ONE, server={"port": 0})
    told = findings(home, 0)
    assert {"local-fusion", "vLLM", "configuration", "model a", "plan", "disk", "port"} <= set(told)
    assert {"CPU", "GPU"} & set(told)
    assert told["model a"]["found"].endswith("/models/a")
    assert all(set(finding) == {"what", "state", "found", "todo"} for finding in told.values())


def test_without_vllm_it_says_how_to_get_it(home: Home) -> None:
    home.configure("a", fusions=ONE)
    (home.folder / "python" / "sitecustomize.py").write_text("import sys\nsys.modules['vllm'] = None\n")
    found = findings(home, 1)["vLLM"]
    assert (found["state"], "scripts/setup" in found["todo"]) == ("problem", True)


def test_a_wrong_configuration_is_one_finding_among_the_others(home: Home) -> None:
    home.write("models: {a: {sauce: x}}\n")
    told = findings(home, 1)
    assert told["configuration"]["state"] == "problem"
    assert "local-fusion.yaml:1: models.a.sauce" in told["configuration"]["found"]
    assert told["vLLM"]["state"] == "ok"


def test_a_missing_model_and_one_that_does_not_fit_are_told_with_the_way_out(home: Home) -> None:
    path = home.configure("a", "b", fusions=ONE)
    text = path.read_text().replace("/models/b", "/models/c", 1).replace("1MiB", "10TiB", 1)
    path.write_text(text)
    told = findings(home, 1)
    assert told["model a"]["state"] == "ok"
    assert told["model b"]["state"] == "problem"
    assert "/models/c does not exist" in told["model b"]["found"]
    assert "10240 GiB" in told["plan"]["found"]
    assert told["plan"]["todo"]


def test_a_busy_port_is_a_warning_because_another_can_be_had(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        home.configure("a", fusions=ONE, server={"port": other.getsockname()[1]})
        found = findings(home, 0)["port"]
    assert found["state"] == "warning"
    assert "--port" in found["todo"]


def test_a_runtime_folder_open_to_others_is_a_problem(home: Home) -> None:
    home.configure("a", fusions=ONE)
    home.runtime.mkdir(mode=0o755)
    home.runtime.chmod(0o755)
    found = findings(home, 1)["runtime folder"]
    assert found["todo"] == f"chmod 700 {home.runtime}"


FOO = "ValueError: \x1b[31m Model architectures ['Foo'] are not supported for now."


@pytest.fixture
def two(home: Home) -> Home:
    """Two engines of which `b` cannot start."""
    home.configure("a", "b", fusions=ONE, server={"port": 0})
    home.script(b=Script(crash_log=f"loading weights\n{FOO}"))
    return home


def test_a_broken_engine_of_a_running_server_is_told_with_its_cause_its_last_lines_and_what_to_do(two: Home) -> None:
    running = two.start("serve", "--port", "0")
    try:
        url = running.url()
        running.wait_for("engine b: broken")
        found = findings(two, 1)["engine b"]
        assert found["state"] == "problem"
        assert f"server at {url} (process {running.process.pid}) is broken: b did not start" in found["found"]
        assert "loading weights" in found["found"]
        assert "\x1b" not in found["found"]
        assert found["todo"].endswith(f"curl -X POST {url}/admin/engines/b/restart")
        assert "engine a" not in findings(two, 1)
    finally:
        running.signal(signal.SIGTERM)
        assert running.code() == 0, running.err
    assert "engine b" not in findings(two, 0)


def test_an_engine_that_has_been_mended_is_told_no_more(two: Home) -> None:
    two.script(b=[Script(crash_log=FOO), Script()])
    running = two.start("serve", "--port", "0")
    try:
        running.wait_for("engine b: broken")
        restart = findings(two, 1)["engine b"]["todo"].split()[-1]
        urllib.request.urlopen(urllib.request.Request(restart, method="POST"), timeout=60).close()
        assert "engine b" not in findings(two, 0)
    finally:
        running.signal(signal.SIGTERM)
        running.code()


def test_what_a_killed_server_left_is_no_news(two: Home) -> None:
    running = two.start("serve", "--port", "0")
    running.wait_for("engine b: broken")
    running.process.kill()
    running.process.wait()
    assert list(two.runtime.glob("*/*.trouble"))
    assert "engine b" not in findings(two, 0)
