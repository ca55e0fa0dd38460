from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from io import FileIO
from pathlib import Path
from uuid import uuid4

import pytest

from local_fusion.core.warden import read_process
from local_fusion.engines.runtime_folder import Leftover, RuntimeFolder, clean_up_leftovers, private_base
from local_fusion.errors import SetupError


def in_base(base: Path) -> dict[str, str]:
    return {"LOCAL_FUSION_RUNTIME": str(base)}


def test_the_folder_is_private_and_removed_on_close(tmp_path: Path) -> None:
    folder = RuntimeFolder.open(in_base(tmp_path / "run"))
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert folder.path.parent.stat().st_mode & 0o777 == 0o700
    folder.log("qwen").write_text("x")
    folder.close()
    assert not folder.path.exists()


def test_without_a_choice_the_session_folder_is_used(tmp_path: Path) -> None:
    assert private_base({"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / "local-fusion"


def test_a_session_folder_that_does_not_exist_is_not_used(tmp_path: Path) -> None:
    assert private_base({"XDG_RUNTIME_DIR": str(tmp_path / "gone")}) == Path(f"/tmp/local-fusion-{os.getuid()}")


def test_a_folder_open_to_others_is_refused_with_the_way_out(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(SetupError, match=r"mode 755") as raised:
        RuntimeFolder.open(in_base(tmp_path))
    assert raised.value.hint == f"chmod 700 {tmp_path}"


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(SetupError, match="is not a folder"):
        RuntimeFolder.open(in_base(tmp_path / "link"))


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(SetupError, match="is not a folder"):
        RuntimeFolder.open(in_base(tmp_path / "run"))


def test_somebody_elses_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "run"
    base.mkdir(mode=0o700)
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(SetupError, match=f"belongs to user {uid}"):
        private_base(in_base(base))


@pytest.mark.parametrize(("number", "way_out"), [(errno.ENOSPC, "Free some space"), (errno.EROFS, "Make it writable")])
def test_a_folder_that_cannot_be_made_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, way_out: str
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    base = tmp_path / "run"
    base.mkdir(mode=0o700)
    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(SetupError, match=os.strerror(number)) as raised:
        RuntimeFolder.open(in_base(base))
    assert way_out in raised.value.hint
    assert "LOCAL_FUSION_RUNTIME" in raised.value.hint


def test_a_path_too_long_for_a_socket_is_refused_before_anything_starts(tmp_path: Path) -> None:
    folder = RuntimeFolder.open(in_base(tmp_path / ("x" * 90)))
    with pytest.raises(SetupError, match="may have 107") as raised:
        folder.socket("qwen")
    assert "LOCAL_FUSION_RUNTIME" in raised.value.hint


def test_the_folder_has_room_for_the_sockets_that_vllm_names_by_a_uuid() -> None:
    longest = Path("/" + "x" * (107 - 1 - len("/" + str(uuid4()))))
    assert RuntimeFolder(longest).socket("q").parent == longest
    with pytest.raises(SetupError, match="have 108 bytes"):
        RuntimeFolder(longest.with_name(longest.name + "x")).socket("q")


def test_names_with_slashes_or_of_any_length_get_short_files_of_their_own(tmp_path: Path) -> None:
    folder = RuntimeFolder(tmp_path)
    names = ["qwen", "org/qwen", "org-qwen", "q" * 128, "q" * 127 + "w", "a/../../b"]
    sockets = [folder.socket(name) for name in names]
    assert len(set(sockets)) == len(names)
    assert all(socket.parent == tmp_path and len(socket.name) <= 32 for socket in sockets)


def test_a_living_servers_folder_is_left_alone(tmp_path: Path) -> None:
    folder = RuntimeFolder.open(in_base(tmp_path / "run"))
    assert clean_up_leftovers(in_base(tmp_path / "run")) == ()
    assert folder.path.exists()


def test_a_living_server_that_another_pid_namespace_hides_is_left_alone(tmp_path: Path) -> None:
    folder = RuntimeFolder.open(in_base(tmp_path / "run"))
    hidden = folder.path.rename(folder.path.parent / "999999999-1")
    assert clean_up_leftovers(in_base(tmp_path / "run")) == ()
    assert hidden.exists()


def test_a_folder_is_left_over_once_its_server_holds_it_no_longer(tmp_path: Path) -> None:
    opened = "from local_fusion.engines.runtime_folder import RuntimeFolder; folder = RuntimeFolder.open()"
    environ = {**os.environ, **in_base(tmp_path / "run")}
    server = subprocess.Popen(
        [sys.executable, "-c", f"{opened}; print('open', flush=True); input()"],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"open\n"
        assert clean_up_leftovers(environ) == ()
    finally:
        server.kill()
        server.communicate()
    assert clean_up_leftovers(environ) == (Leftover(server.pid, ()),)
    assert os.listdir(tmp_path / "run") == []


def test_a_folder_opened_twice_by_one_process_is_the_same(tmp_path: Path) -> None:
    first, second = (RuntimeFolder.open(in_base(tmp_path / "run")) for _ in range(2))
    assert first.path == second.path
    second.close()
    first.close()


def test_a_folder_that_a_cleaner_removes_while_it_is_opened_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "run"
    flock = fcntl.flock
    removed: list[bool] = []

    def overtaken(lock: FileIO, operation: int) -> None:
        if not removed:
            removed.append(True)
            shutil.rmtree(next(base.iterdir()))
        flock(lock, operation)

    monkeypatch.setattr(fcntl, "flock", overtaken)
    folder = RuntimeFolder.open(in_base(base))
    assert removed
    assert folder.path.exists()
    assert clean_up_leftovers(in_base(base)) == ()


def test_a_recycled_process_id_does_not_pass_for_the_dead_owner(tmp_path: Path) -> None:
    base = private_base(in_base(tmp_path / "run"))
    me = read_process(os.getpid())
    assert me is not None
    abandoned = base / f"{me.pid}-{me.started - 1}"
    abandoned.mkdir()
    (leftover,) = clean_up_leftovers(in_base(base))
    assert leftover.server == me.pid
    assert not abandoned.exists()


def test_a_recycled_wardens_id_is_not_killed(tmp_path: Path) -> None:
    base = private_base(in_base(tmp_path / "run"))
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        abandoned = base / f"{os.getpid()}-1"
        abandoned.mkdir()
        note = {"warden": stranger.pid, "started": 1, "pid_namespace": os.stat("/proc/self/ns/pid").st_ino}
        (abandoned / "qwen.family").write_text(json.dumps(note))
        (leftover,) = clean_up_leftovers(in_base(base))
        assert leftover.killed == ()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.communicate()


def test_process_ids_of_another_pid_namespace_are_not_killed(tmp_path: Path) -> None:
    base = private_base(in_base(tmp_path / "run"))
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        abandoned = base / "999999999-1"
        abandoned.mkdir()
        process = read_process(stranger.pid)
        assert process is not None
        note = {"warden": stranger.pid, "started": process.started, "pid_namespace": 1}
        (abandoned / "qwen.family").write_text(json.dumps(note))
        (leftover,) = clean_up_leftovers(in_base(base))
        assert leftover.killed == ()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.communicate()


def test_a_half_written_note_does_not_hinder_the_clean_up(tmp_path: Path) -> None:
    base = private_base(in_base(tmp_path / "run"))
    abandoned = base / "999999999-1"
    abandoned.mkdir()
    (abandoned / "qwen.family").write_text('{"warden": 12')
    assert [leftover.killed for leftover in clean_up_leftovers(in_base(base))] == [()]
    assert not abandoned.exists()


def test_files_of_others_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    base = private_base(in_base(tmp_path / "run"))
    (base / "notes").mkdir()
    (base / "123-456").symlink_to(tmp_path)
    assert clean_up_leftovers(in_base(base)) == ()
    assert sorted(os.listdir(base)) == ["123-456", "notes"]
