"""Which GPUs are near each other, as NVML tells it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any


def islands(pynvml: Any, handles: Sequence[Any]) -> list[int]:
    """The island of each GPU: connected by NVLink, or by PCIe within one NUMA node, directly or over others.

    GPUs of which NVML does not tell how they are connected (old drivers, some containers) count as near: nothing is
    forbidden that may work. Islands are numbered from 0 in the order of `handles`. Never raises.
    """
    found = list(range(len(handles)))
    for second in range(len(handles)):
        for first in range(second):
            if found[first] != found[second] and _near(pynvml, handles[first], handles[second]):
                old, new = found[second], found[first]
                found = [new if island == old else island for island in found]
    numbers: dict[int, int] = {}
    return [numbers.setdefault(island, len(numbers)) for island in found]


def _near(pynvml: Any, first: Any, second: Any) -> bool:
    # AttributeError: a pynvml that is older than the function.
    unknown = (pynvml.NVMLError, AttributeError)
    with suppress(*unknown):
        status = pynvml.nvmlDeviceGetP2PStatus(first, second, pynvml.NVML_P2P_CAPS_INDEX_NVLINK)
        if status == pynvml.NVML_P2P_STATUS_OK:
            return True
    with suppress(*unknown):
        ancestor = pynvml.nvmlDeviceGetTopologyCommonAncestor(first, second)
        return bool(ancestor < pynvml.NVML_TOPOLOGY_SYSTEM)
    return True
