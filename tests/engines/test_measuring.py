"""Looking at running engines: fake ones on the CPU and on made-up GPUs, and texts as vLLM and Linux write them."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from local_fusion.engines import measuring
from local_fusion.engines.client import EngineClient
from local_fusion.engines.command import EngineCommand
from local_fusion.engines.host import EngineProcess
from local_fusion.engines.measuring import (
    cache_info,
    contradicting,
    loaded_bytes,
    measure,
    resident_bytes,
    with_cache,
)
from local_fusion.engines.runtime_folder import RuntimeFolder
from local_fusion.planner.memory.measured import Measurement
from local_fusion.planner.memory.need import Overhead
from local_fusion.planner.plan import Placement
from tests.conftest import placement
from tests.engines.waiting import eventually
from tests.fake_engine import FakeHost, Script

MIB, GIB = 1024**2, 1024**3

# From vLLM 0.32 on the CPU, with the labels that do not matter left out: 128 MiB for SmolLM2 at a context of 2,048.
METRICS = """# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{_block_size_resolved="True",block_size="128",engine="0",kv_cache_dtype_skip_layers="[]",\
kv_cache_max_concurrency="2.8125",kv_cache_memory_bytes="134217728",kv_cache_size_tokens="5760",\
num_gpu_blocks="45",sliding_window="None"} 1.0
"""
SEEN = Measurement(kv_cache_bytes=128 * MIB, kv_tokens=5760, max_model_len=2048)
LOG = (
    b"(EngineCore pid=7) INFO 11-24 06:09:26 [gpu_model_runner.py:5149] "
    b"Model loading took %s GiB memory and 2.514332 seconds\n"
)


def placed(**changes: Any) -> Placement:
    """A placement without weights, so that anything at all that its engine holds is beside them."""
    own = {"kv_cache_bytes": 0, "weights_bytes": 0, "overhead": Overhead(process=GIB), "max_model_len": 2048}
    return placement(**{**own, "max_concurrent_requests": 2.8, **changes})


# --- what vLLM says ---


def test_the_size_of_the_kv_cache_is_read_from_the_metrics_of_vllm() -> None:
    assert with_cache(Measurement(residual_bytes=1), placed(), cache_info(METRICS)) == replace(SEEN, residual_bytes=1)


def test_labels_may_hold_anything_that_prometheus_escapes() -> None:
    assert cache_info('vllm:cache_config_info{a="x\\"}, b=\\"1",b="2"} 1.0\n') == {"a": 'x\\"}, b=\\"1', "b": "2"}


@pytest.mark.parametrize(
    "metrics",
    [
        "",
        'vllm:num_requests_running{engine="0"} 0.0\n',
        METRICS.replace('tokens="5760"', 'tokens="None"'),
        METRICS.replace("kv_cache_size_tokens", "kv_cache_size"),
        METRICS.replace("2.8125", "None"),
    ],
    ids=["nothing", "other metrics", "no KV cache", "another name", "no concurrency"],
)
def test_what_vllm_does_not_say_stays_unknown(metrics: str) -> None:
    assert with_cache(Measurement(), placed(), cache_info(metrics)) == Measurement()


def test_tokens_of_another_context_than_was_planned_are_not_taken_for_it() -> None:
    assert with_cache(Measurement(), placed(max_model_len=4096), cache_info(METRICS)) == Measurement()


@pytest.mark.parametrize(
    ("log", "loaded"),
    [
        (LOG % b"14.99", round(14.99 * GIB)),
        (LOG % b"7.5" + LOG % b"7.52", round(7.52 * GIB)),
        (b"Loading weights took 1.14 seconds", None),
        (b"\xff\x00", None),
        (b"", None),
    ],
    ids=["one rank", "the largest rank", "on the CPU", "not text", "no log"],
)
def test_loaded_weights_are_read_from_the_log_of_vllm(log: bytes, loaded: int | None) -> None:
    assert loaded_bytes(log) == loaded


@pytest.mark.parametrize(
    ("loaded", "weights", "buffers", "told"),
    [
        (round(10.00 * GIB), 10 * GIB - 4 * MIB, 0, False),
        (round(10.00 * GIB), 10 * GIB + 4 * MIB, 0, False),
        (round(10.06 * GIB), 10 * GIB, 64 * MIB, False),
        (round(10.06 * GIB), 10 * GIB, 0, True),
        (round(9.50 * GIB), 10 * GIB, 0, True),
    ],
    ids=["rounded up", "rounded down", "vLLM's own buffers", "more was loaded", "less was loaded"],
)
def test_rounded_weights_count_only_where_the_exact_ones_cannot_be_true(
    loaded: int, weights: int, buffers: int, told: bool
) -> None:
    found = contradicting(loaded, placed(weights_bytes=weights, overhead=Overhead(buffers=buffers)))
    assert (found is not None) == told
    assert found is None or 0 < found - loaded <= 0.005 * GIB + 1


def test_weights_are_judged_once_and_not_again_when_buffers_are_part_of_a_measured_residual() -> None:
    later = placed(weights_bytes=10 * GIB, overhead=Overhead(measured=GIB))
    assert contradicting(round(10.06 * GIB), later) is None
    assert contradicting(None, placed()) is None


# --- what Linux says ---


def process(anon: int, shmem: int, files: int, swapped: int = 0) -> tuple[str, str]:
    """`smaps_rollup` and `status` of a process, from KiB."""
    rollup = (
        f"55d0 [rollup]\nRss:  {anon + shmem + files} kB\nPss:  1 kB\nPss_Anon:  {anon} kB\n"
        f"Pss_Shmem:  {shmem} kB\nSwapPss:  {swapped} kB\n"
    )
    return rollup, f"Name:\tRssFile: 9 kB\nVmRSS:\t 1 kB\nRssFile:\t {files} kB\n"


def test_processes_hold_their_own_and_shared_memory_and_together_the_files_that_one_of_them_maps() -> None:
    processes = [process(1000, 50, 200), process(400, 50, 120, swapped=7)]
    assert resident_bytes(processes) == (1000 + 400 + 50 + 50 + 7 + 200) * 1024


@pytest.mark.parametrize(
    "processes",
    [[], [("", "")], [process(1, 1, 1), ("Pss: 7 kB\n", "VmRSS: 7 kB\n")]],
    ids=["none", "empty", "old Linux"],
)
def test_memory_that_linux_does_not_tell_stays_unknown(processes: list[tuple[str, str]]) -> None:
    assert resident_bytes(processes) is None


# --- engines on the CPU ---


@asynccontextmanager
async def running(
    host: FakeHost, folder: RuntimeFolder, script: Script
) -> AsyncIterator[tuple[EngineClient, EngineProcess]]:
    socket = folder.socket("qwen")
    socket.unlink(missing_ok=True)
    host.scripts["qwen"] = script
    argv = ("python", "-m", "vllm", "--uds", str(socket), "--served-model-name", "qwen")
    process = await host.start(EngineCommand(argv, dict(os.environ)), name="qwen", log=folder.log("qwen"))
    client = EngineClient(socket, "qwen")
    try:
        await eventually(socket.exists)
        yield client, process
    finally:
        await client.aclose()
        await process.stop(0.5)


async def test_an_engine_on_the_cpu_shows_its_cache_and_what_all_of_its_processes_hold(
    fake_host: FakeHost, runtime_folder: RuntimeFolder, tmp_path: Path
) -> None:
    log = runtime_folder.log("qwen")
    async with running(fake_host, runtime_folder, Script(metrics=METRICS)) as (client, process):
        alone = await measure(client, placed(), pid=process.pid, log=log, activations=0)
        busy = await measure(client, placed(), pid=process.pid, log=log, activations=7 * GIB)
        less = placed(weights_bytes=MIB, kv_cache_bytes=2 * MIB)
        beside = await measure(client, less, pid=process.pid, log=log, activations=0)
    assert alone.residual_bytes
    assert busy.residual_bytes
    assert beside.residual_bytes
    assert alone == replace(SEEN, residual_bytes=alone.residual_bytes)
    assert 10 * MIB < alone.residual_bytes < GIB
    assert busy.residual_bytes - alone.residual_bytes == pytest.approx(7 * GIB, abs=MIB)
    assert alone.residual_bytes - beside.residual_bytes == pytest.approx(3 * MIB, abs=MIB)

    child = str(tmp_path / "child")
    async with running(fake_host, runtime_folder, Script(grandchild=child)) as (client, process):
        family = await measure(client, placed(), pid=process.pid, log=log, activations=0)
    assert family.residual_bytes
    assert family.residual_bytes - alone.residual_bytes > 2 * MIB


@pytest.mark.parametrize(
    "placement",
    [placed(weights_bytes=100 * GIB), placed(kv_cache_bytes=100 * GIB), placed(tensor_parallel=2)],
    ids=["less than the weights", "less than the KV cache", "several ranks in one RAM"],
)
async def test_a_residual_that_cannot_be_told_from_the_rest_stays_unknown(
    placement: Placement, fake_host: FakeHost, runtime_folder: RuntimeFolder
) -> None:
    async with running(fake_host, runtime_folder, Script(metrics=METRICS)) as (client, process):
        found = await measure(client, placement, pid=process.pid, log=Path("/none"), activations=GIB)
    assert found == SEEN


async def test_an_engine_that_is_gone_shows_nothing_and_nothing_is_raised(
    fake_host: FakeHost, runtime_folder: RuntimeFolder
) -> None:
    async with running(fake_host, runtime_folder, Script()) as (_, process):
        pass
    client = EngineClient(runtime_folder.socket("qwen"), "qwen")
    found = await measure(client, placed(), pid=process.pid, log=runtime_folder.log("qwen"), activations=GIB)
    await client.aclose()
    assert found == Measurement()


async def test_an_engine_that_does_not_answer_is_not_waited_for_and_not_trusted(
    fake_host: FakeHost, runtime_folder: RuntimeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_SECONDS", 0.3)
    async with running(fake_host, runtime_folder, Script(hang=True)) as (client, process):
        found = await measure(client, placed(), pid=process.pid, log=Path("/none"), activations=0)
    assert found == Measurement()


# --- engines on GPUs ---


class NVMLError(Exception):
    pass


@dataclass
class Used:
    pid: int
    usedGpuMemory: int | None


@dataclass
class Nvml:
    """Stands in for the module `pynvml`: the processes of each GPU."""

    cards: list[list[Used]] = field(default_factory=list)
    failing: str = ""
    open: int = 0

    NVMLError = NVMLError

    def nvmlInit(self) -> None:
        self._called("init")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> list[Used]:
        self._called("handle")
        return self.cards[index]

    def nvmlDeviceGetComputeRunningProcesses(self, card: list[Used]) -> list[Used]:
        self._called("processes")
        return card

    def _called(self, what: str) -> None:
        if self.failing == what:
            raise NVMLError(what)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nvml]:
    fake = Nvml()
    module: Any = fake
    as_module: ModuleType = module
    monkeypatch.setitem(sys.modules, "pynvml", as_module)
    yield fake
    assert fake.open == 0, "NVML was not shut down"


@pytest.fixture
async def engine(
    fake_host: FakeHost, runtime_folder: RuntimeFolder
) -> AsyncIterator[tuple[EngineClient, EngineProcess]]:
    async with running(fake_host, runtime_folder, Script(metrics=METRICS)) as running_engine:
        yield running_engine


ON_GPUS = placed(
    kind="cuda", devices=(2, 0), tensor_parallel=2, weights_bytes=4 * GIB, kv_cache_bytes=2 * GIB, overhead=Overhead()
)
STRANGER = Used(1, 9 * GIB)  # no engine is ever the init process


async def test_the_residual_on_gpus_is_what_the_family_holds_beside_weights_and_cache_where_it_holds_most(
    nvml: Nvml, engine: tuple[EngineClient, EngineProcess]
) -> None:
    client, process = engine
    ours = process.pid
    nvml.cards = [[STRANGER, Used(ours, 7 * GIB)], [], [Used(ours, 5 * GIB), STRANGER, Used(ours, 3 * GIB)]]
    found = await measure(client, ON_GPUS, pid=ours, log=Path("/none"), activations=MIB)
    assert found == replace(SEEN, residual_bytes=2 * GIB + MIB)


async def test_weights_that_the_log_contradicts_are_replaced_and_the_sum_stays_what_was_seen(
    nvml: Nvml, engine: tuple[EngineClient, EngineProcess], tmp_path: Path
) -> None:
    client, process = engine
    log = tmp_path / "log"
    log.write_bytes(LOG % b"4.50")
    nvml.cards = [[Used(process.pid, 7 * GIB)], [], [Used(process.pid, 7 * GIB)]]
    found = await measure(client, ON_GPUS, pid=process.pid, log=log, activations=0)
    assert found.weights_bytes
    assert found.residual_bytes
    assert found.weights_bytes == pytest.approx(4.505 * GIB, abs=MIB)
    assert found.weights_bytes + 2 * GIB + found.residual_bytes == 7 * GIB


async def test_gpus_whose_driver_hides_the_processes_leave_the_residual_unknown(
    nvml: Nvml, engine: tuple[EngineClient, EngineProcess]
) -> None:
    client, process = engine
    ours = Used(process.pid, 7 * GIB)
    for cards in ([[ours], [], [STRANGER]], [[ours], [], []], [[ours], [], [ours, Used(process.pid, None)]]):
        nvml.cards = cards
        assert await measure(client, ON_GPUS, pid=process.pid, log=Path("/none"), activations=0) == SEEN


@pytest.mark.parametrize("failing", ["init", "handle", "processes"])
async def test_a_driver_that_does_not_answer_leaves_the_residual_unknown(
    failing: str, nvml: Nvml, engine: tuple[EngineClient, EngineProcess]
) -> None:
    client, process = engine
    nvml.cards = [[Used(process.pid, 7 * GIB)]] * 3
    nvml.failing = failing
    assert await measure(client, ON_GPUS, pid=process.pid, log=Path("/none"), activations=0) == SEEN


async def test_without_the_nvml_package_the_residual_stays_unknown(
    monkeypatch: pytest.MonkeyPatch, engine: tuple[EngineClient, EngineProcess]
) -> None:
    client, process = engine
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert await measure(client, ON_GPUS, pid=process.pid, log=Path("/none"), activations=0) == SEEN
