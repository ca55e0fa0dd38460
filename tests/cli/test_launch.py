"""`launch`: tools find our endpoint, the terminal is theirs, their end is ours, and what they used is told."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from local_fusion.cli.tool_environment import applied, as_shell, tool_variables
from tests.cli.commands import Home, Outcome, new_home, until
from tests.cli.test_terminal import Terminal
from tests.fake_engine import Script

ONE = {"one": {"strategy": "single", "panel": ["a"]}}
BOTH = {"both": {"strategy": "vote", "extract": "number", "panel": [{"model": "a", "samples": 2}, "b"]}, **ONE}

TOOL = """
import os, sys
import openai
client = openai.OpenAI()
answer = client.chat.completions.create(
    model=os.environ["OPENAI_MODEL"], messages=[{"role": "user", "content": "6 times 7?"}]
)
print(answer.choices[0].message.content)
stream = client.chat.completions.create(model="a", messages=[{"role": "user", "content": "6 times 7?"}], stream=True)
print("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))
"""


@pytest.fixture(scope="module")
def house() -> Iterator[Home]:
    with new_home() as home:
        home.configure("a", "b", fusions=BOTH)
        home.script(a=Script(rules=[("", "It is 42.")]), b=Script(rules=[("", "I say 42.")]))
        yield home


def tool(home: Home, text: str) -> list[str]:
    """A command that runs `text` as Python."""
    file = home.folder / f"tool-{abs(hash(text))}.py"
    file.write_text(text)
    return [sys.executable, str(file)]


def summary(done: Outcome) -> dict[str, Any]:
    """The line of JSON at the end of stderr."""
    told: dict[str, Any] = json.loads(done.err.strip().splitlines()[-1])
    return told


def test_a_tool_with_the_official_openai_client_asks_the_fusion_and_the_summary_counts_its_calls(house: Home) -> None:
    done = house.run("launch", "--json", *tool(house, TOOL))
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "It is 42."
    told = summary(done)
    assert told["exit_code"] == 0
    assert told["model"] == "both"
    used = told["used"]
    assert used["requests"] == 2
    assert used["running"] == 0
    assert used["models"]["a"]["calls"] == 2
    assert used["models"]["b"]["calls"] == 1
    assert used["calls"] == 3
    for name in ("prompt_tokens", "completion_tokens"):
        assert used[name] == sum(model[name] for model in used["models"].values())
    # "It is 42." is three tokens to a fake engine: two samples in the vote, one answer to the stream.
    assert used["models"]["a"]["completion_tokens"] == 3 * 3
    assert used["models"]["b"]["completion_tokens"] <= 3  # the vote may have been decided without it
    assert told["energy"]["joules"] is None or told["energy"]["joules"] >= 0
    assert house.left_behind() == []


ANTHROPIC = """
import os
import anthropic
client = anthropic.Anthropic()
question = [{"role": "user", "content": "6 times 7?"}]
answer = client.messages.create(model=os.environ["ANTHROPIC_MODEL"], max_tokens=50, messages=question)
print(answer.content[0].text)
"""


def test_a_tool_with_the_official_anthropic_client_does_as_well(house: Home) -> None:
    house.more_env = {"ANTHROPIC_API_KEY": "sk-ant-mine"}
    try:
        done = house.run("launch", "--json", "-f", "one", *tool(house, ANTHROPIC))
    finally:
        house.more_env = {}
    assert done.code == 0, done.err
    assert done.out == "It is 42.\n"
    assert summary(done)["used"]["models"]["a"]["calls"] == 1


LEAVING = """
import os, openai
stream = openai.OpenAI().chat.completions.create(
    model=os.environ["OPENAI_MODEL"], messages=[{"role": "user", "content": "go on"}], stream=True
)
for chunk in stream:
    if chunk.choices and chunk.choices[0].delta.content:
        os._exit(3)
"""


@pytest.mark.parametrize("model", ["a", "one"], ids=["engine", "fusion"])
def test_what_a_tool_had_begun_when_it_ended_is_counted_too(home: Home, model: str) -> None:
    home.configure("a", fusions=ONE)
    home.script(a=Script(rules=[("", "word " * 2000)], token_seconds=0.02))
    done = home.run("launch", "--json", "-f", model, *tool(home, LEAVING))
    assert done.code == 3, done.err
    used = summary(done)["used"]
    assert (used["running"], used["requests"], used["calls"], used["failed"]) == (0, 1, 1, 1)
    assert 0 < used["completion_tokens"] < 2000
    assert home.left_behind() == []


def test_a_server_with_keys_is_asked_with_the_key_from_the_environment(home: Home) -> None:
    home.configure("a", fusions=ONE, server={"api_keys_file": "keys.yaml"})
    made = home.run("keys", "create", "anna")
    key = next(word for word in made.out.split() if word.startswith("lf-"))
    refused = home.run("launch", "true")
    assert refused.code == 1
    assert "LOCAL_FUSION_API_KEY" in refused.err
    assert not (home.folder / "a.starts").exists()
    home.more_env = {"LOCAL_FUSION_API_KEY": key}
    done = home.run("launch", "--json", *tool(home, TOOL))
    assert done.code == 0, done.err
    assert summary(done)["used"]["calls"] == 2
    assert key not in done.err


def test_the_summary_for_people_names_models_tokens_seconds_and_energy(house: Home) -> None:
    done = house.run("launch", "-f", "a", *tool(house, TOOL))
    assert done.code == 0, done.err
    assert done.out == "It is 42.\nIt is 42.\n"
    told = done.err[done.err.index("local-fusion: 2 requests, 2 calls to models in ") :]
    assert "tokens read" in told
    assert any(line.split()[:2] == ["a", "2"] for line in told.splitlines())
    assert "energy: " in told
    assert not (house.folder / "b.starts").exists() or "engine b" not in done.err


def test_a_running_server_is_used_and_lives_on(house: Home) -> None:
    running = house.start("serve", "--port", "0")
    try:
        url = running.url()
        running.wait_for("engine a: awake")
        running.wait_for("engine b: awake")
        done = house.run("launch", "--url", f"{url}/v1", "-f", "one", "--json", *tool(house, TOOL))
        assert done.code == 0, done.err
        assert summary(done)["used"]["models"]["a"]["calls"] == 2
        assert summary(done)["url"] == url
        again = house.run("launch", "-u", url, "--json", "true")
        assert summary(again)["used"] | {"session": ""} == {
            "session": "",
            "began": None,
            "running": 0,
            "requests": 0,
            "calls": 0,
            "failed": 0,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "seconds": 0.0,
            "models": {},
        }
        assert running.process.poll() is None
        refused = house.run("launch", "-u", url, "-f", "both-of-them", "true")
        assert refused.code == 2
        assert "does not serve 'both-of-them'" in refused.err
    finally:
        running.signal(signal.SIGTERM)
        running.code()


@pytest.mark.parametrize(("how", "code"), [("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)])
def test_the_exit_code_is_the_commands(house: Home, how: str, code: int) -> None:
    done = house.run("launch", "-f", "a", "--json", "sh", "-c", how)
    assert done.code == code
    assert summary(done)["exit_code"] == code
    assert house.left_behind() == []


def test_options_after_the_command_are_its_own(house: Home) -> None:
    done = house.run("launch", "-f", "a", "echo", "--url", "-c", "--json", "--help")
    assert done.out == "--url -c --json --help\n"


def test_a_command_that_does_not_exist_is_told_before_any_engine_starts(home: Home) -> None:
    home.configure("a", fusions=ONE)
    done = home.run("launch", "no-such-tool")
    assert done.code == 1
    assert done.err.startswith("local-fusion: there is no command 'no-such-tool'")
    assert not (home.folder / "a.starts").exists()


def test_a_file_that_is_no_program_ends_as_it_would_in_a_shell(house: Home) -> None:
    broken = house.folder / "broken"
    broken.write_bytes(b"\x7fELF is not all that it takes")
    broken.chmod(0o755)
    done = house.run("launch", "-f", "a", str(broken))
    assert done.code == 126
    assert "cannot be run: Exec format error" in done.err


def test_without_a_command_it_says_how_to_name_one(house: Home) -> None:
    done = house.run("launch")
    assert done.code == 2
    assert "local-fusion launch claude" in done.err


def test_where_the_server_cannot_start_the_command_never_runs(home: Home) -> None:
    home.configure("a", fusions=ONE)
    home.script(a=Script(crash_log="ValueError: Model architectures ['Foo'] are not supported for now."))
    done = home.run("launch", "touch", "ran")
    assert done.code == 1
    assert "Foo" in done.err
    assert "Traceback" not in done.err
    assert not (home.folder / "ran").exists()
    assert home.left_behind() == []


def test_where_no_server_answers_the_command_never_runs(home: Home) -> None:
    done = home.run("launch", "--url", "http://127.0.0.1:9", "touch", "ran")
    assert done.code == 1
    assert "no answer from http://127.0.0.1:9" in done.err
    assert not (home.folder / "ran").exists()


WAITING = """
import os, pathlib, signal, sys
def said(number, frame):
    os.write(1, f"asked by {signal.Signals(number).name}\\n".encode())  # print is not for handlers
    sys.exit(5)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, said)
pathlib.Path("pid").write_text(str(os.getpid()))
os.write(1, b"at work\\n")
while True:
    signal.pause()
"""


def test_ctrl_c_is_the_commands_and_its_exit_code_is_kept(home: Home) -> None:
    home.configure("a", fusions=ONE)
    terminal = Terminal(home, "launch", *tool(home, WAITING))
    try:
        terminal.wait_for("at work")
        terminal.press(b"\x03")
        terminal.wait_for("energy: ")
        assert terminal.code() == 5, terminal.sent
        assert terminal.sent.count("asked by SIGINT") == 1
        assert "interrupted" not in terminal.sent
        assert terminal.settings() == terminal.before
        assert home.left_behind() == []
    finally:
        terminal.close()


RAW = """
import os, sys, tty
tty.setraw(0)
print("all keys are mine", flush=True)
print(sys.stdin.buffer.raw.read(1), flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_command_that_takes_ctrl_c_for_input_goes_on(home: Home) -> None:
    home.configure("a", fusions=ONE)
    terminal = Terminal(home, "launch", *tool(home, RAW))
    try:
        terminal.wait_for("all keys are mine")
        terminal.press(b"\x03")
        assert terminal.code() == 137, terminal.sent
        assert "b'\\x03'" in terminal.sent
        assert terminal.settings() == terminal.before, "what was killed could not set the terminal back"
    finally:
        terminal.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_from_elsewhere_is_passed_on(home: Home, number: signal.Signals) -> None:
    home.configure("a", fusions=ONE)
    running = home.start("launch", *tool(home, WAITING))
    until((home.folder / "pid").exists, 60, lambda: running.err)
    running.signal(number)
    assert running.code() == 5, running.err
    assert "local-fusion: 0 requests, 0 calls to models in " in running.err
    assert home.left_behind() == []


def test_whoever_does_not_end_when_asked_twice_is_killed(home: Home) -> None:
    home.configure("a", fusions=ONE)
    stubborn = WAITING.replace("signal.signal(number, said)", "signal.signal(number, signal.SIG_IGN)")
    running = home.start("launch", *tool(home, stubborn))
    until((home.folder / "pid").exists, 60, lambda: running.err)
    running.signal(signal.SIGTERM)
    running.signal(signal.SIGHUP)  # another one: two of a kind may arrive as one
    assert running.code() == 137, running.err
    assert home.left_behind() == []


def test_where_we_are_killed_neither_the_command_nor_an_engine_lives_on(home: Home) -> None:
    home.configure("a", fusions=ONE)
    running = home.start("launch", *tool(home, WAITING))
    until((home.folder / "pid").exists, 60, lambda: running.err)
    running.signal(signal.SIGKILL)
    running.code()
    until(lambda: home.processes() == [], 15)


def test_a_signal_while_engines_start_stops_everything(home: Home) -> None:
    home.configure("a", fusions=ONE)
    home.script(a=Script(never_healthy=True))
    running = home.start("launch", "touch", "ran")
    until((home.folder / "a.starts").exists)
    running.signal(signal.SIGINT)
    assert running.code() == 130, running.err
    assert not (home.folder / "ran").exists()
    assert home.left_behind() == []


CLAUDE = {"OPENAI_API_KEY": "sk-real", "ANTHROPIC_API_KEY": "sk-ant-real", "CLAUDE_CODE_USE_BEDROCK": "1", "HOME": "/h"}


def test_every_variable_has_a_value_that_leads_here_and_a_reason() -> None:
    variables = tool_variables("http://127.0.0.1:8000", "quality", "lf-key", CLAUDE)
    env = applied(variables, CLAUDE)
    assert env["OPENAI_BASE_URL"] == env["OPENAI_API_BASE"] == "http://127.0.0.1:8000/v1"
    assert env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8000"
    assert env["OPENAI_API_KEY"] == env["ANTHROPIC_AUTH_TOKEN"] == "lf-key"
    assert {value for name, value in env.items() if "MODEL" in name} == {"quality"}
    assert env["HOME"] == "/h"
    assert "real" not in " ".join(env.values())
    assert not env.keys() & {"ANTHROPIC_API_KEY", "CLAUDE_CODE_USE_BEDROCK", "NO_PROXY"}
    assert all(variable.why for variable in variables)


def test_requests_to_this_machine_go_past_a_proxy() -> None:
    env = applied(tool_variables("http://x", "m", "k", {}), {})
    assert "NO_PROXY" not in env
    proxied = {"https_proxy": "http://proxy:3128", "no_proxy": "intranet"}
    env = applied(tool_variables("http://x", "m", "k", proxied), proxied)
    assert env["NO_PROXY"] == env["no_proxy"] == "intranet,127.0.0.1,localhost"


def test_the_variables_can_be_printed_for_a_shell(house: Home) -> None:
    done = house.run("launch", "--print-env", "-f", "one")
    assert done.code == 0, done.err
    shown = subprocess.run(
        ["sh", "-c", f'{done.out}\necho "$OPENAI_BASE_URL $ANTHROPIC_MODEL ${{ANTHROPIC_API_KEY-none}}"'],
        capture_output=True,
        text=True,
        env={"ANTHROPIC_API_KEY": "x"},
        check=True,
    )
    assert shown.stdout == "http://127.0.0.1:8000/v1 one none\n"


def test_values_are_quoted_for_the_shell() -> None:
    lines = as_shell(tool_variables("http://x", "m", "k; rm -rf '/'", {}))
    assert f"OPENAI_API_KEY={shlex.quote(chr(107) + '; rm -rf ' + chr(39) + '/' + chr(39))}  #" in lines
