"""What an engine takes of a device beside weights and KV cache.

Estimates, on the high side: nothing but a start shows the truth, which is then remembered (`measured.py`).
"""

from __future__ import annotations

from typing import Literal

from local_fusion.config.schema import ModelConfig
from local_fusion.planner.facts.model import ModelFacts
from local_fusion.planner.memory.need import Overhead

BATCHED_TOKENS = 2048
"""Tokens of one engine step where nothing is configured; vLLM's own for large GPUs (8192) leave less to share."""

_MIB = 1024**2
_GIB = 1024**3

# One engine on the CPU took 3.6 GB over its three processes with 0.27 GB of weights held once (vLLM 0.32, x86-64).
_CPU_PROCESSES = 3 * _GIB
# The CUDA context, about 0.6 GiB (reports: 0.5 to 1.2), and what libraries allocate past torch: 0.33 GiB in vLLM's
# profile of a 5090 (vllm issue 14452). Neither is in vLLM's own accounting when KV bytes are given.
_CUDA_PROCESS = int(0.93 * _GIB)
# NCCL and custom all-reduce: memory outside torch grew by 1.79 GiB a rank from one to two H100s (vllm pull 10511).
_CUDA_COLLECTIVES = int(1.79 * _GIB)
# FlashInfer's workspace (`VLLM_FLASHINFER_WORKSPACE_BUFFER_SIZE`), the default attention of Blackwell GPUs.
_CUDA_WORKSPACE = 394 * _MIB
# A graph took 24 to 28 MiB (vllm pull 22897), 16 of them 23 MiB each (gpustack/runner pull 251); reports of all graphs
# of an engine end at 2 GiB.
_GRAPH = 28 * _MIB
_MOST_OF_GRAPHS = 2 * _GIB
_LARGEST_GRAPH = 512  # tokens; `VllmConfig._set_cudagraph_sizes`

# Bytes for each sequence and each token of the vocabulary while sampling (`apply_top_k_top_p_pytorch`): 16-bit logits,
# 32-bit ones, and a sort that returns 32-bit values and 64-bit indices, with as much again to work in.
_SAMPLING = 2 + 4 + 2 * (4 + 8)
# Experts that answer a token where config.json does not tell: as in DeepSeek-V3 and Qwen3-MoE, the most that is usual.
_EXPERTS_PER_TOKEN = 8

# Left on a GPU by a sleeping engine, each rank: the upper ends of what is reported, 0.8 to 1.2 and 1 to 3 GiB.
_ASLEEP_ALONE = int(1.2 * _GIB)
_ASLEEP_SPLIT = 3 * _GIB


def batched_tokens(options: ModelConfig, facts: ModelFacts, context: int) -> int:
    """Tokens of one engine step at most.

    A model without a KV cache reads its whole context in one step; vLLM refuses to start it with less.
    """
    tokens = options.max_num_batched_tokens or max(BATCHED_TOKENS, options.max_num_seqs)
    return tokens if facts.cache else max(tokens, context)


def overhead(
    options: ModelConfig, facts: ModelFacts, tensor_parallel: int, kind: Literal["cuda", "cpu"], *, tokens: int
) -> Overhead:
    """The estimate for one rank of `tensor_parallel` with steps of at most `tokens` tokens, in bytes."""
    activations = _step(facts, tokens, tensor_parallel) + _sampling(facts, options.max_num_seqs)
    if kind == "cpu":
        return Overhead(process=_CPU_PROCESSES, activations=activations, buffers=facts.buffers_bytes)
    return Overhead(
        process=_CUDA_PROCESS,
        collectives=_CUDA_COLLECTIVES if tensor_parallel > 1 else 0,
        activations=activations + _CUDA_WORKSPACE,
        graphs=0 if options.eager else _graphs(options),
        buffers=facts.buffers_bytes,
    )


def sleeping_bytes(tensor_parallel: int, kind: Literal["cuda", "cpu"]) -> int:
    """What an engine asleep leaves on each device; 0 on the CPU, where none can sleep."""
    if kind == "cpu":
        return 0
    return _ASLEEP_ALONE if tensor_parallel == 1 else _ASLEEP_SPLIT


def _step(facts: ModelFacts, tokens: int, tensor_parallel: int) -> int:
    """Tensors of one layer that live while `tokens` pass through it, as if none were freed before its end.

    The residual, its norm, and the outputs of attention and MLP are whole on every rank; queries, keys, values, their
    attention and the MLP's insides are split.
    """
    heads = 2 * (facts.attention_heads + max(facts.kv_heads, 1))
    head_size = max((layer.head_size for layer in facts.cache), default=0)
    split = max(heads * head_size, 4 * facts.hidden_size) + 3 * facts.intermediate_size
    width = 4 * facts.hidden_size + -(-split // tensor_parallel)
    groups = {group.name for group in facts.weights}
    if "experts" in groups:
        # Two workspaces with a row for each expert that answers a token (`TritonExperts.workspace_shapes`).
        width += 2 * (facts.experts_per_token or _EXPERTS_PER_TOKEN) * facts.hidden_size
    if "vision" in groups:
        # Images are encoded before the step that reads them, as many tokens as it has (`MultiModalBudget`). What an
        # encoder needs is not known from outside: counted as a second step.
        width *= 2
    return tokens * width * facts.dtype_bytes


def _sampling(facts: ModelFacts, sequences: int) -> int:
    return sequences * facts.vocab_size * _SAMPLING if facts.runner == "generate" else 0


def _graphs(options: ModelConfig) -> int:
    """Two sets of graphs, for whole steps and for pieces, at 1, 2, 4 and every 8th, later every 16th size."""
    largest = min(2 * options.max_num_seqs, _LARGEST_GRAPH)
    sizes = 3 + min(largest, 256) // 8 + max(0, largest - 256) // 16
    return min(2 * sizes * _GRAPH, _MOST_OF_GRAPHS)
