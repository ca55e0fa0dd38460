"""What a candidate's answer is, for votes: extracted exactly, never by similarity (41, 42 and 43 are three answers)."""

from __future__ import annotations

import re
from collections.abc import Callable

from local_fusion.fusion.extraction.code_blocks import last_code
from local_fusion.fusion.extraction.json_fields import json_field
from local_fusion.fusion.extraction.patterns import SECONDS, last_match
from local_fusion.fusion.extraction.spelling import NUMBER, GivenUp, canonical_number, folded, last_number

# No two repetitions of white space stand side by side: on a long run of it they would try every way to share it.
_ANSWER = re.compile(r"(?:final answer|answer)\s*(?:is\b|[:=])(?:\s*:)?\s*(\S.*)", re.IGNORECASE)
_CHOICE_STATED = re.compile(
    r"\b(?i:answer|choice|option)\b(?i:\s+is\b)?(?:\s*[:=])?\s*\**\(?(?:([A-Z])(?![\w'])|([a-z])(?=[).,*]|[^\S\n]*$))",
    re.MULTILINE,
)
_CHOICE_ALONE = re.compile(r"(?<![\w'])\(?([A-Z])\)?(?=[\s).:,*]|$)")
_CHOICE_MARKED = re.compile(r"\(([A-Z])\)|(?<![\w'])([A-Z])[).:]")
_BRACE = re.compile(r"[{}]")


def extract(
    text: str, how: str, *, tell: Callable[[str], None] = lambda why: None, seconds: float = SECONDS
) -> str | None:
    """The answer in `text` in a form that compares by equality, or None where there is none.

    `how` is `number`, `choice`, `text`, `code`, `cluster`, `json:FIELD`, `regex:PATTERN` or `auto` (see
    `VoteConfig.extract`).
    Where looking for an answer was given up, which a pattern is after `seconds`, `tell` hears why.
    """
    try:
        found = _found(text, how, seconds)
    except GivenUp as error:
        tell(str(error))
        return None
    # JSON may spell half a character (`\\ud800`), which no client could be sent.
    return None if found is None else found.encode(errors="backslashreplace").decode()


def _found(text: str, how: str, seconds: float) -> str | None:
    kind, _, rest = how.partition(":")
    match kind:
        case "number":
            return last_number(text)
        case "choice":
            return _choice(text)
        case "regex":
            return last_match(text, rest, seconds)
        case "json":
            return json_field(text, rest)
        case "code":
            return last_code(text)
        case "text" | "cluster":  # of which a judge will say what it comes to
            return folded(text)
        case _:
            return _auto(text)


def _auto(text: str) -> str | None:
    """`\\boxed{…}`, else what follows "answer:", else the last number, else the whole text."""
    if (boxed := _boxed(text)) is not None:
        return canonical_number(boxed.strip(" $")) or folded(boxed)
    if answers := _ANSWER.findall(text):
        return _stated(answers[-1])
    return last_number(text) or folded(text)


def _stated(answer: str) -> str | None:
    """What follows "answer:": the number it begins with, or the words (`1/2` and `10:30` are no plain numbers)."""
    first = NUMBER.match(answer := answer.strip(" $*"))
    if first is not None and not re.match(r"\s*[/:^*×x+=-]|\s*\d", answer[first.end() :]):
        return canonical_number(first[0])
    return folded(answer) if first is not None else last_number(answer) or folded(answer)


def _boxed(text: str) -> str | None:
    """The content of the last `\\boxed{…}`, with its inner braces."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for brace in _BRACE.finditer(text, begin - 1):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[begin : brace.start()]
    return None


def _choice(text: str) -> str | None:
    """The last letter stated as the answer, else the last letter that stands alone (not the article "A" or "I")."""
    if stated := _CHOICE_STATED.findall(text):
        return "".join(stated[-1]).upper()
    one_word = len(text.split(None, 1)) == 1
    alone = [letter for letter in _CHOICE_ALONE.findall(text) if letter not in "AI" or one_word]
    if alone:
        return str(alone[-1])
    marked = _CHOICE_MARKED.findall(text)
    return next(filter(None, marked[-1]), None) if marked else None
