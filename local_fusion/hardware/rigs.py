"""Rigs on paper: `4x24GiB,1x48GiB`, `2xRTX4090,1xH200,ram=256GiB` or `cpu:64GiB`, to plan without having them."""

from __future__ import annotations

import re

from local_fusion.config.problems import nearest
from local_fusion.config.quantities import format_bytes, parse_bytes
from local_fusion.errors import ConfigError
from local_fusion.hardware.cards import CARDS, IDLE_BYTES, find_card, sizes_of
from local_fusion.hardware.devices import Device, Rig

_GIB = 1024**3
_LEAST, _MOST = _GIB, 1024 * _GIB
_MOST_OF_A_KIND, _MOST_IN_ALL, _MOST_CORES = 64, 256, 1024
_LONGEST = 1000  # characters
_CORES = 16  # of a CPU on paper; they only bound how many engines share it, not what fits
_HINT = "Write for instance 4x24GiB,1x48GiB or 2xRTX4090,1xH200,ram=256GiB or cpu:64GiB:16"

_COUNTED = re.compile(r"(?:([0-9]+)\s*[x×*]\s*)?(.+)", re.DOTALL)
_SIZE = re.compile(r"[0-9.]+\s*[kmgt]i?b", re.IGNORECASE)
_RAM = re.compile(r"ram\s*=(.*)", re.IGNORECASE | re.DOTALL)
_CPU = re.compile(r"cpu\s*:([^:]*)(?::([^:]*))?", re.IGNORECASE | re.DOTALL)


def parse_rig(spec: str, *, share: float = 0.85) -> Rig:
    """The rig that `spec` describes; its GPUs are numbered in order and make one island.

    Parts, between commas: `[COUNTx]SIZE` or `[COUNTx]CARD`, and once `ram=SIZE` for what is free in host RAM; or alone
    `cpu:SIZE[:CORES]`. A GPU's free memory is its size less what idle cards hold (`IDLE_BYTES`), and `share` of RAM is
    free for engines, as on rigs that are there. Raises `ConfigError`, with exit code 2, that names the part at fault.
    """
    if len(spec) > _LONGEST:
        raise _wrong(spec[:40] + "…", f"is longer than {_LONGEST} characters")
    parts = [part.strip() for part in spec.split(",")]
    devices: list[Device] = []
    ram: int | None = None
    for part in parts:
        if not part:
            raise _wrong(spec, "has an empty part" if len(parts) > 1 else "is empty")
        if match := _RAM.fullmatch(part):
            if ram is not None:
                raise _wrong(part, "comes after another ram=")
            ram = _size(part, match[1], most=1024 * _MOST)
        elif match := _CPU.fullmatch(part):
            if len(parts) > 1:
                raise _wrong(part, "stands alone: engines run on the CPU or on GPUs, not on both")
            return Rig((_cpu(part, match[1], match[2], share),), None, on_paper=True)
        else:
            devices += _gpus(part, first=len(devices))
            if len(devices) > _MOST_IN_ALL:
                raise _wrong(spec, f"has more than {_MOST_IN_ALL} GPUs")
    if not devices:
        raise _wrong(spec, "has no GPU")
    return Rig(tuple(devices), None if ram is None else int(ram * share), on_paper=True)


def _gpus(part: str, *, first: int) -> list[Device]:
    match = _COUNTED.fullmatch(part)
    assert match is not None  # it takes everything that is not empty
    count, what = match[1] or "1", match[2].strip()
    if len(count) > 4 or not 1 <= int(count) <= _MOST_OF_A_KIND:
        raise _wrong(part, f"expected 1 to {_MOST_OF_A_KIND} GPUs of a kind, not {count[:10]}")
    if _SIZE.fullmatch(what):
        total = _size(part, what, most=_MOST)
        name = f"{format_bytes(total)} GPU"
    elif card := find_card(what):
        total, name = card.total_bytes, card.name
    else:
        raise _wrong(part, _unknown_card(what))
    free = max(0, total - IDLE_BYTES)
    return [Device(first + number, name, "cuda", total, free) for number in range(int(count))]


def _unknown_card(what: str) -> str:
    if several := sizes_of(what):
        return f"'{what[:40]}' may be {' or '.join(card.key for card in several)}"
    near = nearest(what, [card.key for card in CARDS])
    if near is None or what[:1].isdecimal():
        return f"'{what[:40]}' is no known card, and no size with its unit, such as 24GiB"
    return f"'{what[:40]}' is no known card; did you mean {near}?"


def _cpu(part: str, size: str, cores: str | None, share: float) -> Device:
    total = _size(part, size, most=1024 * _MOST)
    count = (cores or str(_CORES)).strip()
    if not (count.isascii() and count.isdecimal() and len(count) <= 4 and 1 <= int(count) <= _MOST_CORES):
        raise _wrong(part, f"expected 1 to {_MOST_CORES} cores after the size, not '{count[:10]}'")
    return Device(0, "CPU on paper", "cpu", total, int(total * share), cores=tuple(range(int(count))))


def _size(part: str, text: str, *, most: int) -> int:
    text = text.strip()
    if not _SIZE.fullmatch(text):
        raise _wrong(part, f"expected a size with its unit, such as 64GiB, not '{text[:20]}'")
    try:
        size = parse_bytes(text)
    except ValueError as error:
        raise _wrong(part, str(error)) from None
    if not _LEAST <= size <= most:
        raise _wrong(part, f"expected {format_bytes(_LEAST)} to {format_bytes(most)}, not {format_bytes(size)}")
    return size


def _wrong(part: str, why: str) -> ConfigError:
    shown = part if len(part) <= 60 else f"{part[:60]}…"
    return ConfigError([f"in the rig, '{shown}': {why}"], hint=_HINT)
