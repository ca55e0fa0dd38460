"""Whether a text that is being written repeats itself: models that get stuck say the same over and over.

Two signs, both found as the text comes, in constant time for each word (amortised):

- the text equals what stands a fixed number of words before, for several times that number (a loop);
- every run of `GRAM` words has stood there `STALE_TIMES` times before, for `STALE_WORDS` words on end (a loop whose
  parts come in changing order).

The bounds are set so that tables, rulers, zeros in code, lists, and refrains pass: what has few different words may
repeat for long, and a phrase more often than a paragraph. They are judgement, held up by the texts in the tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

GRAM = 6  # words
STALE_TIMES = 3
STALE_WORDS = 80
WORDY = 4  # different words with letters, below which a unit is no language but a pattern
_COPIES = ((200, 3), (60, 4), (0, 6))  # characters of a wordy unit, and how often it must stand in a row
_PATTERN_COPIES, _PATTERN_CHARACTERS = 25, 1000  # of a unit that is not wordy

# Scripts without spaces are taken letter by letter; long words, rulers and white space in pieces.
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"\s{{64}}|\s*(?:[{_UNSPACED}]|[^\s{_UNSPACED}]{{1,16}})")
_MARKS = re.compile(r"\W+")
_ORDINAL = re.compile(r"\d+[.):]")


class Repetition:
    """Watches one text. `safe`: so many characters of it are certainly no beginning of a repetition."""

    def __init__(self) -> None:
        self.safe = 0
        self._words: list[str] = []
        self._starts: list[int] = []  # where each word stands, its white space included
        self._rest = ""  # of which the end of its last word has not come yet
        self._length = 0
        self._seen: dict[tuple[str, ...], tuple[int, int]] = {}  # where a gram ended last, and how often it came
        self._period = 0
        self._run = 0  # words that equal those a period before
        self._stale = 0  # words that end a gram which stood there often before
        self._stale_from = 0

    def feed(self, text: str) -> int | None:
        """Take in more of the text. Where it has turned out to repeat itself: the character at which that begins, which
        ends the watch.
        """
        self._length += len(text)
        for word in self._whole_words(text):
            self._words.append(word)
            if (began := self._look()) is not None:
                return began
        return None

    def _whole_words(self, text: str) -> Iterator[str]:
        """The words that are whole by now. White space is no part of what is compared, nor are numbers of lists."""
        self._rest += text
        taken = 0
        for match in _WORD.finditer(self._rest):
            word = match[0].strip()
            if match.end() == len(self._rest) and len(word) < 16 and not re.match(f"[{_UNSPACED}]", word):
                break
            first_of_line = not self._starts or "\n" in match[0]
            self._starts.append(self._length - len(self._rest) + match.start())
            taken = match.end()
            yield "#" if first_of_line and _ORDINAL.fullmatch(word) else word
        self._rest = self._rest[taken:]

    def _look(self) -> int | None:
        """The same, after one more word."""
        last = len(self._words) - 1
        gram = tuple(self._words[-GRAM:])
        before, times = self._seen.get(gram, (-1, 0))
        if self._period and self._words[last] == self._words[last - self._period]:
            self._run += 1
        else:
            self._align(last, before if len(gram) == GRAM else -1)
        if times < STALE_TIMES:
            self._stale = 0
        elif _wordy(gram):
            self._stale_from = self._stale_from if self._stale else last - GRAM + 1
            self._stale += 1
        if len(gram) == GRAM:
            self._seen[gram] = (last, times + 1)
        began = min(last - self._run + 1, self._stale_from if self._stale else last)
        self.safe = self._starts[max(0, min(began, last - GRAM + 2))]
        return self._starts[began] if self._loops(last) or self._stale >= STALE_WORDS else None

    def _align(self, last: int, before: int) -> None:
        """Compare with what stands as far back as this gram did (-1: nowhere) from here on."""
        self._period = last - before if before >= 0 else 0
        self._run = 0
        if not self._period:
            return
        first = last - GRAM + 1
        least = max(self._period, first - 2 * GRAM)  # a bound, or a hostile text would cost its length each time
        while first > least and self._words[first - 1] == self._words[first - 1 - self._period]:
            first -= 1
        self._run = last - first + 1

    def _loops(self, last: int) -> bool:
        """Whether the run is one of a loop: looked at once in a period, which may be long."""
        period, run = self._period, self._run
        if not period or run < 2 * period or run % period:
            return False
        copies = 1 + run // period
        repeated = self._starts[last] - self._starts[last - run + 1]
        if not _wordy(self._words[-period:]):
            return copies >= _PATTERN_COPIES and repeated >= _PATTERN_CHARACTERS
        return copies >= next(needed for characters, needed in _COPIES if repeated * period >= characters * run)


def _wordy(words: Sequence[str]) -> bool:
    plain = {_MARKS.sub("", word).casefold() for word in words}
    return sum(any(letter.isalpha() for letter in word) for word in plain) >= WORDY
