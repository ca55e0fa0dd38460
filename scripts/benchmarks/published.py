"""Published models from 3B to 72B: what their config.json says of their size, and the formats they are to be had in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_FORMATS: Mapping[str, Mapping[str, Any]] = {
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
    "fp8": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
    "mxfp4": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]},
}


@dataclass(frozen=True, slots=True)
class _Shape:
    kind: str
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    vocab: int
    context: int
    formats: tuple[str, ...] = ("bf16", "fp8", "awq")
    others: Mapping[str, Any] = field(default_factory=dict)

    def config(self, form: str) -> dict[str, Any]:
        return {
            "model_type": self.kind,
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "head_dim": 128,
            **self.others,
            **({"quantization_config": _FORMATS[form]} if form in _FORMATS else {}),
        }


_TIED = {"tie_word_embeddings": True}
_EXPERTS_30B = {"num_experts": 128, "moe_intermediate_size": 768, "decoder_sparse_step": 1, "mlp_only_layers": []}
_OSS = {"head_dim": 64, "num_local_experts": 32, "attention_bias": True}
_GEMMA_3 = {"sliding_window": 1024, "sliding_window_pattern": 6, **_TIED}

# Each from its own config.json on the Hugging Face hub.
_SHAPES: Mapping[str, _Shape] = {
    "qwen2.5-coder-3b": _Shape("qwen2", 36, 2048, 11008, 16, 2, 151936, 32768, others=_TIED),
    "llama-3.2-3b": _Shape("llama", 28, 3072, 8192, 24, 8, 128256, 131072, others=_TIED),
    "qwen3-4b": _Shape("qwen3", 36, 2560, 9728, 32, 8, 151936, 40960, others=_TIED),
    "olmo-2-7b": _Shape("olmo2", 32, 4096, 11008, 32, 32, 100352, 4096, ("bf16",)),
    "mistral-7b": _Shape("mistral", 32, 4096, 14336, 32, 8, 32768, 32768),
    "qwen2.5-7b": _Shape("qwen2", 28, 3584, 18944, 28, 4, 152064, 32768),
    "llama-3.1-8b": _Shape("llama", 32, 4096, 14336, 32, 8, 128256, 131072),
    "qwen3-8b": _Shape("qwen3", 36, 4096, 12288, 32, 8, 151936, 40960),
    "granite-3.3-8b": _Shape("granite", 40, 4096, 12800, 32, 8, 49159, 131072, ("bf16",), _TIED),
    "olmo-2-13b": _Shape("olmo2", 40, 5120, 13824, 40, 40, 100352, 4096, ("bf16",)),
    "phi-4": _Shape("phi3", 40, 5120, 17920, 40, 10, 100352, 16384),
    "qwen3-14b": _Shape("qwen3", 40, 5120, 17408, 40, 8, 151936, 40960),
    "gpt-oss-20b": _Shape("gpt_oss", 24, 2880, 2880, 64, 8, 201088, 131072, ("mxfp4",), _OSS),
    "mistral-small-24b": _Shape("mistral", 40, 5120, 32768, 32, 8, 131072, 32768),
    "gemma-3-27b": _Shape("gemma3_text", 62, 5376, 21504, 32, 16, 262208, 131072, ("bf16", "fp8"), _GEMMA_3),
    "qwen3-30b-a3b": _Shape("qwen3_moe", 48, 2048, 6144, 32, 4, 151936, 40960, ("bf16", "fp8"), _EXPERTS_30B),
    "qwen3-32b": _Shape("qwen3", 64, 5120, 25600, 64, 8, 151936, 40960),
    "qwq-32b": _Shape("qwen2", 64, 5120, 27648, 40, 8, 152064, 40960, ("bf16", "awq")),
    "qwen2.5-coder-32b": _Shape("qwen2", 64, 5120, 27648, 40, 8, 152064, 32768, ("bf16", "awq")),
    "mixtral-8x7b": _Shape("mixtral", 32, 4096, 14336, 32, 8, 32000, 32768, ("bf16", "awq"), {"num_local_experts": 8}),
    "llama-3.3-70b": _Shape("llama", 80, 8192, 28672, 64, 8, 128256, 131072),
    "qwen2.5-72b": _Shape("qwen2", 80, 8192, 29696, 64, 8, 152064, 32768),
}

PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    f"{name}-{form}": shape.config(form) for name, shape in _SHAPES.items() for form in shape.formats
}
"""config.json, as far as sizes depend on it, by model and format."""
