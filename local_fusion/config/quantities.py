"""Bytes as people write them (`2GiB`, `512 MiB`, `1.5GB`) and as we show them."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", start=1)}
_UNITS |= {f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", start=1)}
_MOST = 2**63
_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def parse_bytes(value: Any) -> int:
    """A number of bytes from an integer or a text such as `2GiB`.

    Raises `ValueError` with the accepted forms. A fraction needs a unit: `1.5` would be half a byte.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _PATTERN.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2].lower() not in _UNITS or ("." in match[1] and not match[2]):
        raise ValueError(f"expected a number of bytes such as 2GiB, 512MiB or 1073741824, not {value!r}")
    size = Fraction(match[1]) * _UNITS[match[2].lower()]
    if size > _MOST:
        raise ValueError(f"expected a number of bytes that memory can have, not {value[:20]!r}…")
    return round(size)


def format_bytes(count: float) -> str:
    """`count` bytes for people: three significant digits, binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 999.5 else f"{count:.3g} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


Bytes = Annotated[
    int,
    BeforeValidator(parse_bytes, json_schema_input_type=int | str),
    Field(gt=0, description="A number of bytes, or a text such as 2GiB."),
]
