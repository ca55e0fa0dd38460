"""What a checkpoint on disk needs: weights, KV cache bytes per token, and how far it can be split."""

from __future__ import annotations

from pathlib import Path

from local_fusion.config.schema import ModelConfig
from local_fusion.planner.architecture import Shape, read_shape
from local_fusion.planner.plan import ModelFacts
from local_fusion.planner.tensors import broken, read_json, tensor_bytes

_UNKNOWN_CONTEXT = 2048  # tokens; vLLM's own fallback where config.json names no length
_FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


def read_facts(folder: Path, config: ModelConfig) -> ModelFacts:
    """The facts about the checkpoint in `folder` as it will run under `config`; bytes are for the whole model.

    Weights are what the safetensors headers declare, or without any weights there what the architecture comes to. What
    is not known is guessed upwards, and `estimated` says so. Raises `ConfigError` that names the file at fault.
    """
    shape = read_shape(read_json(folder / "config.json"))
    doubts = list(shape.doubts)
    element = 4 if config.dtype == "float32" else 2
    stored = tensor_bytes(folder)
    if not stored:
        weights = int(_parameters(shape) * (shape.bits / 8 if shape.bits else element))
        doubts.append("the folder holds no weights: their size is computed from config.json")
    elif config.quantization is not None or shape.bits is not None:
        weights = stored.total()
    else:
        # vLLM casts what it loads to one type; `auto` turns 32-bit checkpoints into 16 bits.
        weights = sum(
            size * element // _FLOAT_BYTES[kind] if kind in _FLOAT_BYTES else size for kind, size in stored.items()
        )
    if not weights:
        raise broken(folder / "config.json", "it does not describe a model, and there are no weights beside it")
    if not shape.max_model_len:
        doubts.append("config.json names no context length")
    kv_elements = shape.kv_elements_per_token
    if not kv_elements:
        kv_elements, why = _guess_kv_elements(shape, weights // element)
        doubts.append(why)
    return ModelFacts(
        architecture=shape.architecture,
        weights_bytes=weights,
        kv_bytes_per_token=kv_elements * (1 if config.kv_cache_dtype.startswith("fp8") else element),
        max_model_len=shape.max_model_len or _UNKNOWN_CONTEXT,
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        attention_heads=shape.heads,
        kv_heads=shape.kv_heads,
        estimated="; ".join(doubts) or None,
    )


def _parameters(shape: Shape) -> int:
    """How many parameters a decoder of this shape has: full attention projections and gated MLPs in every layer."""
    head = shape.hidden_size // shape.heads if shape.heads else 0
    attention = shape.hidden_size * head * 2 * (shape.heads + max(shape.kv_heads, 1))
    inner = shape.intermediate_size or 4 * shape.hidden_size
    mlp = 3 * shape.hidden_size * inner
    if shape.experts:
        mlp = 3 * shape.hidden_size * (shape.expert_size or inner) * (shape.experts + 1)  # one shared by all
    embeddings = shape.vocab_size * shape.hidden_size * (1 if shape.tied else 2)
    return shape.layers * (attention + mlp) + embeddings


def _guess_kv_elements(shape: Shape, parameters: int) -> tuple[int, str]:
    """KV elements of one token if every head kept its own, the most that attention ever needs."""
    if shape.layers and shape.hidden_size:
        return (
            2 * shape.layers * shape.hidden_size,
            "config.json does not tell the attention heads: all keep their own KV",
        )
    # Decoders are about 128 times as wide as deep, with 12 width² parameters a layer.
    layers = max(1, round((parameters / (12 * 128**2)) ** (1 / 3)))
    return (
        2 * layers * 128 * layers,
        f"the architecture {shape.architecture} is unknown: KV cache guessed from its size",
    )
