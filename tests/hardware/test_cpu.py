"""The CPU as a device, seen through a made-up /proc and /sys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from local_fusion.errors import SetupError
from local_fusion.hardware.cpu import cpu_device, free_ram

GIB = 1024**3


def machine(root: Path, *, total: int = 64 * GIB, available: int = 40 * GIB, groups: str = "") -> Path:
    write(root / "proc/meminfo", f"MemTotal: {total // 1024} kB\nMemFree: 1 kB\nMemAvailable: {available // 1024} kB\n")
    write(root / "proc/cpuinfo", "processor : 0\nmodel name\t: Fast CPU 9000\n")
    write(root / "proc/self/cgroup", groups)
    return root


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_without_limits_a_share_of_the_available_memory_is_free(tmp_path: Path) -> None:
    device = cpu_device(share=0.5, root=machine(tmp_path))
    assert (device.index, device.name, device.kind) == (0, "Fast CPU 9000", "cpu")
    assert (device.total_bytes, device.free_bytes) == (64 * GIB, 20 * GIB)
    assert device.cores == tuple(sorted(os.sched_getaffinity(0)))


def test_a_version_2_control_group_limits_the_memory_and_its_page_cache_counts_as_free(tmp_path: Path) -> None:
    group = machine(tmp_path, groups="0::/user/app\n") / "sys/fs/cgroup/user/app"
    write(group / "memory.max", f"{16 * GIB}\n")
    write(group / "memory.current", f"{10 * GIB}\n")
    write(group / "memory.stat", f"anon {7 * GIB}\ninactive_file {2 * GIB}\nactive_file {1 * GIB}\n")
    device = cpu_device(share=1, root=tmp_path)
    assert (device.total_bytes, device.free_bytes) == (16 * GIB, 9 * GIB)


def test_a_parent_group_binds_too_and_max_means_no_limit(tmp_path: Path) -> None:
    group = machine(tmp_path, groups="0::/user/app\n") / "sys/fs/cgroup/user/app"
    write(group / "memory.max", "max\n")
    write(group / "memory.current", "5\n")
    write(group.parent / "memory.max", f"{8 * GIB}\n")
    write(group.parent / "memory.current", f"{6 * GIB}\n")
    assert cpu_device(share=1, root=tmp_path).free_bytes == 2 * GIB


def test_a_version_1_group_is_found_even_if_only_the_top_is_mounted(tmp_path: Path) -> None:
    root = machine(tmp_path, groups="3:cpuset:/x\n4:cpu,memory:/docker/abc\n0::/\n")
    write(root / "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{4 * GIB}")
    write(root / "sys/fs/cgroup/memory/memory.usage_in_bytes", f"{3 * GIB}")
    write(root / "sys/fs/cgroup/memory/memory.stat", f"total_inactive_file {1 * GIB}\ninactive_file 0\n")
    assert cpu_device(share=1, root=root).free_bytes == 2 * GIB


def test_a_version_1_group_without_a_limit_changes_nothing(tmp_path: Path) -> None:
    root = machine(tmp_path, groups="4:memory:/a\n")
    write(root / "sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n")
    write(root / "sys/fs/cgroup/memory/a/memory.usage_in_bytes", f"{60 * GIB}\n")
    assert cpu_device(share=1, root=root).free_bytes == 40 * GIB


def test_a_group_over_its_limit_has_nothing_free_rather_than_less(tmp_path: Path) -> None:
    root = machine(tmp_path, groups="0::/\n")
    write(root / "sys/fs/cgroup/memory.max", f"{1 * GIB}")
    write(root / "sys/fs/cgroup/memory.current", f"{2 * GIB}")
    assert cpu_device(share=1, root=root).free_bytes == 0


def test_a_machine_that_does_not_tell_its_memory_is_a_setup_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="does not tell how much memory there is"):
        cpu_device(root=tmp_path)
    write(machine(tmp_path) / "proc/meminfo", "MemTotal: many kB\n")
    with pytest.raises(SetupError):
        cpu_device(root=tmp_path)


def test_room_for_sleeping_engines_is_a_share_of_the_same_memory_or_unknown(tmp_path: Path) -> None:
    assert free_ram(root=tmp_path) is None
    root = machine(tmp_path, groups="0::/\n")
    write(root / "sys/fs/cgroup/memory.max", f"{8 * GIB}")
    write(root / "sys/fs/cgroup/memory.current", f"{2 * GIB}")
    assert free_ram(share=0.5, root=root) == 3 * GIB


def test_this_machine_can_be_probed() -> None:
    device = cpu_device()
    assert 0 < device.free_bytes < device.total_bytes
