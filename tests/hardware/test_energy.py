"""Energy: what devices count themselves, and nothing guessed where they do not."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from local_fusion.hardware.energy import EnergyMeter


@dataclass
class FakeNvml:
    """NVML over GPUs that have used so many mJ since their driver was loaded; None: they do not count."""

    used: list[int | None]
    open: int = 0

    class NVMLError(Exception):
        pass

    missing: bool = field(default=False)

    def nvmlInit(self) -> None:
        if self.missing:
            raise self.NVMLError("NVML Shared Library Not Found")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.used)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        used = self.used[handle]
        if used is None:
            raise self.NVMLError("Not Supported")
        return used


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml([5_000_000, 7_000_000])
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def zone(powercap: Path, path: str, name: str, used: int, most: int = 262_143_328_850) -> Path:
    """A RAPL zone that has counted `used` µJ, and begins again at `most`."""
    folder = powercap / path
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{used}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder / "energy_uj"


def test_gpus_and_cpus_are_counted_from_the_beginning(nvml: FakeNvml, tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 500_000)
    meter = EnergyMeter(tmp_path)
    nvml.used = [5_001_500, 7_000_000]
    package.write_text("3500000")
    memory.write_text("750000")
    energy = meter.close()
    assert energy.joules == {"GPU 0": 1.5, "GPU 1": 0.0, "CPU 0": 2.5, "memory of CPU 0": 0.25}
    assert energy.not_measured == ()
    assert nvml.open == 0


def test_parts_of_a_package_and_the_platform_around_it_are_not_counted_twice(nvml: FakeNvml, tmp_path: Path) -> None:
    for path, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:1", "psys")):
        zone(tmp_path, path, name, 1)
    assert [name for name in EnergyMeter(tmp_path).close().joules if "CPU" in name] == ["CPU 0"]


def test_a_counter_that_begins_anew_goes_on_counting(nvml: FakeNvml, tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 9_000_000, most=10_000_000)
    meter = EnergyMeter(tmp_path)
    for used in (1_000_000, 9_500_000, 500_000):  # 2 + 8.5 + 1 J
        counter.write_text(str(used))
        meter.sample()
    assert meter.close().joules["CPU 0"] == pytest.approx(11.5)


def test_what_does_not_count_is_named_with_the_reason(nvml: FakeNvml, tmp_path: Path) -> None:
    nvml.used = [None, 1000]
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    meter = EnergyMeter(tmp_path)
    nvml.used[1] = 3000
    counter.unlink()
    energy = meter.close()
    assert energy.joules == {"GPU 1": 2.0}
    assert energy.not_measured == (
        "GPU 0: it does not count energy (Not Supported)",
        f"CPU 0: {counter} cannot be read (No such file or directory)",
    )


def test_what_was_lost_on_the_way_is_not_guessed(nvml: FakeNvml, tmp_path: Path) -> None:
    meter = EnergyMeter(tmp_path)
    nvml.used = [10, 7_000_500]  # the driver of the first was loaded again
    energy = meter.close()
    assert energy.joules == {"GPU 1": 0.5}
    assert any(told.startswith("GPU 0: its driver was loaded again") for told in energy.not_measured)


def test_a_machine_without_counters_measures_nothing(nvml: FakeNvml, tmp_path: Path) -> None:
    nvml.missing = True
    energy = EnergyMeter(tmp_path).close()
    assert energy.joules == {}
    assert len(energy.not_measured) == 2
    assert "NVML Shared Library Not Found" in energy.not_measured[0]


def test_a_meter_that_is_closed_counts_no_more(nvml: FakeNvml, tmp_path: Path) -> None:
    meter = EnergyMeter(tmp_path)
    meter.close()
    nvml.used = [6_000_000, 8_000_000]
    meter.sample()
    assert meter.close().joules == {}
    assert nvml.open == 0
