"""The command as a whole: its help, its version, how quickly it can be there, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import typer.main

from local_fusion import __version__
from local_fusion.cli.main import app
from tests.cli.commands import Home, command

# What only some commands need, and what takes long to import.
NOT_FOR_HELP = {"aiohttp", "fastapi", "huggingface_hub", "pydantic", "torch", "transformers", "uvicorn", "vllm", "yaml"}


def commands() -> Iterator[tuple[list[str], list[str]]]:
    """Every command (and group of commands) with its options, as the program defines them."""

    def walk(path: list[str], one: object) -> Iterator[tuple[list[str], list[str]]]:
        options = [name for parameter in getattr(one, "params", []) for name in parameter.opts if name[0] == "-"]
        yield path, options
        for name, inner in getattr(one, "commands", {}).items():
            yield from walk([*path, name], inner)

    yield from walk([], typer.main.get_command(app))


def test_every_command_explains_itself_and_each_of_its_options(home: Home) -> None:
    listed = list(commands())
    assert [path for path, _ in listed if path[:1] == ["ask"]]
    with ThreadPoolExecutor(2) as at_once:
        outcomes = list(at_once.map(lambda one: home.run(*one[0], "--help"), listed))
    for (path, options), done in zip(listed, outcomes, strict=True):
        assert (done.code, done.err) == (0, ""), path
        assert "Usage:" in done.out
        assert [option for option in options if option not in done.out] == [], path


def test_the_version_is_that_of_the_package(home: Home) -> None:
    done = home.run("--version")
    assert (done.code, done.out) == (0, f"local-fusion {__version__}\n")


def test_an_unknown_command_and_an_unknown_option_are_wrong_use(home: Home) -> None:
    for arguments in (["aks", "Hello"], ["ask", "--tempreature", "1", "Hello"], []):
        done = home.run(*arguments)
        assert done.code == 2, done.err
        assert "Traceback" not in done.err


def test_an_error_does_not_steer_the_terminal(home: Home) -> None:
    home.write('models: {a: {source: "./go\\e[31mne\\a"}}\n')
    done = home.run("plan", "--gpus", "24GiB")
    assert done.code == 2
    assert r"go\x1b[31mne\x07 does not exist" in done.err
    assert {sign for sign in done.err if not sign.isprintable()} == {"\n"}


def test_help_does_not_wait_for_what_only_some_commands_need() -> None:
    code = "import sys, local_fusion.cli.main; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & NOT_FOR_HELP == set()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_reason_for_a_traceback(home: Home, unbuffered: str) -> None:
    home.configure("a")
    home.more_env["PYTHONUNBUFFERED"] = unbuffered
    process = subprocess.Popen(
        command("models", "list", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=home.env,
        cwd=home.folder,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert err == b""
    assert process.returncode == 1
