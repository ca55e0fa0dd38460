"""What is kept, for whom, for how long, and what a killed server leaves behind."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from local_fusion.errors import SetupError, TooLarge
from local_fusion.server.openai.responses.store import Limits, Store, state_folder

AMPLE = Limits(keep_seconds=3600, most_bytes=1_000_000)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "kept" / "responses.sqlite")


def response(name: str, previous: str | None = None, text: str = "yes") -> dict[str, Any]:
    said = {"type": "output_text", "text": text}
    item = {"id": f"msg_{name}", "type": "message", "role": "assistant", "content": [said]}
    return {"id": name, "object": "response", "previous_response_id": previous, "output": [item]}


def question(name: str, text: str = "well?") -> dict[str, Any]:
    return {"id": name, "type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def at(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let it be so many seconds after the epoch."""
    monkeypatch.setattr("time.time", lambda: seconds)


async def test_a_response_comes_back_as_it_was_put(store: Store) -> None:
    await store.put("me", response("r1"), [question("q1")], AMPLE)
    assert await store.get("me", "r1") == response("r1")
    assert await store.conversation("me", "r1", with_output=False) == [question("q1")]
    known = {"q1": question("q1"), "msg_r1": response("r1")["output"][0]}
    assert await store.items("me", ["q1", "msg_r1", "q1", "nobody", "msg_r2"], 1000) == known


async def test_to_others_it_is_not_there(store: Store) -> None:
    await store.put("me", response("r1"), [question("q1")], AMPLE)
    for other in ("you", ""):
        assert await store.get(other, "r1") is None
        assert await store.conversation(other, "r1") is None
        assert await store.items(other, ["q1"], 1000) == {}
        assert not await store.delete(other, "r1")
    assert await store.get("me", "r1") is not None


async def test_nobody_goes_on_from_what_is_anothers(store: Store) -> None:
    await store.put("me", response("r1"), [question("q1")], AMPLE)
    await store.put("you", response("r2", previous="r1"), [question("q2")], AMPLE)
    assert await store.conversation("you", "r2") is None
    assert await store.conversation("me", "r2") is None


async def test_a_conversation_is_all_that_was_said_in_its_order(store: Store) -> None:
    await store.put("me", response("r1"), [question("q1"), question("q2")], AMPLE)
    await store.put("me", response("r2", previous="r1"), [question("q3")], AMPLE)
    await store.put("me", response("r3", previous="r1"), [question("q4")], AMPLE)  # another branch
    ids = [item["id"] for item in await store.conversation("me", "r2") or []]
    assert ids == ["q1", "q2", "msg_r1", "q3", "msg_r2"]
    own = [item["id"] for item in await store.conversation("me", "r2", with_output=False) or []]
    assert own == ["q1", "q2", "msg_r1", "q3"]


async def test_what_goes_on_from_a_deleted_response_cannot_be_told_whole(store: Store) -> None:
    await store.put("me", response("r1"), [question("q1")], AMPLE)
    await store.put("me", response("r2", previous="r1"), [question("q2")], AMPLE)
    assert await store.delete("me", "r1")
    assert not await store.delete("me", "r1")
    assert await store.conversation("me", "r2") is None
    assert await store.get("me", "r2") is not None
    assert await store.items("me", ["q1"], 1000) == {}


async def test_what_is_deleted_is_gone_from_the_disk(store: Store) -> None:
    await store.put("me", response("r1", text="a word nobody else says"), [question("q1", "zanzibar")], AMPLE)
    assert b"zanzibar" in b"".join(file.read_bytes() for file in store.file.parent.iterdir())
    await store.delete("me", "r1")
    left = b"".join(file.read_bytes() for file in store.file.parent.iterdir())
    assert b"zanzibar" not in left
    assert b"nobody else" not in left


async def test_a_conversation_larger_than_a_request_is_not_read(store: Store) -> None:
    await store.put("me", response("r1"), [question("q1", "x" * 600)], AMPLE)
    await store.put("me", response("r2", previous="r1"), [question("q2", "x" * 600)], AMPLE)
    assert await store.conversation("me", "r1", 1000) is not None
    with pytest.raises(TooLarge, match="1000 are read"):
        await store.conversation("me", "r2", 1000)


async def test_items_count_as_often_as_they_are_named(store: Store) -> None:
    await store.put("me", response("r1"), [question("q1", "x" * 400)], AMPLE)
    assert (await store.items("me", ["q1"], 1000)).keys() == {"q1"}
    with pytest.raises(TooLarge, match="more than 1000 bytes"):
        await store.items("me", ["q1", "q1", "q1"], 1000)


async def test_what_nobody_went_on_from_for_too_long_goes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(keep_seconds=100, most_bytes=1_000_000)
    at(monkeypatch, 1000)
    await store.put("me", response("r1"), [question("q1")], limits)
    await store.put("me", response("lonely"), [question("q2")], limits)
    at(monkeypatch, 1090)
    await store.put("me", response("r2", previous="r1"), [question("q3")], limits)
    at(monkeypatch, 1180)
    await store.put("me", response("r3", previous="r2"), [question("q4")], limits)
    assert await store.get("me", "lonely") is None
    assert len(await store.conversation("me", "r3") or []) == 6


async def test_beyond_its_bytes_the_longest_unused_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(keep_seconds=1e6, most_bytes=4000)
    for number in range(10):
        at(monkeypatch, 1000 + number)
        await store.put("me", response(f"r{number}"), [question(f"q{number}", "x" * 1000)], limits)
    left = [number for number in range(10) if await store.get("me", f"r{number}") is not None]
    assert left == [7, 8, 9]


async def test_what_is_larger_than_everything_may_be_is_refused_and_drives_nobody_out(store: Store) -> None:
    limits = Limits(keep_seconds=1e6, most_bytes=1000)
    await store.put("me", response("r1"), [question("q1")], limits)
    with pytest.raises(TooLarge, match=r"is not kept"):
        await store.put("me", response("r2"), [question("q2", "x" * 1000)], limits)
    assert await store.get("me", "r1") is not None
    assert await store.get("me", "r2") is None


async def test_folder_and_file_are_for_this_user_alone(store: Store) -> None:
    umask = os.umask(0)
    try:
        await store.put("me", response("r1"), [question("q1")], AMPLE)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(store.file.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in store.file.parent.iterdir()} == {0o600}


async def test_many_at_the_same_time_wait_for_each_other(store: Store) -> None:
    async def one(number: int) -> None:
        await store.put("me", response(f"r{number}"), [question(f"q{number}")], AMPLE)
        assert await store.get("me", f"r{number}") is not None

    await asyncio.gather(*(one(number) for number in range(24)))


KILLED = """
import asyncio, sys
from pathlib import Path
from tests.server.responses.test_store import AMPLE, Store, question, response
async def main():
    store = Store(Path(sys.argv[1]))
    for number in range(10**6):
        await store.put("me", response(f"r{number}"), [question(f"q{number}")], AMPLE)
        print(number, flush=True)
asyncio.run(main())
"""


async def test_what_was_kept_outlives_a_killed_server(store: Store) -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, str(store.file), stdout=asyncio.subprocess.PIPE
    )
    assert program.stdout is not None
    told = [int(await program.stdout.readline()) for _ in range(5)]
    program.kill()
    told += [int(line) for line in (await program.stdout.read()).split()]
    await program.wait()
    for number in told:
        assert await store.get("me", f"r{number}") == response(f"r{number}")
    await store.put("me", response("after"), [question("q")], AMPLE)


async def test_servers_beside_each_other_share_the_file(store: Store) -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, str(store.file), stdout=asyncio.subprocess.PIPE
    )
    assert program.stdout is not None
    await program.stdout.readline()

    async def one(number: int) -> None:
        await store.put("you", response(f"own{number}"), [question(f"q{number}")], AMPLE)
        assert await store.get("you", f"own{number}") is not None
        assert await store.delete("you", f"own{number}")

    for _ in range(5):
        await asyncio.gather(*(one(number) for number in range(20)))
    assert program.returncode is None
    program.kill()
    told = [int(line) for line in (await program.stdout.read()).split()]
    await program.wait()
    assert await store.get("me", f"r{told[-1]}") is not None


async def test_the_tables_of_a_newer_version_are_left_alone(store: Store) -> None:
    await store.put("me", response("r1"), [question("q1")], AMPLE)
    base = sqlite3.connect(store.file)
    base.execute("PRAGMA user_version = 99")
    base.close()
    with pytest.raises(SetupError, match=r"newer version.*99"):
        await store.get("me", "r1")


async def test_a_file_that_is_no_database_is_told_with_the_way_out(store: Store) -> None:
    store.file.parent.mkdir(parents=True)
    store.file.write_bytes(b"no database at all, " * 100)
    with pytest.raises(SetupError, match=r"cannot be used") as told:
        await store.get("me", "r1")
    assert "LOCAL_FUSION_STATE" in told.value.hint


async def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SetupError, match=r"cannot be used"):
        await Store(tmp_path / "file" / "responses.sqlite").get("me", "r1")


def test_the_folder_is_the_variables_else_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_FUSION_STATE", str(tmp_path))
    assert state_folder() == tmp_path
    monkeypatch.delenv("LOCAL_FUSION_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert state_folder() == tmp_path / "state" / "local-fusion"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert state_folder() == tmp_path / "home/.local/state/local-fusion"
    monkeypatch.setenv("LOCAL_FUSION_STATE", "~nobody-of-that-name/x")
    with pytest.raises(SetupError, match="home folder"):
        state_folder()
