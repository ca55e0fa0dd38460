"""A model's dimensions and layers from its config.json, whatever the family calls its fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

from local_fusion.planner.facts.families import FAMILIES, UNKNOWN, Family, Switch
from local_fusion.planner.facts.fields import (
    HEAD_COUNTS,
    HIDDEN_SIZES,
    MOST_LAYERS,
    VOCABULARY_SIZES,
    Fields,
    flag,
    layer_count,
    number,
    numbers,
    real,
    section,
    text,
    text_fields,
    words,
)

Mixer = Literal["attention", "mamba", "mamba2", "delta", "convolution", "parallel", "none"]
"""How a layer mixes tokens: softmax attention, a recurrence (Mamba, Mamba-2, gated delta rule), a short convolution,
attention beside Mamba-2 (Falcon-H1), or not at all."""

Feeder = Literal["dense", "experts", "none"]
"""What follows: an MLP, a mixture of experts, or nothing."""

Kind = TypeVar("Kind", bound=str)

_UNSTRETCHED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "mrope", "default")
# The lengths that vLLM looks at, the smallest wins (`derive_max_model_len_and_key`); n_ctx is ours, for old GPT files.
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
    "n_ctx",
)
_LONGEST_NAME = 100  # characters; what is shown of an architecture's name, the longest in vLLM's registry has 47
# Not `top_k`, which older transformers wrote into every config.json as a parameter of sampling.
_EXPERTS_PER_TOKEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "moe_topk",
    "moe_top_k",
    "moe_k",
    "top_k_experts",
)
_MAMBA_1 = ("mamba", "falcon_mamba", "jamba")


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention (DeepSeek): ranks and head sizes. `query_rank` 0: queries are not compressed."""

    query_rank: int
    rank: int
    unrotated: int
    rotated: int
    value: int


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture's experts: how many, the inner size of each, and of what all tokens share (0: nothing).

    `per_token`: how many of them answer a token; 0 where config.json does not tell.
    """

    count: int
    inner: int
    shared: int
    per_token: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """A language model's dimensions, 0 where config.json does not tell. `fields` are its own, with defaults filled in.

    `mixers` and `feeders` have one entry for each layer. `known`: its parameters can be counted exactly.
    """

    name: str
    kind: str
    family: Family
    fields: Fields
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_size: int
    head_size_v: int
    inner_size: int
    vocab_size: int
    max_model_len: int
    tied: bool
    dtype: str
    latent: Latent | None
    experts: Experts | None
    mixers: tuple[Mixer, ...]
    feeders: tuple[Feeder, ...]
    known: bool

    def has(self, switch: Switch) -> bool:
        """Whether a property that the family fixes or a field decides holds."""
        return flag(self.fields, switch) if isinstance(switch, str) else switch


def read_architecture(config: Fields) -> Architecture:
    """The architecture that a config.json describes. Never raises: what is missing or nonsense is 0."""
    fields = text_fields(config)
    kind = text(fields, "model_type")[:_LONGEST_NAME]
    family = FAMILIES.get(kind, UNKNOWN)
    layers = layer_count(fields)
    hidden = number(fields, *HIDDEN_SIZES)
    heads = number(fields, *HEAD_COUNTS)
    kv_heads = number(fields, "num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
    if flag(fields, "multi_query") and not flag(fields, "new_decoder_architecture"):
        kv_heads = 1 if kind == "falcon" or not kv_heads else kv_heads
    kv_heads = kv_heads or heads
    head = number(fields, "head_dim", "kv_channels", "attention_head_dim") or (hidden // heads if heads else 0)
    latent = _latent(fields)
    experts = _experts(fields, kind)
    mixers = _mixers(fields, kind, layers)
    return Architecture(
        name=(next(iter(words(config, "architectures")), "") or text(config, "model_type"))[:_LONGEST_NAME]
        or "unknown",
        kind=kind,
        family=family,
        fields=fields,
        layers=layers,
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_size=latent.unrotated + latent.rotated if latent else head,
        head_size_v=latent.value if latent else number(fields, "v_head_dim", "head_dim_v") or head,
        inner_size=_inner_size(fields, kind, hidden),
        vocab_size=number(fields, *VOCABULARY_SIZES),
        max_model_len=_longest_context(fields),
        tied=_tied(config, fields, family),
        dtype=(text(fields, "dtype") or text(fields, "torch_dtype")).removeprefix("torch."),
        latent=latent,
        experts=experts,
        mixers=mixers,
        feeders=_feeders(fields, kind, layers, experts),
        known=kind in FAMILIES and not family.rough,
    )


def _tied(config: Fields, fields: Fields, family: Family) -> bool:
    """Whether the output head is the embeddings; where the outer and the language model's field differ, it is not.

    vLLM goes by the outer one (`VllmConfig.with_hf_config`), but corrects it by what the checkpoint holds.
    """
    said = {value for section_ in (config, fields) if isinstance(value := section_.get("tie_word_embeddings"), bool)}
    return family.tied if not said else False not in said


def _latent(fields: Fields) -> Latent | None:
    rank = number(fields, "kv_lora_rank")
    if not rank:
        return None
    return Latent(
        query_rank=number(fields, "q_lora_rank"),
        rank=rank,
        unrotated=number(fields, "qk_nope_head_dim"),
        rotated=number(fields, "qk_rope_head_dim"),
        value=number(fields, "v_head_dim"),
    )


def _experts(fields: Fields, kind: str) -> Experts | None:
    count = number(fields, "num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
    shared = number(fields, "shared_expert_intermediate_size", "shared_intermediate_size")
    inner = number(fields, "moe_intermediate_size", "intermediate_size", "ffn_hidden_size")
    if kind == "llama4_text":
        shared = inner = number(fields, "intermediate_size")
    elif kind == "nemotron_h":
        inner = number(fields, "moe_intermediate_size")
        shared = number(fields, "moe_shared_expert_intermediate_size")
    elif not shared:
        shared = inner * number(fields, "n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
    if kind == "jamba" and count == 1:
        return None
    # Granite's hybrids without routed experts still name their MLP "shared".
    per_token = min(count, number(fields, *_EXPERTS_PER_TOKEN))
    return Experts(count, inner, shared, per_token) if count or (kind == "granitemoehybrid" and shared) else None


def _inner_size(fields: Fields, kind: str, hidden: int) -> int:
    inner = number(fields, "intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim")
    if kind == "llama4_text":
        return number(fields, "intermediate_size_mlp") or inner
    if kind in ("lfm2", "lfm2_moe"):
        inner = number(fields, "block_ff_dim") or inner
        if kind == "lfm2" and flag(fields, "block_auto_adjust_ff_dim", True):
            # vllm/model_executor/models/lfm2.py, Lfm2MLP
            inner = int(real(fields, "block_ffn_dim_multiplier", 1.0) * (2 * inner // 3))
            multiple = number(fields, "block_multiple_of") or 256
            return -(-inner // multiple) * multiple
    return inner or 4 * hidden


def _mixers(fields: Fields, kind: str, layers: int) -> tuple[Mixer, ...]:
    """One for each layer; where nothing tells, attention, which is the most that a layer can cost."""
    if kind in ("mamba", "falcon_mamba"):
        return _fit((), layers, "mamba")
    if kind == "mamba2":
        return _fit((), layers, "mamba2")
    if kind == "falcon_h1":
        return _fit((), layers, "parallel")
    recurrent: Mixer = "mamba" if kind in _MAMBA_1 else "mamba2"
    pattern = text(fields, "hybrid_override_pattern")
    if pattern:  # Nemotron-H: one character for each layer
        signs: dict[str, Mixer] = {"M": recurrent, "*": "attention"}
        return _fit(tuple(signs.get(sign, "none") for sign in pattern), layers, "attention")
    names = words(fields, "layer_types") or words(fields, "layers_block_type")
    if names:
        meanings: dict[str, Mixer] = {
            "mamba": recurrent,
            "mamba2": recurrent,
            "conv": "convolution",
        }
        if kind.startswith("qwen3"):
            meanings["linear_attention"] = "delta"
        elif kind in ("granitemoehybrid", "bamba", "nemotron_h"):  # transformers 5 renames "mamba" so
            meanings |= {"linear_attention": recurrent, "mlp": "none", "moe": "none"}
        return _fit(tuple(meanings.get(name, "attention") for name in names), layers, "attention")
    if kind == "jamba":
        period, offset = number(fields, "attn_layer_period") or 1, number(fields, "attn_layer_offset")
        return tuple("attention" if index % period == offset else recurrent for index in range(layers))
    if kind == "bamba":
        attention = numbers(fields, "attn_layer_indices")
        return tuple("attention" if index in attention else recurrent for index in range(layers))
    if kind.startswith(("qwen3_next", "qwen3_5")):
        interval = number(fields, "full_attention_interval") or 4
        return tuple("delta" if (index + 1) % interval else "attention" for index in range(layers))
    if kind.startswith("lfm2"):
        full = numbers(fields, "full_attn_idxs")
        return tuple("attention" if not full or index in full else "convolution" for index in range(layers))
    return _fit((), layers, "attention")


def _feeders(fields: Fields, kind: str, layers: int, experts: Experts | None) -> tuple[Feeder, ...]:
    """One for each layer, as vLLM's model of each family decides it."""
    if kind in ("mamba", "falcon_mamba", "mamba2"):
        return _fit((), layers, "none")
    if kind == "nemotron_h":
        pattern = text(fields, "hybrid_override_pattern")
        signs: dict[str, Feeder] = {"-": "dense", "E": "experts", "mlp": "dense", "moe": "experts"}
        names = tuple(pattern) or words(fields, "layers_block_type")
        return _fit(tuple(signs.get(name, "none") for name in names), layers, "none")
    if experts is None:
        return _fit((), layers, "dense")
    kinds = words(fields, "mlp_layer_types")
    if kinds:
        return _fit(tuple("experts" if name == "sparse" else "dense" for name in kinds), layers, "experts")
    return tuple("experts" if _is_sparse(fields, kind, index) else "dense" for index in range(layers))


def _is_sparse(fields: Fields, kind: str, index: int) -> bool:
    if kind == "llama4_text":
        chosen = numbers(fields, "moe_layers")
        return index in chosen if chosen else (index + 1) % (number(fields, "interleave_moe_layer_step") or 1) == 0
    if kind == "jamba":
        return index % (number(fields, "expert_layer_period") or 1) == number(fields, "expert_layer_offset")
    if kind.startswith("ernie4_5"):
        last = number(fields, "moe_layer_end_index") or MOST_LAYERS
        interval = number(fields, "moe_layer_interval") or 1
        return number(fields, "moe_layer_start_index") <= index <= last and (index + 1) % interval == 0
    if index in numbers(fields, "mlp_only_layers"):
        return False
    if index < number(fields, "first_k_dense_replace", "num_dense_layers"):
        return False
    if index % (number(fields, "moe_layer_freq") or 1):
        return False
    return (index + 1) % (number(fields, "decoder_sparse_step") or 1) == 0


def _fit(kinds: tuple[Kind, ...], layers: int, missing: Kind) -> tuple[Kind, ...]:
    return (*kinds[:layers], *(missing,) * (layers - len(kinds)))


def _longest_context(fields: Fields) -> int:
    """The longest context in tokens, as vLLM 0.32 derives it (`_get_and_verify_max_len`): a few scalings stretch it."""
    lengths = [length for name in _LENGTHS if (length := number(fields, name))]
    positions = number(fields, "model_max_length") or min(lengths, default=0)
    if "gemma3" in text(fields, "model_type"):  # its length is stated after scaling
        return positions
    scaling = section(fields, "rope_parameters") or section(fields, "rope_scaling")
    setups: list[Fields] = [value for value in scaling.values() if isinstance(value, dict)] or [scaling]
    factor = 1.0
    for setup in setups:
        kind = text(setup, "rope_type") or text(setup, "type")
        if kind and kind not in _UNSTRETCHED:
            factor = real(setup, "factor", factor)
    return min(10**9, int(positions * max(1.0, factor)))
