"""The file of keys: what it may be, and that nothing in it is ever told."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from local_fusion.errors import ConfigError
from local_fusion.server.guard.keys import Keys, hash_of, locked, new_key, read_keys, write_keys
from tests.server.guard.guarded import entry, keyed

HASH = hash_of(b"lf-somebody")


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys.yaml"
    path.write_text(text)
    path.chmod(mode)
    return path


def problem(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as raised:
        read_keys(path)
    return raised.value


def test_a_key_is_256_random_bits_after_a_prefix_that_scanners_of_secrets_can_look_for() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("lf-") and len(key) == len("lf-") + 43 for key in keys)


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = keyed(
        tmp_path,
        entry("alice", models=["one", "smol*"], requests_per_minute=60, expires=datetime(2030, 1, 1, tzinfo=UTC)),
        entry("root", role="admin"),
        entry("bob", former=[{"sha256": HASH, "until": "2030-01-01T12:00:00Z"}]),
    )
    keys, _ = read_keys(path)
    assert [key.name for key in keys.keys] == ["alice", "root", "bob"]
    assert keys.named("alice") == entry(
        "alice", models=["one", "smol*"], requests_per_minute=60, expires=datetime(2030, 1, 1, tzinfo=UTC)
    )
    assert "lf-" not in path.read_text().replace("local-fusion", "")


def test_it_is_readable_for_its_owner_alone_also_where_it_was_not_before(tmp_path: Path) -> None:
    path = written(tmp_path, "keys: []", 0o644)
    write_keys(path, Keys())
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["keys.yaml"]


def test_a_link_stays_one_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    real = written(tmp_path / "elsewhere", "keys: []")
    link = tmp_path / "keys.yaml"
    link.symlink_to(real)
    write_keys(link, Keys(keys=[entry("alice")]))
    assert link.is_symlink()
    assert read_keys(real)[0].named("alice") is not None


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_one_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    error = problem(written(tmp_path, "keys: []", mode))
    assert "others may write this file" in error.message
    assert "chmod 600" in error.hint


def test_one_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "keys: []")
    if os.geteuid() == 0:  # whose files are taken by everybody
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    assert "belongs to another user" in problem(path).message


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "keys: []\n", "{}"])
def test_no_keys_is_a_file_too(tmp_path: Path, text: str) -> None:
    assert read_keys(written(tmp_path, text))[0].keys == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("keys: [", "not valid YAML"),
        ("- a", "expected a mapping with `keys:`"),
        ("keyz: []", "keys.yaml:1: keyz: unknown key"),
        ("keys:\n- name: a\n", "keys.yaml:2: keys[0].sha256: missing"),
        (f"keys:\n- name: a\n  sha256: {HASH}\n  role: boss", "4: keys[0].role: expected 'user' or 'admin'"),
        (f"keys:\n- name: 'a b'\n  sha256: {HASH}", "2: keys[0].name: not of the form"),
        ("keys:\n- name: a\n  sha256: lf-the_key_itself", "3: keys[0].sha256: not of the form that belongs here"),
        (f"keys:\n- name: a\n  sha256: {HASH}\n  expires: soon", "4: keys[0].expires: expected a time such as"),
        (f"keys:\n- name: a\n  sha256: {HASH}\n  requests_per_minute: 0", "4: keys[0].requests_per_minute"),
        (f"keys:\n- name: a\n  sha256: {HASH}\n  models: []", "4: keys[0].models"),
        (f"keys:\n- name: a\n  sha256: {HASH}\n  role: admin\n  models: [x]", "an admin may ask every model"),
        (f"keys:\n- name: a\n  sha256: {HASH}\n- name: a\n  sha256: {'f' * 64}", "two entries named 'a'"),
        (f"keys:\n- name: a\n  sha256: {HASH}\n- name: b\n  sha256: {HASH}", "two entries named 'b'"),
        (f"keys:\n- name: a\n  name: b\n  sha256: {HASH}", "3: keys[0].name: given twice"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_without_its_value(tmp_path: Path, text: str, says: str) -> None:
    error = problem(written(tmp_path, text))
    assert says in error.message
    assert HASH not in str(error)
    assert "the_key_itself" not in str(error)


def test_one_that_is_not_there_says_what_makes_it(tmp_path: Path) -> None:
    error = problem(tmp_path / "keys.yaml")
    assert "there is no such file of API keys" in error.message
    assert "local-fusion keys create" in error.hint


def test_a_file_too_large_to_be_one_is_not_read(tmp_path: Path) -> None:
    assert "larger than" in problem(written(tmp_path, "#" * (1024**2 + 1))).message


def test_a_folder_and_what_is_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "cannot be read" in problem(tmp_path / "folder").message
    path = tmp_path / "keys.yaml"
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o600)
    assert "not UTF-8" in problem(path).message


def test_commands_that_change_it_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = keyed(tmp_path)

    def add(name: str) -> None:
        with locked(path):
            write_keys(path, read_keys(path)[0].put(entry(name)))

    threads = [threading.Thread(target=add, args=(f"n{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in read_keys(path)[0].keys} == {f"n{number}" for number in range(8)}


def test_a_folder_that_is_not_there_or_takes_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its folder cannot be used"), locked(tmp_path / "none" / "keys.yaml"):
        pass
    with pytest.raises(ConfigError, match="cannot be written"):
        write_keys(tmp_path / "none" / "keys.yaml", Keys())
