"""Facts from a checkpoint's own files, none of which is trusted."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from local_fusion.config.schema import ModelConfig
from local_fusion.errors import ConfigError
from local_fusion.planner.facts import read_facts
from local_fusion.planner.plan import ModelFacts
from tests.planner.folders import checkpoint, raw_safetensors, safetensors

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "dtype": "bfloat16",
}
DEEPSEEK_V3 = {
    "num_hidden_layers": 61,
    "hidden_size": 7168,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
}
SMOLLM2 = {
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
}


def facts(folder: Path, config: dict[str, Any], **options: Any) -> ModelFacts:
    tensors = {"w": ("BF16", 1000)} if not (folder / "config.json").exists() else None
    return read_facts(checkpoint(folder, config, tensors), ModelConfig(source="x", **options))


def error(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_facts(folder, ModelConfig(source="x"))
    assert "\n" not in caught.value.message
    return caught.value.message


def test_the_weights_are_the_byte_spans_of_the_tensors(tmp_path: Path) -> None:
    checkpoint(tmp_path, LLAMA_8B, {"a": ("BF16", 300), "b": ("BF16", 700)})
    known = read_facts(tmp_path, ModelConfig(source="x"))
    assert known.weights_bytes == 1000
    assert (known.architecture, known.max_model_len, known.kv_heads) == ("LlamaForCausalLM", 8192, 8)
    assert known.estimated is None


def test_shards_count_once_each_and_a_second_copy_in_mistrals_format_does_not(tmp_path: Path) -> None:
    checkpoint(tmp_path, LLAMA_8B)
    for name, size in (("model-1.safetensors", 100), ("model-2.safetensors", 20), ("consolidated.safetensors", 120)):
        safetensors(tmp_path / name, {"w": ("F16", size)})
    assert read_facts(tmp_path, ModelConfig(source="x")).weights_bytes == 120
    weight_map = {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert read_facts(tmp_path, ModelConfig(source="x")).weights_bytes == 120


def test_bin_files_count_by_their_size(tmp_path: Path) -> None:
    checkpoint(tmp_path, LLAMA_8B)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 50)
    (tmp_path / "training_args.bin").write_bytes(b"x" * 7)
    assert read_facts(tmp_path, ModelConfig(source="x")).weights_bytes == 50


@pytest.mark.parametrize(
    ("kind", "options", "config", "expected"),
    [
        ("F32", {}, {}, 500),
        ("BF16", {"dtype": "float32"}, {}, 2000),
        ("F32", {"dtype": "float32"}, {}, 1000),
        ("I32", {}, {}, 1000),
        ("F32", {}, {"quantization_config": {"quant_method": "awq", "bits": 4}}, 1000),
        ("F32", {"quantization": "gptq"}, {}, 1000),
    ],
)
def test_weights_take_the_type_they_are_loaded_as_unless_they_are_quantized(
    tmp_path: Path, kind: str, options: dict[str, Any], config: dict[str, Any], expected: int
) -> None:
    checkpoint(tmp_path, LLAMA_8B | config, {"w": (kind, 1000)})
    assert read_facts(tmp_path, ModelConfig(source="x", **options)).weights_bytes == expected


@pytest.mark.parametrize(
    ("config", "options", "expected"),
    [
        (LLAMA_8B, {}, 131_072),
        (LLAMA_8B, {"kv_cache_dtype": "fp8"}, 65_536),
        (LLAMA_8B, {"dtype": "float32"}, 262_144),
        (SMOLLM2, {}, 23_040),
        (DEEPSEEK_V3, {}, 70_272),
        ({"text_config": LLAMA_8B, "hidden_size": 7}, {}, 131_072),
        ({"thinker_config": {"text_config": LLAMA_8B}}, {}, 131_072),
        ({"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024}, {}, 12 * 2 * 768 * 2),
        ({"n_layer": 2, "n_head": 8, "n_embd": 512, "multi_query": True}, {}, 2 * 2 * 64 * 2),
        (LLAMA_8B | {"head_dim": 192, "v_head_dim": 128}, {}, 32 * 8 * (192 + 128) * 2),
    ],
)
def test_kv_bytes_per_token_follow_from_the_kind_of_attention(
    tmp_path: Path, config: dict[str, Any], options: dict[str, Any], expected: int
) -> None:
    assert facts(tmp_path, config, **options).kv_bytes_per_token == expected


def test_a_latent_cache_counts_as_one_head_that_every_rank_keeps(tmp_path: Path) -> None:
    assert facts(tmp_path, DEEPSEEK_V3).kv_heads == 1


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ({"rope_type": "linear", "factor": 2.0}, 16384),
        ({"type": "dynamic", "factor": 4}, 32768),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, 8192),
        ({"rope_type": "llama3", "factor": 8.0}, 8192),
        ({"rope_type": "linear", "factor": float("nan")}, 8192),
        ("nonsense", 8192),
    ],
)
def test_the_longest_context_is_stretched_as_vllm_does(tmp_path: Path, scaling: Any, expected: int) -> None:
    assert facts(tmp_path, LLAMA_8B | {"rope_scaling": scaling}).max_model_len == expected


def test_layers_that_keep_less_than_a_full_cache_are_overcounted_and_that_is_said(tmp_path: Path) -> None:
    known = facts(tmp_path, LLAMA_8B | {"layer_types": ["sliding_attention", "full_attention"] * 16})
    assert known.kv_bytes_per_token == 131_072
    assert "sliding window" in (known.estimated or "")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "rwkv9"},
        {"num_hidden_layers": "many", "hidden_size": -4, "num_attention_heads": 10**30},
        {"num_hidden_layers": 4, "hidden_size": 64},
        {"num_hidden_layers": True, "text_config": [], "quantization_config": "x", "rope_scaling": []},
        {"text_config": {"text_config": {"hidden_size": None}}, "architectures": [7], "layer_types": "x"},
    ],
)
def test_an_unknown_architecture_is_estimated_and_never_fails(tmp_path: Path, config: dict[str, Any]) -> None:
    checkpoint(tmp_path, config, {"w": ("BF16", 16_000_000_000)})
    known = read_facts(tmp_path, ModelConfig(source="x"))
    assert known.weights_bytes == 16_000_000_000
    assert known.kv_bytes_per_token > 0
    assert known.estimated


def test_a_model_of_unknown_shape_is_taken_to_cache_more_than_a_known_one_of_its_size(tmp_path: Path) -> None:
    checkpoint(tmp_path, {}, {"w": ("BF16", 16_060_522_496)})
    assert read_facts(tmp_path, ModelConfig(source="x")).kv_bytes_per_token > 131_072


def test_without_weights_their_size_is_computed_from_the_architecture(tmp_path: Path) -> None:
    known = read_facts(checkpoint(tmp_path, LLAMA_8B), ModelConfig(source="x"))
    assert known.weights_bytes == pytest.approx(2 * 8_030_261_248, rel=0.001)
    assert "computed from config.json" in (known.estimated or "")
    checkpoint(tmp_path, LLAMA_8B | {"quantization_config": {"quant_method": "awq", "bits": 4}})
    assert read_facts(tmp_path, ModelConfig(source="x")).weights_bytes < 0.35 * known.weights_bytes


@pytest.mark.parametrize(
    ("header", "options", "why"),
    [
        (b"{}", {"length": 2**63}, "claims a header of 9223372036854775808 bytes"),
        (b"{}", {"length": 1000}, "claims a header of 1000 bytes, but the file has 10"),
        (b"not json", {}, "its header is not JSON"),
        (b"\xff\xfe", {}, "its header is not JSON"),
        (b"[" * 100_000, {}, "its header is not JSON"),
        (b"[]", {}, "its header is not a JSON object"),
        (b'{"w": 3}', {}, "does not say where tensor 'w' lies"),
        (b'{"w": {"data_offsets": [0, true]}}', {}, "does not say where tensor 'w' lies"),
        (b'{"w": {"data_offsets": [0, 8]}}', {"data": 4}, "puts tensor 'w' at bytes 0 to 8, but there are 4"),
        (b'{"w": {"data_offsets": [-8, 0]}}', {}, "puts tensor 'w' at bytes -8 to 0"),
        (
            b'{"v": {"data_offsets": [0, 4]}, "w": {"data_offsets": [0, 4]}}',
            {"data": 4},
            "declares 8 bytes of tensors, but there are 4",
        ),
    ],
)
def test_a_lying_header_is_one_clear_error_with_the_files_name(
    tmp_path: Path, header: bytes, options: dict[str, int], why: str
) -> None:
    checkpoint(tmp_path, LLAMA_8B)
    raw_safetensors(tmp_path / "model.safetensors", header, **options)
    assert why in error(tmp_path)
    assert "model.safetensors" in error(tmp_path)


def test_a_truncated_file_is_one_clear_error(tmp_path: Path) -> None:
    checkpoint(tmp_path, LLAMA_8B, {"w": ("BF16", 100)})
    file = tmp_path / "model.safetensors"
    os.truncate(file, file.stat().st_size - 1)
    assert "puts tensor 'w' at bytes 0 to 100, but there are 99" in error(tmp_path)
    os.truncate(file, 3)
    assert "it has 3 bytes, which is no safetensors file" in error(tmp_path)


@pytest.mark.parametrize(
    ("weight_map", "why"),
    [
        ({"w": "gone.safetensors"}, "gone.safetensors: it is missing, though the index names it"),
        ({"w": "../../etc/passwd"}, "names '../../etc/passwd', which is no safetensors file beside it"),
        ({"w": 3}, "which is no safetensors file beside it"),
        ({}, "it has no `weight_map`"),
        ([], "it has no `weight_map`"),
    ],
)
def test_a_lying_index_is_one_clear_error(tmp_path: Path, weight_map: Any, why: str) -> None:
    checkpoint(tmp_path, LLAMA_8B)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert why in error(tmp_path)


def test_a_folder_that_describes_no_model_is_one_clear_error(tmp_path: Path) -> None:
    assert "config.json: it cannot be read: No such file" in error(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "it is not a JSON object" in error(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "it does not describe a model" in error(tmp_path)
    shutil.rmtree(tmp_path)
