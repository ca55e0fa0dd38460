"""The facts about one model that planning rests on. Bytes and counts are for the whole model, before any split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Sharding = Literal["split", "whole", "kv_heads", "vocabulary"]
"""How vLLM divides weights over t ranks: each keeps a t-th; each keeps all; each keeps whole KV heads, at least one;
each keeps a t-th of the vocabulary padded to 64 rows."""

WeightsFrom = Literal["headers", "files", "gguf", "config"]
"""Where the bytes come from: safetensors headers; sizes of other weight files; a GGUF header; computed from config.json
because there are no weights yet."""

CacheKind = Literal["full", "sliding", "chunked", "latent", "state"]


@dataclass(frozen=True, slots=True)
class Padding:
    """What a kernel rounds up before it computes: the hidden size, and every rank's share of the inner size."""

    hidden: int
    hidden_multiple: int
    inner: int
    inner_multiple: int

    def factor(self, ranks: int) -> float:
        """By how much weights that are split over `ranks` grow."""
        hidden = -(-self.hidden // self.hidden_multiple) * self.hidden_multiple
        share = -(-self.inner // ranks)
        inner = -(-share // self.inner_multiple) * self.inner_multiple * ranks
        return hidden * inner / (self.hidden * self.inner)


@dataclass(frozen=True, slots=True)
class WeightGroup:
    """Weights of one role (`attention`, `experts`, `norms` …) that are split in the same way.

    Bytes as loaded, before the `padding` that depends on the number of ranks.
    """

    name: str
    bytes: int
    parameters: int
    sharding: Sharding
    padding: Padding | None = None


@dataclass(frozen=True, slots=True)
class StatePart:
    """One tensor of a recurrent layer's state: its elements, how they split, and bytes of an element.

    `element_bytes` 0: as wide as an activation. `groups`: a rank keeps whole groups, at least one. `recurrent`: the
    state proper, not the window of its convolution, which vLLM may keep at a higher precision.
    """

    elements: int
    element_bytes: int = 0
    split: bool = True
    groups: int = 0
    recurrent: bool = False


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """`count` layers that cache alike. `window` is a sliding window or a chunk in tokens; `state` is a request's own.

    A latent layer (MLA) keeps one vector of `head_size` elements a token, the same on every rank. A request holds
    `slots` copies of its state: more than one where prefixes are cached. `element_bytes` is 0 where the checkpoint
    declares no type of the cache: then it is as wide as an activation.
    """

    kind: CacheKind
    count: int
    kv_heads: int = 0
    head_size: int = 0
    head_size_v: int = 0
    window: int = 0
    state: tuple[StatePart, ...] = ()
    slots: int = 1
    element_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model as it will be loaded.

    `divisors` are the dimensions that a tensor-parallel size must divide (KV heads apart, which may be replicated);
    empty where the architecture is unknown, which then runs unsplit. `dtype_bytes` is the size of an activation's
    element. `buffers_bytes` are tensors that vLLM makes itself and keeps, such as rotary tables, on every rank.
    `warnings` say what is a conservative guess, and why. `fingerprint` tells checkpoints apart. `experts_per_token`
    answer each token; 0 where there are none, or config.json does not tell. `takes_images`: config.json describes
    something that sees.
    """

    architecture: str
    runner: Literal["generate", "pooling"]
    weights: tuple[WeightGroup, ...]
    weights_from: WeightsFrom
    cache: tuple[CacheLayer, ...]
    layers: int
    hidden_size: int
    intermediate_size: int
    attention_heads: int
    kv_heads: int
    vocab_size: int
    max_model_len: int
    divisors: tuple[int, ...]
    dtype_bytes: int
    buffers_bytes: int
    fingerprint: str
    warnings: tuple[str, ...] = ()
    experts_per_token: int = 0
    takes_images: bool = False

    @property
    def weights_bytes(self) -> int:
        """Bytes of all weights on one device."""
        return sum(group.bytes for group in self.weights)

    @property
    def parameters(self) -> int:
        """How many parameters there are."""
        return sum(group.parameters for group in self.weights)
