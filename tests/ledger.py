"""A ledger of made-up memory that fake engines share: who takes more than there is is written down and killed.

A file that all of them lock. Bookings of processes that are gone count no more, as with a real driver. For the tests
it is a `MemoryProbe`, too.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Ledger:
    """The ledger in `path`; `gone` devices have vanished, as far as the driver is asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gone: set[int] = set()

    @classmethod
    def create(cls, path: Path, capacity: Mapping[int, int]) -> Ledger:
        """A new one over devices with so many bytes each."""
        content = {"capacity": {str(device): size for device, size in capacity.items()}, "booked": {}, "overdrafts": []}
        path.write_text(json.dumps(content), encoding="utf-8")
        return cls(path)

    def book(self, holds: Mapping[int, int], *, pid: int | None = None, name: str = "") -> None:
        """The process (default: this one) holds so much of each device from now on; an overdraft is its end."""
        pid = os.getpid() if pid is None else pid
        with self._open() as content:
            booked = content["booked"]
            holds_of = {str(device): size for device, size in holds.items()}
            booked[str(pid)] = {"started": _started(pid), "name": name, "holds": holds_of}
            for device, capacity in content["capacity"].items():
                taken = sum(entry["holds"].get(device, 0) for entry in booked.values())
                if taken > capacity:
                    who = name or f"process {pid}"
                    content["overdrafts"].append(
                        f"{who} took {holds_of[device]} of device {device}: {taken} of {capacity} bytes were taken then"
                    )
                    del booked[str(pid)]
                    break
            else:
                return
        os.kill(pid, signal.SIGKILL)

    def overdrafts(self) -> list[str]:
        """Who took more than there was, and how much."""
        with self._open() as content:
            return list(content["overdrafts"])

    def held(self) -> dict[int, int]:
        """Bytes of each device that living processes hold."""
        with self._open() as content:
            entries = content["booked"].values()
            return {
                int(device): sum(entry["holds"].get(device, 0) for entry in entries) for device in content["capacity"]
            }

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Nobody writes in it while in this block."""
        with self._open():
            yield

    def free_bytes(self, device: int) -> int | None:
        """See `MemoryProbe.free_bytes`."""
        from local_fusion.engines.devices import DeviceGone

        if device in self.gone:
            raise DeviceGone(f"GPU {device} has vanished: NVML says Not Found")
        with self._open() as content:
            capacity = int(content["capacity"][str(device)])
        return capacity - self.held()[device]

    def holders(self, device: int) -> tuple[Any, ...]:
        """See `MemoryProbe.holders`."""
        from local_fusion.engines.devices import Holder

        with self._open() as content:
            return tuple(
                Holder(int(pid), entry["name"], entry["holds"][str(device)])
                for pid, entry in content["booked"].items()
                if str(device) in entry["holds"]
            )

    @contextmanager
    def _open(self) -> Iterator[dict[str, Any]]:
        with self.path.open("r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            content: dict[str, Any] = json.load(file)
            content["booked"] = {
                pid: entry for pid, entry in content["booked"].items() if _started(int(pid)) == entry["started"]
            }
            yield content
            file.seek(0)
            file.truncate()
            json.dump(content, file)


def _started(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None where there is none any more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
