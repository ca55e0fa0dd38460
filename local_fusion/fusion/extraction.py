"""What a candidate's answer is, for votes: extracted exactly, never by similarity (41, 42 and 43 are three answers)."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

MOST_DIGITS = 400

_NUMBER = re.compile(r"(?<![\w.])(?<![A-Za-z][-+−])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w])")
_ANSWER = re.compile(r"(?:final answer|answer)\s*(?:is\s*:?|[:=])\s*(.+)", re.IGNORECASE)
_CHOICE_STATED = re.compile(
    r"\b(?i:answer|choice|option)\b(?i:\s+is)?\s*[:=]?\s*\**\(?(?:([A-Z])(?![\w'])|([a-z])(?=[).,*]|\s*$))",
    re.MULTILINE,
)
_CHOICE_ALONE = re.compile(r"(?<![\w'])\(?([A-Z])\)?(?=[\s).:,*]|$)")


def extract(text: str, how: str) -> str | None:
    """The answer in `text` in a form that compares by equality, or None where there is none.

    `how` is `number`, `choice`, `text`, `regex:PATTERN` or `auto` (see `VoteConfig.extract`).
    """
    kind, _, pattern = how.partition(":")
    match kind:
        case "number":
            return _last_number(text)
        case "choice":
            return _choice(text)
        case "regex":
            return _last_match(text, pattern)
        case "text":
            return _folded(text)
        case _:
            return _auto(text)


def _auto(text: str) -> str | None:
    """`\\boxed{…}`, else what follows "answer:", else the last number, else the whole text."""
    if (boxed := _boxed(text)) is not None:
        return _canonical(boxed.strip(" $")) or _folded(boxed)
    if answers := _ANSWER.findall(text):
        return _stated(answers[-1])
    return _last_number(text) or _folded(text)


def _stated(answer: str) -> str | None:
    """What follows "answer:": the number it begins with, or the words (`1/2` and `10:30` are no plain numbers)."""
    first = _NUMBER.match(answer := answer.strip(" $*"))
    if first is not None and not re.match(r"\s*[/:^*×x+=-]|\s*\d", answer[first.end() :]):
        return _canonical(first[0])
    return _folded(answer) if first is not None else _last_number(answer) or _folded(answer)


def _boxed(text: str) -> str | None:
    """The content of the last `\\boxed{…}`, with its inner braces."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for position in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position]
    return None


def _last_number(text: str) -> str | None:
    found = _NUMBER.findall(text)
    return _canonical(found[-1]) if found else None


def _canonical(number: str) -> str | None:
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


def _choice(text: str) -> str | None:
    """The last letter stated as the answer, else the last letter that stands alone (not the article "A" or "I")."""
    if stated := _CHOICE_STATED.findall(text):
        return "".join(stated[-1]).upper()
    words = text.split()
    alone = [letter for letter in _CHOICE_ALONE.findall(text) if letter not in "AI" or len(words) == 1]
    if alone:
        return str(alone[-1])
    marked = re.findall(r"\(([A-Z])\)|(?<![\w'])([A-Z])[).:]", text)
    return next(filter(None, marked[-1]), None) if marked else None


def _last_match(text: str, pattern: str) -> str | None:
    found = None
    for found in re.finditer(pattern, text):  # noqa: B007  only the last one counts
        pass
    if found is None:
        return None
    return _folded(found.group(1) if found.re.groups and found.group(1) is not None else found.group(0))


def _folded(text: str) -> str | None:
    """Case, spaces and closing punctuation do not make two answers different."""
    return " ".join(text.casefold().split()).strip(" .!*\"'`") or None
