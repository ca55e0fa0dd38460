"""What the recurrent layers of a hybrid model keep for a request, whatever their family calls its fields."""

from __future__ import annotations

from local_fusion.planner.facts.fields import Fields, number
from local_fusion.planner.facts.model import CacheLayer, StatePart

_ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

# With prefix caching a state is copied at block ends: two slots, and one more where Mamba 2 writes a checkpoint in the
# midst of a prefill (vLLM: `MambaSpec.max_memory_usage_bytes`, `MambaMixer2.get_kv_cache_spec`). Prefixes of models
# that have no attention at all are not cached (`ModelConfig.is_prefix_caching_supported`).
_SLOTS = 2
_SLOTS_MAMBA_2 = 3


def state_layer(fields: Fields, *, hybrid: bool) -> CacheLayer | None:
    """One recurrent layer's cache; None where the kind of recurrence is not known.

    Shapes as in vLLM's `mamba_utils.MambaStateShapeCalculator`, fields as its model classes read them. `hybrid`: the
    model has attention layers too.
    """
    for shape, slots in (
        (_short_convolution, _SLOTS),
        (_gated_delta_net, _SLOTS),
        (_mamba_2, _SLOTS_MAMBA_2),
        (_mamba_1, _SLOTS),
    ):
        if state := shape(fields):
            return CacheLayer("state", 1, state=state, slots=slots if hybrid else 1)
    return None


def _short_convolution(fields: Fields) -> tuple[StatePart, ...]:
    """LFM2."""
    kernel = number(fields, "conv_L_cache")
    width = number(fields, "conv_dim", "hidden_size")
    return (StatePart((kernel - 1) * width),) if kernel and width else ()


def _gated_delta_net(fields: Fields) -> tuple[StatePart, ...]:
    """Qwen3-Next, Qwen3.5, OLMo-Hybrid."""
    keys = number(fields, "linear_num_key_heads", "num_attention_heads")
    values = number(fields, "linear_num_value_heads", "num_attention_heads")
    key_size, value_size = number(fields, "linear_key_head_dim"), number(fields, "linear_value_head_dim")
    kernel = number(fields, "linear_conv_kernel_dim")
    if not (keys and values and key_size and value_size and kernel):
        return ()
    return (
        StatePart((kernel - 1) * (2 * keys * key_size + values * value_size)),
        StatePart(values * value_size * key_size, _element_bytes(fields, "mamba_ssm_dtype"), recurrent=True),
    )


def _mamba_2(fields: Fields) -> tuple[StatePart, ...]:
    """Mamba 2, Falcon-H1, GraniteMoeHybrid, Nemotron-H, Zamba2, Bamba."""
    heads = number(fields, "mamba_n_heads", "n_mamba_heads", "mamba_num_heads", "num_heads")
    groups = number(fields, "mamba_n_groups", "mamba_ngroups", "n_groups")
    states = number(fields, "mamba_d_state", "ssm_state_size", "state_size")
    kernel = number(fields, "mamba_d_conv", "conv_kernel")
    head_size = number(fields, "mamba_d_head", "mamba_headdim", "mamba_head_dim")
    if not head_size and fields.get("model_type") == "mamba2":
        head_size = number(fields, "head_dim")
    width = number(fields, "mamba_d_ssm") or heads * head_size
    width = width or number(fields, "mamba_expand", "expand") * number(fields, "hidden_size")
    if not (heads and groups and states and kernel and width):
        return ()
    default = "float32" if fields.get("model_type") == "nemotron_h" else "auto"  # vLLM: `NemotronHForCausalLMConfig`
    return (
        StatePart((kernel - 1) * width),
        StatePart((kernel - 1) * 2 * groups * states, groups=groups),
        StatePart(width * states, _element_bytes(fields, "mamba_ssm_cache_dtype", default), recurrent=True),
    )


def _mamba_1(fields: Fields) -> tuple[StatePart, ...]:
    """Mamba, FalconMamba, Jamba."""
    states = number(fields, "mamba_d_state", "state_size")
    kernel = number(fields, "mamba_d_conv", "conv_kernel")
    # Beside attention `intermediate_size` is the MLP's.
    width = 0 if number(fields, "num_attention_heads") else number(fields, "intermediate_size")
    width = width or number(fields, "mamba_expand", "expand") * number(fields, "hidden_size")
    if not (states and kernel and width):
        return ()
    return (StatePart((kernel - 1) * width), StatePart(width * states, recurrent=True))


def _element_bytes(fields: Fields, name: str, default: str = "auto") -> int:
    return _ELEMENT_BYTES.get(str(fields.get(name, default)).removeprefix("torch."), 0)
