"""The weights that a model of some architecture has, one by one; equal experts as one with a count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from local_fusion.planner.facts.architecture import Architecture, Experts
from local_fusion.planner.facts.fields import flag, number


@dataclass(frozen=True, slots=True)
class Weight:
    """`count` equal tensors. `linear`: a quantization method may shrink it (`shape` is then outputs × inputs)."""

    name: str
    shape: tuple[int, ...]
    linear: bool = False
    count: int = 1


def linear(name: str, outputs: int, inputs: int, bias: bool = False, count: int = 1) -> Iterator[Weight]:
    """A linear layer that may be quantized."""
    yield Weight(f"{name}.weight", (outputs, inputs), True, count)
    if bias:
        yield Weight(f"{name}.bias", (outputs,), False, count)


def norm(name: str, size: int, bias: bool = False) -> Iterator[Weight]:
    """A layer norm or RMS norm."""
    yield Weight(f"{name}.weight", (size,))
    if bias:
        yield Weight(f"{name}.bias", (size,))


def decoder(shape: Architecture, prefix: str = "model.") -> Iterator[Weight]:
    """All weights of a language model that generates (with its output head, unless that is tied)."""
    family, hidden = shape.family, shape.hidden_size
    yield Weight(f"{prefix}embed_tokens.weight", (shape.vocab_size, hidden))
    if family.positions is not None:
        rows = number(shape.fields, "max_position_embeddings", "n_positions", "n_ctx") + family.positions
        yield Weight(f"{prefix}embed_positions.weight", (rows, hidden))
    for index in range(shape.layers):
        yield from _layer(shape, index, f"{prefix}layers.{index}.")
    if family.final_norm:
        yield from norm(f"{prefix}norm", hidden, family.norm_bias)
    if not shape.tied:
        yield Weight("lm_head.weight", (shape.vocab_size, hidden))
    if shape.has(family.head_bias):
        yield Weight("lm_head.bias", (shape.vocab_size,))


def _layer(shape: Architecture, index: int, prefix: str) -> Iterator[Weight]:
    family = shape.family
    mixer, feeder = shape.mixers[index], shape.feeders[index]
    for which in range(1 if "none" in (mixer, feeder) else family.norms):
        yield from norm(f"{prefix}{which}_layernorm", shape.hidden_size, family.norm_bias)
    if mixer in ("attention", "parallel"):
        attention = f"{prefix}self_attn."
        yield from _latent_attention(shape, attention) if shape.latent else _attention(shape, attention)
    if mixer == "mamba":
        yield from _mamba(shape, f"{prefix}mamba.")
    elif mixer in ("mamba2", "parallel"):
        yield from _mamba2(shape, f"{prefix}mamba.")
    elif mixer == "delta":
        yield from _gated_delta(shape, f"{prefix}linear_attn.")
    elif mixer == "convolution":
        yield from _convolution(shape, f"{prefix}conv.")
    if feeder == "dense":
        yield from _mlp(shape, f"{prefix}mlp.", shape.inner_size)
    elif feeder == "experts" and shape.experts is not None:
        yield from _experts(shape, shape.experts, f"{prefix}mlp.")


def _attention(shape: Architecture, prefix: str) -> Iterator[Weight]:
    family, hidden = shape.family, shape.hidden_size
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    bias = shape.has(family.qkv_bias)
    yield from linear(f"{prefix}q_proj", queries * (2 if family.query_gate else 1), hidden, bias)
    yield from linear(f"{prefix}k_proj", keys, hidden, bias)
    yield from linear(f"{prefix}v_proj", shape.kv_heads * shape.head_size_v, hidden, bias)
    yield from linear(f"{prefix}o_proj", hidden, shape.heads * shape.head_size_v, shape.has(family.out_bias))
    if family.qk_norm and (not family.qk_norm_if or flag(shape.fields, family.qk_norm_if)):
        full = family.qk_norm == "full"
        yield from norm(f"{prefix}q_norm", queries if full else shape.head_size)
        yield from norm(f"{prefix}k_norm", keys if full else shape.head_size)
    if shape.kind == "gpt_oss":
        yield Weight(f"{prefix}sinks", (shape.heads,))


def _latent_attention(shape: Architecture, prefix: str) -> Iterator[Weight]:
    latent, hidden = shape.latent, shape.hidden_size
    assert latent is not None
    bias = shape.has(shape.family.qkv_bias)
    queries = shape.heads * (latent.unrotated + latent.rotated)
    if latent.query_rank:
        yield from linear(f"{prefix}q_a_proj", latent.query_rank, hidden, bias)
        yield from norm(f"{prefix}q_a_layernorm", latent.query_rank)
        yield from linear(f"{prefix}q_b_proj", queries, latent.query_rank)
    else:
        yield from linear(f"{prefix}q_proj", queries, hidden)
    yield from linear(f"{prefix}kv_a_proj_with_mqa", latent.rank + latent.rotated, hidden, bias)
    yield from norm(f"{prefix}kv_a_layernorm", latent.rank)
    yield from linear(f"{prefix}kv_b_proj", shape.heads * (latent.unrotated + latent.value), latent.rank)
    yield from linear(f"{prefix}o_proj", hidden, shape.heads * latent.value, bias)


def _mlp(shape: Architecture, prefix: str, inner: int, count: int = 1) -> Iterator[Weight]:
    bias = shape.has(shape.family.mlp_bias)
    if shape.family.gated:
        yield from linear(f"{prefix}gate_proj", inner, shape.hidden_size, bias, count)
    yield from linear(f"{prefix}up_proj", inner, shape.hidden_size, bias, count)
    yield from linear(f"{prefix}down_proj", shape.hidden_size, inner, bias, count)


def _experts(shape: Architecture, experts: Experts, prefix: str) -> Iterator[Weight]:
    hidden = shape.hidden_size
    if experts.count:
        yield Weight(f"{prefix}gate.weight", (experts.count, hidden))
        if shape.kind == "gpt_oss":
            yield Weight(f"{prefix}gate.bias", (experts.count,))
        scored = shape.has(shape.family.score_bias) or shape.fields.get("topk_method") == "noaux_tc"
        if scored or shape.kind == "glm4_moe_lite":
            yield Weight(f"{prefix}gate.e_score_correction_bias", (experts.count,))
        if shape.kind == "gpt_oss":  # stored as one tensor for all experts, which a bias is then too
            yield Weight(f"{prefix}experts.gate_up_proj", (2 * experts.inner, hidden), True, experts.count)
            yield Weight(f"{prefix}experts.gate_up_proj_bias", (experts.count, 2 * experts.inner))
            yield Weight(f"{prefix}experts.down_proj", (hidden, experts.inner), True, experts.count)
            yield Weight(f"{prefix}experts.down_proj_bias", (experts.count, hidden))
        else:
            yield from _mlp(shape, f"{prefix}experts.0.", experts.inner, experts.count)
    if experts.shared:
        yield from _mlp(shape, f"{prefix}shared_experts.", experts.shared)
    if shape.kind in ("qwen2_moe", "qwen3_next", "qwen3_5_moe_text") and experts.shared:
        yield Weight(f"{prefix}shared_expert_gate.weight", (1, hidden))


def _mamba(shape: Architecture, prefix: str) -> Iterator[Weight]:
    fields, hidden = shape.fields, shape.hidden_size
    jamba = shape.kind == "jamba"
    states = number(fields, "mamba_d_state", "state_size") or 16
    kernel = number(fields, "mamba_d_conv", "conv_kernel") or 4
    inner = (number(fields, "mamba_expand", "expand") or 2) * hidden
    inner = inner if jamba else number(fields, "intermediate_size", "d_inner") or inner
    rank = number(fields, "mamba_dt_rank", "time_step_rank") or -(-hidden // 16)
    bias = flag(fields, "mamba_proj_bias" if jamba else "use_bias")
    yield from linear(f"{prefix}in_proj", 2 * inner, hidden, bias)
    yield Weight(f"{prefix}conv1d.weight", (inner, 1, kernel))
    if flag(fields, "mamba_conv_bias" if jamba else "use_conv_bias", True):
        yield Weight(f"{prefix}conv1d.bias", (inner,))
    yield from linear(f"{prefix}x_proj", rank + 2 * states, inner)
    yield from linear(f"{prefix}dt_proj", inner, rank, bias=True)
    yield Weight(f"{prefix}A_log", (inner, states))
    yield Weight(f"{prefix}D", (inner,))
    yield from linear(f"{prefix}out_proj", hidden, inner, bias)
    if jamba:
        for name, size in (("dt", rank), ("b", states), ("c", states)):
            yield from norm(f"{prefix}{name}_layernorm", size)


def _mamba2(shape: Architecture, prefix: str) -> Iterator[Weight]:
    fields, hidden = shape.fields, shape.hidden_size
    heads = number(fields, "mamba_n_heads", "mamba_num_heads", "num_heads") or 128
    size = number(fields, "mamba_d_head", "mamba_head_dim", "head_dim") or 64
    inner = number(fields, "mamba_d_ssm") or heads * size
    states = number(fields, "mamba_d_state", "ssm_state_size", "state_size") or 128
    channels = inner + 2 * (number(fields, "mamba_n_groups", "n_groups") or 1) * states
    kernel = number(fields, "mamba_d_conv", "conv_kernel") or 4
    bias = flag(fields, "mamba_proj_bias") or flag(fields, "use_bias")
    yield from linear(f"{prefix}in_proj", inner + channels + heads, hidden, bias)
    yield Weight(f"{prefix}conv1d.weight", (channels, 1, kernel))
    if flag(fields, "mamba_conv_bias", True) and flag(fields, "use_conv_bias", True):
        yield Weight(f"{prefix}conv1d.bias", (channels,))
    for name in ("A_log", "D", "dt_bias"):
        yield Weight(f"{prefix}{name}", (heads,))
    if shape.kind != "falcon_h1" or flag(fields, "mamba_rms_norm"):
        yield from norm(f"{prefix}norm", inner)
    yield from linear(f"{prefix}out_proj", hidden, inner, bias)


def _gated_delta(shape: Architecture, prefix: str) -> Iterator[Weight]:
    fields, hidden = shape.fields, shape.hidden_size
    value_heads, value_size = number(fields, "linear_num_value_heads"), number(fields, "linear_value_head_dim")
    keys = number(fields, "linear_num_key_heads") * number(fields, "linear_key_head_dim")
    values = value_heads * value_size
    yield from linear(f"{prefix}in_proj_qkvz", 2 * keys + 2 * values, hidden)
    yield from linear(f"{prefix}in_proj_ba", 2 * value_heads, hidden)
    yield Weight(f"{prefix}conv1d.weight", (2 * keys + values, 1, number(fields, "linear_conv_kernel_dim") or 4))
    for name in ("A_log", "dt_bias"):
        yield Weight(f"{prefix}{name}", (value_heads,))
    yield from norm(f"{prefix}norm", value_size)
    yield from linear(f"{prefix}out_proj", hidden, values)


def _convolution(shape: Architecture, prefix: str) -> Iterator[Weight]:
    hidden, bias = shape.hidden_size, flag(shape.fields, "conv_bias")
    yield from linear(f"{prefix}in_proj", 3 * hidden, hidden, bias)
    yield Weight(f"{prefix}conv.weight", (hidden, 1, number(shape.fields, "conv_L_cache") or 3))
    yield from linear(f"{prefix}out_proj", hidden, hidden, bias)
