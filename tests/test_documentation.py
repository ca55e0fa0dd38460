"""What the README says is run or parsed here, so that it cannot drift from what is there."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from local_fusion.cli.main import app
from local_fusion.config.loading import load_config

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def command_lines() -> Iterator[list[str]]:
    """Every command in the README's shell blocks, split as a shell does, without comments."""
    for block in blocks(README, "bash"):
        for line in block.splitlines():
            if words := shlex.split(line, comments=True):
                yield words


COMMANDS = list(command_lines())
OURS = [words[1:] for words in COMMANDS if Path(words[0]).name == "local-fusion"]


def runs(file: str) -> set[str]:
    """The scripts that a script of ours runs, one a line."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return {line.split()[0] for line in lines if line.startswith("scripts/")}


def test_the_readme_begins_with_two_commands_the_demo_and_the_tests() -> None:
    (first, *_) = blocks(README, "bash")
    assert [shlex.split(line)[0] for line in first.splitlines()] == ["scripts/demo", "scripts/test"]
    assert first.splitlines()[1] == "scripts/test"


def test_every_script_that_the_documents_name_is_there_and_can_be_run() -> None:
    named = {
        name for document in DOCUMENTS for name in re.findall(r"\bscripts/[a-z_-]+\b(?![/.])", document.read_text())
    }
    assert {"scripts/demo", "scripts/test"} <= named
    assert [name for name in sorted(named) if not os.access(ROOT / name, os.X_OK)] == []


def test_what_ci_runs_is_what_the_readme_says() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert runs(".ci/run") == {"scripts/check", "scripts/test"}
    assert ["scripts/test"] in COMMANDS


def test_the_readme_shows_the_commands_that_matter() -> None:
    assert {words[0] for words in OURS} >= {"serve", "ask", "doctor"}


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_every_command_in_the_readme_parses(words: list[str]) -> None:
    command, path = typer.main.get_command(app), []
    while subcommands := getattr(command, "commands", None):
        name, *words = words
        path.append(name)
        assert name in subcommands, f"there is no command {' '.join(path)}"
        command = subcommands[name]
    command.make_context(" ".join(path), list(words), resilient_parsing=False)


@pytest.mark.parametrize("block", blocks(README, "yaml"), ids=lambda block: block.splitlines()[0])
def test_every_configuration_in_the_readme_loads(block: str, tmp_path: Path) -> None:
    file = tmp_path / "local-fusion.yaml"
    file.write_text(block, encoding="utf-8")
    config = load_config(file)
    assert config.fusions


def test_every_python_block_in_the_readme_compiles() -> None:
    assert blocks(README, "python")
    for block in blocks(README, "python"):
        compile(block, "README.md", "exec")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_file_that_a_document_names_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    linked = {target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target}
    named = set(re.findall(r"\b(?:configs|tests|local_fusion|scripts)/[\w./-]+\.\w+", text))
    assert linked | named
    assert [name for name in sorted(linked | named) if not (ROOT / name).exists()] == []
