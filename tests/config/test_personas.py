"""Personas: the library, and the user's own as texts or files."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from local_fusion.config.loading import load_config
from local_fusion.config.personas import PERSONAS
from local_fusion.errors import ConfigError

HEAD = "models:\n  a: {source: x/y}\nfusions:\n  f: {strategy: single, panel: [{model: a, persona: mine}]}\n"


def load(folder: Path, persona: str) -> str:
    """The text of the persona `mine`, given in line 6."""
    file = folder / "c.yaml"
    file.write_text(f"{HEAD}personas:\n  mine: {persona}\n")
    return load_config(file).personas["mine"]


def problem(folder: Path, persona: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, persona)
    (only,) = caught.value.problems
    return only.removeprefix(f"{folder / 'c.yaml'}:")


@pytest.mark.parametrize("name", PERSONAS)
def test_a_persona_is_a_note_of_one_to_three_sentences_by_a_name_that_configurations_may_use(name: str) -> None:
    assert re.fullmatch(r"[a-z_]+", name)
    assert 1 <= len(re.findall(r"[.?!](?: |$)", PERSONAS[name])) <= 4
    assert len(PERSONAS[name]) < 300


def test_a_persona_is_a_text_or_a_file_relative_to_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "lawyer.txt").write_bytes("\ufeffRead it twice – slowly.\n\n".encode())
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    assert load(tmp_path, "Be kind.") == "Be kind."
    for path in ("notes/lawyer.txt", f"{tmp_path}/notes/lawyer.txt", "'${NOTES}/lawyer.txt'"):
        assert load(tmp_path, f"{{file: {path}}}") == "Read it twice – slowly."


def test_a_file_of_64_kib_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"x" * 65536)
    assert len(load(tmp_path, "{file: t.txt}")) == 65536
    (tmp_path / "t.txt").write_bytes(b"x" * 65537)
    assert "t.txt is larger than 65536 bytes, and a persona is a short note" in problem(tmp_path, "{file: t.txt}")


@pytest.mark.parametrize(
    ("persona", "expected"),
    [
        ("{file: nowhere.txt}", "6: personas.mine.file: there is no file "),
        ("{file: .}", "6: personas.mine.file: there is no file "),
        ("{file: pipe}", "6: personas.mine.file: there is no file "),
        (f"{{file: {'x' * 5000}}}", "6: personas.mine.file: there is no file "),
        ("{file: 3}", "6: personas.mine.file: expected the path of a text file, got 3"),
        ("{file: '${NOWHERE_AT_ALL}'}", "6: personas.mine.file: the environment variable NOWHERE_AT_ALL is not set"),
        ("{text: x}", "6: personas.mine: expected a text, or a mapping with nothing but `file`"),
        ("{file: latin.txt, text: x}", "6: personas.mine: expected a text, or a mapping with nothing but `file`"),
        ("{file: latin.txt}", "latin.txt is not UTF-8 (byte 0xe9); save it as UTF-8"),
        ("{file: empty.txt}", "empty.txt is empty"),
        ("[x]", "6: personas.mine: expected text, got a list"),
    ],
)
def test_a_file_that_is_no_persona_is_refused(tmp_path: Path, persona: str, expected: str) -> None:
    (tmp_path / "latin.txt").write_bytes("née".encode("latin-1"))
    (tmp_path / "empty.txt").write_text(" \n")
    os.mkfifo(tmp_path / "pipe")
    assert expected in problem(tmp_path, persona)
