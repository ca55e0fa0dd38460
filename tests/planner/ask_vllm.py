"""Starts vLLM on a tiny random checkpoint of each family, and prints what it says of its memory as JSON, a line each.

A program of its own, `python -m tests.planner.ask_vllm FOLDER`: vLLM is imported once, and every family runs in a
fork of that. Then the same model's cache is laid out by vLLM's own functions for more sizes, and as on CUDA, over
several ranks.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.planner.vllm_families import FAMILIES, SMALL

BYTES, CONTEXT, BATCHED_TOKENS = 64 * 1024**2, 512, 1024
CONTEXTS = (100, 512, 2048)
RANKS = (1, 2, 4, 8)
MIXTURES = 150
_SECONDS = 100  # for one family, after which it counts as hung
_AT_A_TIME = 2


def main(folder: Path) -> None:
    """Print a line of JSON for each family: what vLLM said, or `refused` and why."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "TORCH_COMPILE_DISABLE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # would win over the explicit bytes
    import torch
    import transformers  # noqa: F401 - slow to import: once for all forks
    import vllm  # noqa: F401

    torch.set_num_threads(1)  # a pool of threads would not survive the forks
    registry: Any = import_module("vllm.model_executor.models.registry")
    registry._run_in_subprocess = lambda inspect: inspect()  # saves ten seconds for each family
    running: dict[int, str] = {}
    for name in FAMILIES:
        if len(running) == _AT_A_TIME:
            _print_next(running, folder)
        if not (child := os.fork()):
            _in_child(name, folder)
        running[child] = name
    while running:
        _print_next(running, folder)


def _print_next(running: dict[int, str], folder: Path) -> None:
    child, _ = os.wait()
    name = running.pop(child)
    said = folder / f"{name}.said"
    print(
        said.read_text() if said.exists() else json.dumps({"family": name, "refused": "it hung or crashed"}), flush=True
    )


def _in_child(name: str, folder: Path) -> None:
    signal.alarm(_SECONDS)
    log = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        said = {"family": name, **_start(name, folder / name)}
    except BaseException as error:
        traceback.print_exc()
        said = {"family": name, "refused": f"{type(error).__name__}: {error}"[:500]}
    (folder / f"{name}.said").write_text(json.dumps(said))
    os._exit(0)  # nothing of the parent's may be cleaned up here


def _start(name: str, folder: Path) -> dict[str, Any]:
    """Save a random checkpoint, start vLLM on it, and ask."""
    from vllm import LLM

    base_loader: Any = import_module("vllm.model_executor.model_loader.base_loader")
    _save(name, folder)
    loaded: list[int] = []
    process_weights = base_loader.process_weights_after_loading

    def counted(model: Any, *arguments: Any) -> None:
        # Afterwards the CPU's kernels have weights packed anew, out of sight. `_k_scale` and the like are in no file.
        named = model.state_dict().items()
        storages = [tensor.untyped_storage() for name, tensor in named if not name.rpartition(".")[2].startswith("_")]
        loaded.append(sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()))
        process_weights(model, *arguments)

    base_loader.process_weights_after_loading = counted
    llm: Any = LLM(
        str(folder),
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=CONTEXT,
        max_num_seqs=4,
        max_num_batched_tokens=BATCHED_TOKENS,
        kv_cache_memory_bytes=BYTES,
        mamba_ssm_cache_dtype="float32",  # as vLLM itself decides on CPUs with AVX-512 BF16
    )
    config = llm.llm_engine.vllm_config
    specs = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.get_kv_cache_spec()
    return {
        "weights": loaded[0],
        "blocks": config.cache_config.num_gpu_blocks,
        "tokens": config.cache_config.kv_cache_size_tokens,
        "concurrency": config.cache_config.kv_cache_max_concurrency,
        "cpu": list(_capacities(config, specs)),
        "cuda": [
            {
                "ranks": ranks,
                "dtype": dtype,
                "capacities": list(_capacities(config, as_on_cuda(config, specs, ranks, dtype))),
            }
            for ranks in RANKS
            for dtype in ("auto", "fp8")
        ],
        "mixtures": list(_mixtures(config)) if name == "llama" else [],
    }


def _save(name: str, folder: Path) -> None:
    import torch
    import transformers

    kind, fields = FAMILIES[name]
    fields = {field: value for field, value in {**SMALL, **fields}.items() if value is not None}
    torch.manual_seed(0)
    maker: Any = transformers.AutoModelForCausalLM
    maker.from_config(getattr(transformers, kind)(**fields), dtype=torch.bfloat16).save_pretrained(folder)


def as_on_cuda(config: Any, specs: Mapping[str, Any], ranks: int, dtype: str) -> dict[str, Any]:
    """The layers' specs on one of `ranks` GPUs; `config` is changed to match.

    Blocks as vLLM chooses them for FlashAttention and FlashMLA, which no CPU can run: what it would ask of them is
    answered here, the rest are its own functions.
    """
    from vllm.model_executor.models import ModelRegistry
    from vllm.platforms import current_platform
    from vllm.utils.torch_utils import STR_DTYPE_TO_TORCH_DTYPE
    from vllm.v1.attention.backend import MultipleOf
    from vllm.v1.kv_cache_interface import MambaSpec, MLAAttentionSpec, get_kv_quant_mode

    cache, model = config.cache_config, config.model_config
    config.parallel_config.tensor_parallel_size = ranks
    config.scheduler_config.async_scheduling = True
    cache.cache_dtype, cache.mamba_ssm_cache_dtype, cache.mamba_page_size_padded = dtype, "auto", None
    cache.block_size = 64 if model.use_mla else 16
    model.config_updated = False
    config.try_verify_and_update_config()  # sets a state's type where the family wants one

    class Backend:
        @staticmethod
        def get_supported_kernel_block_sizes() -> list[Any]:
            return [64 if model.use_mla else MultipleOf(16)]

        @staticmethod
        def customize_spec(spec: Any) -> Any:
            return spec

        @staticmethod
        def supports_block_size(size: int) -> bool:
            return bool(size % cache.block_size == 0)

    if model.is_hybrid:
        platform: Any = type(current_platform)
        platform._find_non_ssm_backends = classmethod(lambda _, __: [Backend])
        platform._align_hybrid_block_size(config, Backend)
    element = model.dtype if dtype == "auto" else STR_DTYPE_TO_TORCH_DTYPE[dtype]
    found = {}
    for name, spec in specs.items():
        if isinstance(spec, MambaSpec):
            kind: Any = ModelRegistry.resolve_model_cls(model.architecture, model_config=model)[0]
            found[name] = replace(
                spec,
                block_size=cache.block_size,
                shapes=tuple(kind.get_mamba_state_shape_from_config(config)),
                dtypes=tuple(kind.get_mamba_state_dtype_from_config(config)),
                page_size_padded=cache.mamba_page_size_padded,
            )
            continue
        changes = {"block_size": cache.block_size, "dtype": element, "kv_quant_mode": get_kv_quant_mode(dtype)}
        if isinstance(spec, MLAAttentionSpec):
            changes["cache_dtype_str"] = dtype
        found[name] = replace(spec, num_kv_heads=model.get_num_kv_heads(config.parallel_config), **changes)
    return found


def _mixtures(config: Any) -> Iterator[dict[str, Any]]:
    """Random layers that no family has, and what vLLM makes of them in blocks of 64 tokens."""
    from vllm.v1 import kv_cache_interface as specs

    kinds_of_specs: Mapping[str, Any] = {
        "full": specs.FullAttentionSpec,
        "latent": specs.MLAAttentionSpec,
        "sliding": specs.SlidingWindowSpec,
        "chunked": specs.ChunkedLocalAttentionSpec,
    }
    chance = random.Random(0)
    config.scheduler_config.async_scheduling = True
    for _ in range(MIXTURES):
        chunked = chance.random() < 0.2
        kinds = ("full", "chunked") if chunked else ("full", "full", "sliding", "sliding", "latent")
        layers = []
        for _ in range(chance.randint(1, 4)):
            kind = chance.choice(kinds)
            size = chance.choice((192, 576)) if kind == "latent" else chance.choice((64, 96, 128))
            heads = 1 if kind == "latent" else chance.choice((1, 2, 8))
            window = chance.choice((100, 1000)) if kind == "sliding" else 500 if kind == "chunked" else 0
            layers.append((kind, chance.randint(1, 12), heads, size, window))
        if chunked:
            layers = [
                ("full", 2, *layers[0][2:4], 0),
                *((kind, count, *layers[0][2:4], window) for kind, count, _, _, window in layers),
            ]
        config.scheduler_config.disable_hybrid_kv_cache_manager = chunked
        found: dict[str, Any] = {}
        for kind, count, heads, size, window in layers:
            common = {"block_size": 64, "num_kv_heads": heads, "head_size": size, "dtype": config.model_config.dtype}
            if kind == "sliding":
                common["sliding_window"] = window
            if kind == "chunked":
                common["attention_chunk_size"] = window
            spec = kinds_of_specs[kind](**common)
            found |= {f"model.layers.{len(found) + index}": spec for index in range(count)}
        yield {"layers": layers, "capacities": list(_capacities(config, found))}


def _capacities(config: Any, specs: Mapping[str, Any]) -> Iterator[tuple[int, int, int, int | None]]:
    """Bytes, context, blocks, and the tokens they are: None where vLLM refuses to start."""
    from vllm.v1.core import kv_cache_utils as vllm_cache

    for context in CONTEXTS:
        config.model_config.max_model_len = context
        groups = vllm_cache.get_kv_cache_groups(config, dict(specs))
        block = vllm_cache._pool_bytes_per_block(config, groups)
        needed = vllm_cache._max_memory_usage_bytes_from_groups(config, groups) + block
        for size in sorted(
            {needed - 1, needed, needed + block - 1, *(block * times + 12345 for times in (2, 20, 999))}
        ):
            try:
                found = vllm_cache.get_kv_cache_configs(config, [dict(specs)], [size])
            except ValueError:
                yield size, context, size // block, None
                continue
            whole = vllm_cache.generate_scheduler_kv_cache_config(found)
            yield size, context, whole.num_blocks, vllm_cache.get_kv_cache_capacity(config, whole)[0]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
