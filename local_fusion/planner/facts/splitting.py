"""Over how many ranks a model can be split."""

from __future__ import annotations

from local_fusion.planner.facts.architecture import Architecture
from local_fusion.planner.facts.families import FAMILIES
from local_fusion.planner.facts.fields import number
from local_fusion.planner.facts.quantization import Quantization
from local_fusion.planner.facts.sharding import VOCABULARY_ROWS
from local_fusion.planner.facts.vision import Tower

# vLLM runs StarCoder-1 through transformers, which does not split its MLP.
_SPLIT = FAMILIES.keys() - {"gpt_bigcode"}


def divisors(shape: Architecture, tower: Tower | None, quantization: Quantization | None) -> tuple[int, ...]:
    """The dimensions that a tensor-parallel size must divide; empty if the architecture is not known well enough.

    Source: the `divide` and assertions of vLLM's parallel layers, and of the quantization methods that refuse to share
    a block or group of weights between two ranks (`validate_fp8_block_shape`, AWQ's and GPTQ's `create_weights`).
    """
    if not (shape.layers and shape.hidden_size and shape.vocab_size) or shape.kind not in _SPLIT:
        return ()
    found: set[int] = {-(-shape.vocab_size // VOCABULARY_ROWS) * VOCABULARY_ROWS}
    unit = quantization.unit() if quantization else 1
    if any(mixer in ("attention", "parallel") for mixer in shape.mixers):
        if not shape.heads:
            return ()
        found.add(shape.heads)
        if shape.kind == "gpt_oss":  # its model class does not copy KV heads (`GptOssAttention`)
            found.add(shape.kv_heads)
        if quantization is None or not quantization.experts_only:
            found.add(_units(shape.heads * shape.head_size_v, unit))
    if "dense" in shape.feeders and not (quantization and quantization.experts_only):
        found.add(_units(shape.inner_size, unit))
    elif "dense" in shape.feeders:
        found.add(shape.inner_size)
    if "experts" in shape.feeders and shape.experts is not None:
        if shape.experts.count:
            # MXFP4's kernels pad every rank's share instead (`mxfp4_round_up_hidden_size_and_intermediate_size`).
            mixed = quantization is not None and quantization.format == "mxfp4"
            found.add(_units(shape.experts.inner, 1 if mixed else unit))
        if shape.experts.shared:
            found.add(_units(shape.experts.shared, unit))
    found |= _recurrent(shape)
    if tower is not None and tower.heads:
        found |= {tower.heads, tower.inner_size}
    if shape.family.encoder == "bert":
        rows = number(shape.fields, "max_position_embeddings")
        found |= {VOCABULARY_ROWS, -(-rows // VOCABULARY_ROWS) * VOCABULARY_ROWS}
    return tuple(sorted(size for size in found if size > 0))


def _units(size: int, unit: int) -> int:
    """What must be divided so that every rank's share of `size` is whole units; 1 where `size` itself is not."""
    return size // unit if size % unit == 0 else 1


def _recurrent(shape: Architecture) -> set[int]:
    fields, found = shape.fields, set()
    if "delta" in shape.mixers:
        found |= {number(fields, "linear_num_key_heads"), number(fields, "linear_num_value_heads")}
    if "mamba2" in shape.mixers or "parallel" in shape.mixers:
        found.add(number(fields, "mamba_n_heads", "mamba_num_heads", "num_heads") or 128)
        groups = number(fields, "mamba_n_groups", "n_groups") or 1
        if groups > 1:  # a single one is copied to all ranks
            found.add(groups)
    if "mamba" in shape.mixers:
        found.add((number(fields, "mamba_expand", "expand") or 2) * shape.hidden_size)
    if "convolution" in shape.mixers:
        found.add(shape.hidden_size)
    return found
