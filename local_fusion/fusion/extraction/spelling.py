"""One spelling for each answer, so that answers compare by equality."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

MOST_DIGITS = 400

NUMBER = re.compile(r"(?<![\w.])(?<![A-Za-z][-+−])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w])")


class GivenUp(Exception):
    """Looking for an answer took too long, or cannot be done at all; says why."""


def canonical_number(number: str) -> str | None:
    """One spelling for each value: `1,000.50` is `1000.5`, `42.0` is `42`; None for what is no number."""
    try:
        value = Decimal(number.replace(",", "").replace("−", "-"))
    except InvalidOperation:
        return None
    if not value.is_finite():
        return None
    if value == 0:
        return "0"
    # Zeros are stripped as text: arithmetic on decimals rounds to 28 digits.
    sign, digits, exponent = value.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    kept = text.rstrip("0")
    exponent = int(exponent) + len(text) - len(kept)
    minus = "-" if sign else ""
    if abs(value.adjusted()) > MOST_DIGITS:  # written out, `1e999999` would be a million digits
        return f"{minus}{kept}e{exponent}"
    if exponent >= 0:
        return f"{minus}{kept}{'0' * exponent}"
    kept = kept.rjust(1 - exponent, "0")
    return f"{minus}{kept[:exponent]}.{kept[exponent:]}"


def last_number(text: str) -> str | None:
    """The last number in `text`."""
    found = None
    for found in NUMBER.finditer(text):  # noqa: B007  only the last one counts
        pass
    return canonical_number(found[0]) if found is not None else None


def folded(text: str) -> str | None:
    """Case, spaces and closing punctuation do not make two answers different; None where nothing else is there."""
    return " ".join(text.casefold().split()).strip(" .!*\"'`") or None
