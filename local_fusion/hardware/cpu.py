"""The CPU and its RAM as one device, within the limits of our control group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from local_fusion.errors import SetupError
from local_fusion.hardware.devices import Device

_ROOT = Path("/")


def cpu_device(*, share: float = 0.85, root: Path = _ROOT) -> Device:
    """The CPU device: total RAM (or the control group's limit), `share` of what is free, the cores we may run on.

    `root` is where `proc` and `sys` are. Raises `SetupError` if /proc/meminfo cannot be read.
    """
    total, available = _memory(root)
    return Device(
        index=0,
        name=_cpu_name(root / "proc/cpuinfo"),
        kind="cpu",
        total_bytes=total,
        free_bytes=int(available * share),
        cores=tuple(sorted(os.sched_getaffinity(0))),
    )


def free_ram(*, share: float = 0.85, root: Path = _ROOT) -> int | None:
    """`share` of the RAM that is free within our control group's limits, in bytes; None if that is not told."""
    try:
        return int(_memory(root)[1] * share)
    except SetupError:
        return None


def _memory(root: Path) -> tuple[int, int]:
    """Total and available bytes, within the limits of our control groups."""
    memory = _meminfo(root / "proc/meminfo")
    total, available = memory["MemTotal"], memory["MemAvailable"]
    for limit, used in _limits(root):
        total, available = min(total, limit), min(available, max(0, limit - used))
    return total, available


def _meminfo(file: Path) -> dict[str, int]:
    """MemTotal and MemAvailable in bytes."""
    fields: dict[str, int] = {}
    try:
        for line in file.read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("MemTotal", "MemAvailable"):
                fields[name] = int(rest.split()[0]) * 1024
        return {"MemTotal": fields["MemTotal"], "MemAvailable": fields["MemAvailable"]}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise SetupError(
            f"{file} does not tell how much memory there is ({type(error).__name__}: {error})",
            hint="local-fusion runs on Linux 3.14 or later with /proc mounted",
        ) from None


def _cpu_name(file: Path) -> str:
    try:
        for line in file.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    except OSError:
        pass
    return "CPU"


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) in bytes of each control group that we are in; a parent's limit binds as well."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    folders: tuple[Path, ...]
    mount = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            names = ("memory.max", "memory.current", "")
            folders = (mount, mount / "unified")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            folders = (mount / "memory",)
        else:
            continue
        for folder in folders:
            # In a container the path may be the host's while our own group is mounted at the top: look at all levels.
            group = folder / path.strip("/")
            for level in (group, *group.parents):
                found = _read_limit(level, *names)
                if found is not None:
                    yield found
                if level == folder:
                    break


def _read_limit(folder: Path, limit_name: str, usage_name: str, prefix: str) -> tuple[int, int] | None:
    try:
        limit = int((folder / limit_name).read_text())
        used = int((folder / usage_name).read_text())
    except (OSError, ValueError):  # no such group, or the limit is "max"
        return None
    return limit, max(0, used - _file_pages(folder / "memory.stat", prefix))


def _file_pages(file: Path, prefix: str) -> int:
    """Bytes of the page cache: counted as used, but given back under pressure (MemAvailable counts them as free)."""
    wanted = (f"{prefix}active_file", f"{prefix}inactive_file")
    try:
        fields = dict(line.split(maxsplit=1) for line in file.read_text().splitlines())
        return sum(int(fields.get(name, 0)) for name in wanted)
    except (OSError, ValueError):
        return 0
