"""A user's own pattern, in bounded time: some patterns take for ever on some texts."""

from __future__ import annotations

import regex

from local_fusion.fusion.extraction.spelling import GivenUp, folded

SECONDS = 0.5  # of processor time; an ordinary pattern reads a megabyte in a hundredth of it


def last_match(text: str, pattern: str, seconds: float = SECONDS) -> str | None:
    """The last match of `pattern`; its first group where it has one that took part.

    Raises `GivenUp`.
    """
    found = None
    try:
        for found in regex.finditer(pattern, text, timeout=seconds):  # noqa: B007  only the last one counts
            pass
    except TimeoutError:
        raise GivenUp(f"the pattern did not come to an end within {seconds:g} s") from None
    except regex.error as error:
        raise GivenUp(f"not a regular expression: {error}") from None
    if found is None:
        return None
    first = found.group(1) if found.re.groups else None
    return folded(first if first is not None else found.group(0))
