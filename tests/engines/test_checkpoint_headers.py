"""Safetensors headers, none of which is trusted: what a folder holds, or one clear error with the file's name."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.engines.checkpoints import untrusted
from local_fusion.engines.checkpoints.safetensors_header import read_header, stored_tensors
from local_fusion.errors import ConfigError
from local_fusion.planner.facts.tensors import Tensor

Entry = dict[str, Any]


def entry(begin: int, end: int, dtype: str = "U8", shape: list[int] | None = None) -> Entry:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def write(file: Path, header: dict[str, Any] | bytes, *, data: int = 0, length: int | None = None) -> Path:
    """A safetensors file with this header, `data` bytes behind it, and perhaps a false header length."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write((len(raw) if length is None else length).to_bytes(8, "little") + raw)
        stream.flush()
        os.truncate(stream.fileno(), 8 + len(raw) + data)
    return file


def index(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def problem(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        stored_tensors(folder)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    (line,) = caught.value.problems
    assert "\n" not in line
    assert len(line.removeprefix(str(folder))) < 400
    return line


class TestAFolder:
    def test_holds_the_tensors_of_its_file_with_types_shapes_and_bytes(self, tmp_path: Path) -> None:
        header = {
            "__metadata__": {"format": "pt"},
            "b": entry(0, 12, "BF16", [2, 3]),
            "a": entry(12, 13, "F4", [2]),
            "scalar": entry(13, 17, "F32", []),
            "nothing": entry(17, 17, "F32", [0, 7]),
        }
        write(tmp_path / "model.safetensors", header, data=17)
        assert stored_tensors(tmp_path) == [
            Tensor("b", "BF16", (2, 3), 12),
            Tensor("a", "F4", (2,), 1),
            Tensor("scalar", "F32", (), 4),
            Tensor("nothing", "F32", (0, 7), 0),
        ]

    def test_without_such_files_holds_none(self, tmp_path: Path) -> None:
        (tmp_path / "pytorch_model.bin").write_bytes(b"x")
        assert stored_tensors(tmp_path) == []

    def test_with_an_index_holds_what_the_named_files_hold(self, tmp_path: Path) -> None:
        for name, size in (("model-1.safetensors", 3), ("model-2.safetensors", 5), ("other.safetensors", 9)):
            write(tmp_path / name, {f"{name}.w": entry(0, size)}, data=size)
        assert sum(tensor.bytes for tensor in stored_tensors(tmp_path)) == 17
        index(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"})
        assert [tensor.bytes for tensor in stored_tensors(tmp_path)] == [3, 5]

    def test_counts_a_second_copy_in_mistrals_format_only_where_it_is_alone(self, tmp_path: Path) -> None:
        write(tmp_path / "consolidated.safetensors", {"wq": entry(0, 4)}, data=4)
        assert [tensor.name for tensor in stored_tensors(tmp_path)] == ["wq"]
        write(tmp_path / "model-00001-of-00001.safetensors", {"q_proj": entry(0, 4)}, data=4)
        assert [tensor.name for tensor in stored_tensors(tmp_path)] == ["q_proj"]

    def test_counts_a_tensor_that_lies_in_two_files_once(self, tmp_path: Path) -> None:
        for name in ("a.safetensors", "b.safetensors"):
            write(tmp_path / name, {"w": entry(0, 4)}, data=4)
        assert [tensor.bytes for tensor in stored_tensors(tmp_path)] == [4]

    @pytest.mark.parametrize("ending", ["", "\x1b[2J"])
    def test_without_an_index_holds_every_shard_that_the_names_count(self, tmp_path: Path, ending: str) -> None:
        for number in range(1, 5):
            write(tmp_path / f"m{ending}-0000{number}-of-00004.safetensors", {f"w{number}": entry(0, 4)}, data=4)
        assert len(stored_tensors(tmp_path)) == 4
        for number in (1, 3, 4):
            (tmp_path / f"m{ending}-0000{number}-of-00004.safetensors").unlink()
        shown = ending.replace("\x1b", r"\x1b")
        why = f"3 of 4 shards are missing, the first is m{shown}-00001-of-00004.safetensors; there is no index either"
        assert problem(tmp_path) == f"{tmp_path}: {why}"

    def test_may_count_its_shards_from_zero(self, tmp_path: Path) -> None:
        """As openai/gpt-oss-20b does: three files, 0 to 2 "of 2"."""
        for number in range(3):
            write(tmp_path / f"model-0000{number}-of-00002.safetensors", {f"w{number}": entry(0, 4)}, data=4)
        assert len(stored_tensors(tmp_path)) == 3
        (tmp_path / "model-00001-of-00002.safetensors").unlink()
        assert "1 of 2 shards is missing, the first is model-00001-of-00002.safetensors" in problem(tmp_path)

    def test_takes_a_type_that_is_newer_than_we_are_at_its_word(self, tmp_path: Path) -> None:
        write(tmp_path / "model.safetensors", {"w": entry(0, 5, "F2_E1M0", [20])}, data=5)
        assert stored_tensors(tmp_path) == [Tensor("w", "F2_E1M0", (20,), 5)]


class TestALyingHeader:
    @pytest.mark.parametrize(
        ("header", "options", "why"),
        [
            (
                b"{}",
                {"length": 2**63},
                "claims a header of 9223372036854775808 bytes, and more than 50000000 are not read",
            ),
            (b"{}", {"length": 1000}, "claims a header of 1000 bytes, but the file has 10"),
            (b"not json", {}, "its header is not JSON"),
            (b"\xff\xfe", {}, "its header is not JSON"),
            (b'{"w": 1e', {}, "its header is not JSON"),
            (b"[" * 100_000, {}, "its header is not JSON"),
            (b'{"w": ' + b"9" * 5000 + b"}", {}, "its header is not JSON"),
            (b"[]", {}, "its header is not a JSON object but a list"),
            (b"{}", {}, "it holds no tensors"),
            ({"w": 3}, {}, "does not say where tensor 'w' lies (`data_offsets`)"),
            ({"w": {"data_offsets": [0, True]}}, {}, "does not say where tensor 'w' lies"),
            ({"w": {"data_offsets": [0, 1, 2]}}, {}, "does not say where tensor 'w' lies"),
            ({"w": {"data_offsets": [0, 1.0]}}, {}, "does not say where tensor 'w' lies"),
            ({"w": entry(0, 8)}, {"data": 4}, "puts tensor 'w' at bytes 0 to 8, but there are 4"),
            ({"w": entry(-8, 0, shape=[8])}, {}, "puts tensor 'w' at bytes -8 to 0"),
            ({"w": entry(4, 2, shape=[2])}, {"data": 4}, "puts tensor 'w' at bytes 4 to 2"),
            (
                {"v": entry(0, 4), "w": entry(0, 4)},
                {"data": 4},
                "'w' at bytes 0 to 4, which overlaps what is before it",
            ),
            ({"v": entry(0, 4), "w": entry(6, 8)}, {"data": 8}, "'w' at bytes 6 to 8, which leaves a gap of 2 bytes"),
            ({"w": entry(0, 4)}, {"data": 6}, "declares 4 bytes of tensors, but there are 6"),
            ({"w": entry(0, 4, "BF16", [4])}, {"data": 4}, "'w' is BF16 [4], which does not take 4 bytes"),
            ({"w": entry(0, 4, "U8", [2**62, 2**62])}, {"data": 4}, "which does not take 4 bytes"),
            ({"w": entry(0, 0, "U8", [1] * 5000)}, {}, "which does not take 0 bytes"),
            ({"w": entry(0, 4, "U8", [-2, -2])}, {"data": 4}, "does not say how large tensor 'w' is (`shape`)"),
            ({"w": {"shape": [4], "data_offsets": [0, 4]}}, {"data": 4}, "of which type tensor 'w' is (`dtype`)"),
            ({"w" * 512: 3}, {}, "does not say where tensor 'www"),
            ({"w" * 20_000: entry(0, 4)}, {"data": 4}, "ww'… with more than 512 characters"),
            ({"w\x1b[2J\x07": 3}, {}, r"does not say where tensor 'w\x1b[2J\x07' lies"),
        ],
    )
    def test_is_one_clear_error(
        self, tmp_path: Path, header: dict[str, Any] | bytes, options: dict[str, int], why: str
    ) -> None:
        file = write(tmp_path / "model.safetensors", header, **options)
        assert why in problem(tmp_path)
        assert problem(tmp_path).startswith(f"{file}: ")

    def test_of_a_file_cut_short_is_one_clear_error(self, tmp_path: Path) -> None:
        file = write(tmp_path / "model.safetensors", {"w": entry(0, 100)}, data=100)
        os.truncate(file, file.stat().st_size - 1)
        assert "puts tensor 'w' at bytes 0 to 100, but there are 99" in problem(tmp_path)
        os.truncate(file, 3)
        assert "it has 3 bytes, which is no safetensors file" in problem(tmp_path)

    @pytest.mark.parametrize("value", [b"[],", b'"",', b"0,", b'{"":{"":{}}},'])
    def test_that_is_small_to_write_and_large_to_hold_is_refused_before_it_is_parsed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: bytes
    ) -> None:
        raw = b'{"w":[' + value * (12_000_000 // len(value)) + b"0]}"
        write(tmp_path / "model.safetensors", raw)
        monkeypatch.setattr(untrusted, "json", None)
        assert "its header has more than 2,500,000 values" in problem(tmp_path)

    @given(st.data())
    def test_is_refused_exactly_where_the_library_that_loads_it_refuses_it(self, data: st.DataObject) -> None:
        safetensors = pytest.importorskip("safetensors")
        header, size = data.draw(headers())
        with tempfile.TemporaryDirectory() as folder:
            file = write(Path(folder) / "model.safetensors", header, data=size)
            try:
                with safetensors.safe_open(file, framework="np") as opened:
                    expected: set[str] | None = set(opened.keys())
            except safetensors.SafetensorError:
                expected = None
            try:
                found: set[str] | None = {tensor.name for tensor in read_header(file)}
            except ConfigError:
                found = None
        assert found == expected


@st.composite
def headers(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """A right header with the bytes that it describes, or one with a number or two changed."""
    header: dict[str, Any] = {}
    end = 0
    for number in range(draw(st.integers(0, 4))):
        dtype, bits = draw(st.sampled_from([("U8", 8), ("BF16", 16), ("F32", 32), ("I64", 64), ("F4", 4)]))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        elements = 1
        for length in shape:
            elements *= length
        size = -(-elements * bits // 8)
        header[f"w{number}"] = entry(end, end + size, dtype, shape)
        end += size
    for name in draw(st.lists(st.sampled_from(sorted(header)), max_size=2)) if header else []:
        where = draw(st.sampled_from(["shape", "data_offsets"]))
        numbers = header[name][where]
        if numbers:
            numbers[draw(st.integers(0, len(numbers) - 1))] += draw(st.integers(0, 2))
    return header, end + draw(st.sampled_from([0, 0, 0, 1]))


class TestALyingIndex:
    @pytest.mark.parametrize(
        ("weight_map", "why"),
        [
            ({"w": "gone.safetensors"}, "its `weight_map` names gone.safetensors, which is not there"),
            ({"w": "../../etc/passwd"}, "names '../../etc/passwd', which is no safetensors file beside it"),
            ({"w": "../model.safetensors"}, "which is no safetensors file beside it"),
            ({"w": "a" * 5000 + ".safetensors"}, "which is not there"),
            ({"w": "a\0.safetensors"}, "which is no safetensors file beside it"),
            ({"w": 3}, "which is no safetensors file beside it"),
            ({str(number): f"{number}.safetensors" for number in range(10_001)}, "its `weight_map` names 10,001 files"),
            ({}, "it has no `weight_map`"),
            ([], "it has no `weight_map`"),
        ],
    )
    def test_is_one_clear_error(self, tmp_path: Path, weight_map: Any, why: str) -> None:
        index(tmp_path, weight_map)
        assert why in problem(tmp_path)
        assert "model.safetensors.index.json: " in problem(tmp_path)

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b'{"weight_map": {', "it is not JSON"),
            (b'{"weight_map": [' + b"[]," * 2_500_000 + b"0]}", "it has more than 2,500,000 values"),
        ],
    )
    def test_that_is_cut_short_or_huge_is_one_clear_error(self, tmp_path: Path, content: bytes, why: str) -> None:
        (tmp_path / "model.safetensors.index.json").write_bytes(content)
        assert why in problem(tmp_path)

    def test_that_is_larger_than_any_is_not_read(self, tmp_path: Path) -> None:
        index(tmp_path, {})
        os.truncate(tmp_path / "model.safetensors.index.json", 2**40)
        assert "it is larger than 67108864 bytes" in problem(tmp_path)


class TestWhatIsNoFile:
    @pytest.fixture(params=["model.safetensors", "model-1.safetensors", "model.safetensors.index.json"])
    def path(self, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
        path: Path = tmp_path / request.param
        return path

    def test_a_pipe_is_not_waited_for(self, path: Path) -> None:
        os.mkfifo(path)
        assert "it is not an ordinary file" in problem(path.parent)

    def test_a_device_is_not_read(self, path: Path) -> None:
        path.symlink_to("/dev/zero")
        assert "it is not an ordinary file" in problem(path.parent)

    def test_a_folder_is_not_read(self, path: Path) -> None:
        path.mkdir()
        assert "it is not an ordinary file" in problem(path.parent)

    def test_a_link_to_itself_or_to_nothing_is_told(self, path: Path) -> None:
        path.symlink_to(path)
        assert "it cannot be read: Too many levels of symbolic links" in problem(path.parent)
        path.unlink()
        path.symlink_to("nothing")
        assert "it cannot be read: No such file or directory" in problem(path.parent)

    def test_a_file_that_may_not_be_read_is_told(self, path: Path) -> None:
        path.write_bytes(b"")
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read everything")
        assert "cannot be read: Permission denied" in problem(path.parent)
