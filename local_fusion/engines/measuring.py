"""Looking at a running engine: what it really holds, for the next plan."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from local_fusion.core.warden import family_of, read_process
from local_fusion.engines.client import EngineClient
from local_fusion.errors import LocalFusionError
from local_fusion.planner.memory.measured import Measurement
from local_fusion.planner.plan import Placement

_logger = logging.getLogger(__name__)

_SECONDS = 5.0
_GIB = 1024**3
# vLLM's `format_gib` rounds to a hundredth of a GiB: the true number is at most half of that away.
_LOG_ROUNDING = _GIB // 200
_LOG_BYTES = 1024**2
_LOADED = re.compile(rb"Model loading took (\d+(?:\.\d+)?) GiB")  # vllm/v1/worker/gpu_model_runner.py, load_model
_CACHE_INFO = re.compile(r"^vllm:cache_config_info\{(.*)\} ", re.MULTILINE)  # vllm/v1/metrics/loggers.py
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


async def measure(client: EngineClient, placement: Placement, *, pid: int, log: Path, activations: int) -> Measurement:
    """What the engine with the main process `pid`, just awake, takes of each device, in bytes. 5 seconds at most.

    `activations` is what its largest step takes of each device by the planner's estimate, whether or not the placement
    rests on a measurement: an engine that has not worked yet does not show it, so it is added to the residual.
    Never raises: what cannot be seen is None.
    """
    try:
        async with asyncio.timeout(_SECONDS):
            seen = await asyncio.to_thread(_seen_from_outside, placement, pid, log, activations)
            # Only now, because it also shows that the engine was alive all the while: a dying one holds too little.
            return with_cache(seen, placement, cache_info(await client.metrics()))
    except (LocalFusionError, OSError) as error:  # among them the time limit's
        _logger.info("%s does not tell what it holds: %s", placement.model, error)
        return Measurement()


async def sleeping_bytes(placement: Placement, pid: int) -> int | None:
    """What an engine that sleeps holds of each GPU, of the one where it holds most; None where that is not told."""
    return await asyncio.to_thread(_held, placement, pid) if placement.kind == "cuda" else None


def cache_info(metrics: str) -> Mapping[str, str]:
    """The labels of `vllm:cache_config_info` in an engine's metrics; none if it is not there."""
    found = _CACHE_INFO.search(metrics)
    return dict(_LABEL.findall(found[1])) if found else {}


def with_cache(measurement: Measurement, placement: Placement, info: Mapping[str, str]) -> Measurement:
    """`measurement` with the KV cache that `info` tells of, if that belongs to the placement's context.

    vLLM reports tokens as ⌊concurrency x context⌋ (`get_kv_cache_capacity` in vllm/v1/core/kv_cache_utils.py). If that
    does not come out, the model's own arguments for vLLM have changed the context, and the tokens mean another one.
    """
    try:
        tokens, size = int(info["kv_cache_size_tokens"]), int(info["kv_cache_memory_bytes"])
        concurrency = float(info["kv_cache_max_concurrency"])
    except (KeyError, ValueError):  # another version of vLLM, or "None": a model without a KV cache
        return measurement
    if int(concurrency * placement.max_model_len) != tokens:
        return measurement
    return replace(measurement, kv_cache_bytes=size, kv_tokens=tokens, max_model_len=placement.max_model_len)


def loaded_bytes(log: bytes) -> int | None:
    """The weights of one rank as vLLM logs them, rounded to 0.01 GiB, the largest of all ranks; None if it does not.

    vLLM logs it on GPUs only.
    """
    found = [float(size) for size in _LOADED.findall(log)]
    return round(max(found) * _GIB) if found else None


def contradicting(loaded: int | None, placement: Placement) -> int | None:
    """The weights if what vLLM loaded cannot be what was planned, then rounded up; None where the plan may be right.

    vLLM counts buffers of its own with the weights. Once a residual is known they are part of that, and no longer known
    apart: the start that showed it has judged the weights, too.
    """
    if loaded is None or placement.overhead.measured:
        return None
    least, most = loaded - _LOG_ROUNDING, loaded + _LOG_ROUNDING
    if least <= placement.weights_bytes + placement.overhead.buffers and placement.weights_bytes <= most:
        return None
    return most


def resident_bytes(processes: Iterable[tuple[str, str]]) -> int | None:
    """The RAM that processes need together, from the texts of `smaps_rollup` and `status` of each, in bytes.

    Their own and shared memory, swapped out or not, counts in proportion (a page that three processes share counts
    once); mapped files count as the process that maps most of them sees it: they all map the same libraries, and what
    of these the engines beside it map too must not make this one look smaller. None if a text lacks a number.
    """
    own, files = 0, 0
    try:
        for rollup, status in processes:
            own += sum(_kib(rollup, name) for name in ("Pss_Anon", "Pss_Shmem", "SwapPss"))
            files = max(files, _kib(status, "RssFile"))
    except KeyError:
        return None
    return (own + files) * 1024 if own else None


def _kib(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise KeyError(name)
    return int(found[1])


def _seen_from_outside(placement: Placement, pid: int, log: Path, activations: int) -> Measurement:
    weights = contradicting(loaded_bytes(_tail(log)), placement)
    held = _held(placement, pid)
    known = (placement.weights_bytes if weights is None else weights) + placement.kv_cache_bytes
    if held is None or held <= known:  # so much was certainly allocated: what was looked at is not the whole engine
        return Measurement(weights_bytes=weights)
    # The start runs the largest step once (`profile_run`), but capturing CUDA graphs gives that memory back
    # (`empty_cache` in `capture_model`), and without graphs the KV cache may lie in it. On the CPU an eager engine runs
    # no such step (`_should_warm_up_model` in vllm/v1/worker/cpu_worker.py), and nobody keeps what was freed. So what
    # is held now may be all that the next steps find: their memory is counted on top.
    return Measurement(weights_bytes=weights, residual_bytes=held - known + activations)


def _held(placement: Placement, pid: int) -> int | None:
    """Bytes that the engine's family holds of each device, of the one where it holds most."""
    process = read_process(pid)
    if process is None:
        return None
    family = family_of(process.session)  # led by the warden
    if placement.kind == "cuda":
        return _held_of_gpus(placement.devices, frozenset(family))
    # Ranks on one CPU share its RAM, so the share of one is not to be seen. The KV cache is filled with zeros at the
    # start (`allocate_kv_cache` in vllm/v1/worker/utils.py), hence all of it is resident from then on.
    return _held_of_ram(family) if placement.tensor_parallel == 1 else None


def _held_of_ram(family: Iterable[int]) -> int | None:
    try:
        return resident_bytes([texts for pid in family if (texts := _memory_texts(pid)) is not None])
    except PermissionError:
        return None


def _memory_texts(pid: int) -> tuple[str, str] | None:
    """The process's `smaps_rollup` and `status`; None if it has ended meanwhile."""
    folder = Path("/proc") / str(pid)
    try:
        # A process's name may hold any bytes.
        return (folder / "smaps_rollup").read_text(), (folder / "status").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None


def _held_of_gpus(devices: Iterable[int], family: frozenset[int]) -> int | None:
    """None where NVML does not tell one of the devices' processes, or not by the pids that we see (in containers)."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        most = 0
        for device in devices:
            processes = pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByIndex(device))
            sizes: list[int | None] = [process.usedGpuMemory for process in processes if process.pid in family]
            known = [size for size in sizes if size is not None]
            if not known or len(known) < len(sizes):
                return None
            most = max(most, sum(known))
        return most
    except pynvml.NVMLError:
        return None
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _tail(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_BYTES))
            return file.read()
    except OSError:
        return b""
