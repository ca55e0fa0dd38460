"""What real starts have shown, as values: it replaces the estimates of the next plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from local_fusion.config.schema import ModelConfig

# The options that change what an engine takes. What only moves bytes within the KV cache is not among them.
_OPTIONS = ("max_num_seqs", "kv_cache_dtype", "dtype", "quantization", "eager", "extra_args")


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Under which a measurement holds: the checkpoint, how it was split, on which kind of device, by which vLLM."""

    fingerprint: str
    tensor_parallel: int
    device: str
    vllm: str
    options: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one start showed, in bytes on each device; None is what could not be seen.

    `residual_bytes` is everything an engine held beside weights and KV cache. `kv_tokens` are the tokens that
    `kv_cache_bytes` held for a context of `max_model_len`. `sleeping_bytes` stay on the device while it sleeps.
    Milliseconds are those of its last start, and of its last sleep and wake at either level; no plan rests on them.
    """

    weights_bytes: int | None = None
    kv_cache_bytes: int | None = None
    kv_tokens: int | None = None
    max_model_len: int | None = None
    residual_bytes: int | None = None
    sleeping_bytes: int | None = None
    start_ms: int | None = None
    sleep1_ms: int | None = None
    wake1_ms: int | None = None
    sleep2_ms: int | None = None
    wake2_ms: int | None = None


Measurements = Mapping[Circumstances, Measurement]


def circumstances(
    config: ModelConfig, fingerprint: str, tensor_parallel: int, device: str, vllm: str, *, batched_tokens: int
) -> Circumstances:
    """The key of a measurement of this model under this configuration, with so many tokens in a step."""
    options = {"batched_tokens": batched_tokens, **{name: getattr(config, name) for name in _OPTIONS}}
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16]
    return Circumstances(fingerprint, tensor_parallel, device, vllm, digest)
