"""The command line and environment of one vLLM server, from a placement: a pure function."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import ceil
from pathlib import Path

from local_fusion.config.quantities import format_bytes
from local_fusion.config.schema import ModelConfig
from local_fusion.planner.plan import Placement

# Nothing leaves the machine.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1"}

# An engine needs none of these; VLLM_API_KEY would even make it turn us away.
_SECRET_ENDINGS = ("_API_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "_ACCESS_KEY", "_SECRET_KEY")

# JSON without whitespace saves the judge's tokens. vLLM takes that option only with a backend named, and of the two
# that know it guidance understands more of JSON schema (xgrammar refuses multipleOf, uniqueItems, pattern with length),
# but not the tags with which vLLM 0.32 holds a model to the tools it must call ("Invalid grammar specification:
# 'triggers'").
_STRUCTURED_OUTPUTS = json.dumps({"backend": "guidance", "disable_any_whitespace": True})
_STRUCTURED_CALLS = json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})

# vLLM takes an empty list of hosts for "all of them"; this name exists nowhere (RFC 6761).
_NO_HOST = "none.invalid"

_NOMINAL_KV_BYTES = 1024**2
_SLEEP = "--enable-sleep-mode"
_DEVELOPMENT = "VLLM_SERVER_DEV_MODE"


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """A program's arguments, the program first, and its whole environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]

    @property
    def sleeps(self) -> bool:
        """Whether the engine can be told to sleep."""
        return _SLEEP in self.argv


@dataclass(frozen=True, slots=True)
class SmallerCache:
    """How to run an engine that ran out of memory: a command that takes `saved_bytes` less, and what to say of it."""

    command: EngineCommand
    saved_bytes: int
    note: str


def engine_command(
    placement: Placement,
    model: ModelConfig,
    *,
    socket: Path,
    python: str,
    environ: Mapping[str, str],
    sleeps: bool | None = None,
    media_domains: Sequence[str] = (),
) -> EngineCommand:
    """How to run vLLM for `placement`, listening on `socket`.

    `python` is the interpreter that has vLLM; `environ` is passed on without secrets and without what would overrule
    the placement. Threads of a CPU engine are bound to `placement.cores`; with no cores named, vLLM chooses. With
    `sleeps` it can be told to sleep (by default where that is what the placement does to make room). It fetches media
    from `media_domains` only, and follows no redirects.
    """
    if sleeps is None:
        sleeps = placement.asleep in ("level 1", "level 2")
    on_cpu = placement.kind == "cpu"
    eager = on_cpu if model.eager is None else model.eager
    argv = [python, "-m", "vllm.entrypoints.openai.api_server"]
    argv += ["--model", str(placement.checkpoint), "--served-model-name", placement.model, "--uds", str(socket)]
    # Without a cache (encoders) vLLM allocates nothing, but takes 0 for "not said" and would measure the whole device.
    kv_cache_bytes = placement.kv_cache_bytes or _NOMINAL_KV_BYTES
    argv += ["--kv-cache-memory-bytes", str(kv_cache_bytes), "--max-model-len", str(placement.max_model_len)]
    argv += ["--max-num-seqs", str(model.max_num_seqs), "--max-num-batched-tokens", str(placement.batched_tokens)]
    argv += ["--tensor-parallel-size", str(placement.tensor_parallel)]
    structured = _STRUCTURED_OUTPUTS if model.tool_call_parser is None else _STRUCTURED_CALLS
    argv += ["--disable-uvicorn-access-log", "--structured-outputs-config", structured]
    argv += ["--allowed-media-domains", *(media_domains or [_NO_HOST])]
    if not on_cpu:
        # With explicit KV bytes vLLM still refuses to start when less than this share of the GPU is free.
        argv += ["--gpu-memory-utilization", "0.01"]
    if eager:
        argv += ["--enforce-eager"]
    if model.dtype != "auto":
        argv += ["--dtype", model.dtype]
    if model.kv_cache_dtype != "auto":
        argv += ["--kv-cache-dtype", model.kv_cache_dtype]
    if model.quantization is not None:
        argv += ["--quantization", model.quantization]
    if model.chat_template is not None:
        argv += ["--chat-template", model.chat_template]
    if model.tool_call_parser is not None:
        argv += ["--enable-auto-tool-choice", "--tool-call-parser", model.tool_call_parser]
    if model.reasoning_parser is not None:
        argv += ["--reasoning-parser", model.reasoning_parser]
    if model.trust_remote_code:
        argv += ["--trust-remote-code"]
    if sleeps:
        argv += [_SLEEP]
    argv += model.extra_args
    env = {name: value for name, value in environ.items() if not name.endswith(_SECRET_ENDINGS)} | _OFFLINE
    # vLLM never removes the sockets between its processes; where ours is they go with the folder.
    env["VLLM_RPC_BASE_PATH"] = str(socket.parent)
    env["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] = "0"  # they would lead past the list of hosts, to internal addresses
    env.pop(_DEVELOPMENT, None)
    if sleeps:
        # Opens the paths for sleeping and waking; `moving.py` says why nobody else can use them.
        env[_DEVELOPMENT] = "1"
    if on_cpu:
        env.pop("VLLM_CPU_KVCACHE_SPACE", None)  # would win over the explicit bytes
        if placement.cores:
            env["VLLM_CPU_OMP_THREADS_BIND"] = core_list(placement.cores)
        if eager:
            # Even an eager engine compiles C++ at its first request with logprobs: 27 s, and it needs g++.
            env["TORCH_COMPILE_DISABLE"] = "1"
    else:
        # The order in which NVML counts; CUDA's own default is fastest first.
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        env["CUDA_VISIBLE_DEVICES"] = ",".join(str(device) for device in placement.devices)
    return EngineCommand(tuple(argv), env)


def smaller_cache(placement: Placement) -> Placement | None:
    """The placement with three quarters of its KV cache, but not less than one request of its context needs.

    None where that is no less.
    """
    size, requests = placement.kv_cache_bytes, placement.max_concurrent_requests
    if requests <= 1:
        return None
    smaller = max(size * 3 // 4, ceil(size / requests))
    if smaller >= size:
        return None
    return replace(placement, kv_cache_bytes=smaller, max_concurrent_requests=requests * smaller / size)


def with_smaller_cache(
    placement: Placement,
    model: ModelConfig,
    *,
    socket: Path,
    python: str,
    environ: Mapping[str, str],
    sleeps: bool | None = None,
    media_domains: Sequence[str] = (),
) -> SmallerCache | None:
    """How to run the engine after it has run out of memory; None where its KV cache cannot be smaller.

    The parameters are those of `engine_command`.
    """
    smaller = smaller_cache(placement)
    if smaller is None:
        return None
    command = engine_command(
        smaller,
        model,
        socket=socket,
        python=python,
        environ=environ,
        sleeps=sleeps,
        media_domains=media_domains,
    )
    before, after = placement.kv_cache_bytes, smaller.kv_cache_bytes
    lowered = f"KV cache lowered from {format_bytes(before)} to {format_bytes(after)} after running out of memory twice"
    return SmallerCache(command, before - after, lowered)


def core_list(cores: Iterable[int]) -> str:
    """Core ids as the kernel and vLLM write them: `0-3,8`."""
    runs = []
    for _, run in groupby(enumerate(sorted(set(cores))), key=lambda pair: pair[1] - pair[0]):
        ids = [core for _, core in run]
        runs.append(str(ids[0]) if len(ids) == 1 else f"{ids[0]}-{ids[-1]}")
    return ",".join(runs)
