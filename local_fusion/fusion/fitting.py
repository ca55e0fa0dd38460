"""Making candidates fit a reader's context: cut as little as possible, in the middle, and say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from local_fusion.core.chat import Message
from local_fusion.core.concurrency import together
from local_fusion.core.model import ChatModel, Room
from local_fusion.core.records import Candidate, Trim
from local_fusion.errors import ContextTooLong
from local_fusion.fusion.session import Session

Build = Callable[[Sequence[str]], tuple[Message, ...]]

ANSWER_ROOM = 1024  # tokens kept free for an answer whose length nobody limited
LEAST_SHARE = 16  # tokens of a candidate below which showing it is pointless
ATTEMPTS = 4
HEAD = 2 / 3  # of what is kept comes from the beginning, the rest from the end, where conclusions stand


@dataclass(frozen=True, slots=True)
class Fitted:
    """Texts as they may be shown, and the tokens that each prompt with them leaves for the answer, at least."""

    texts: list[str]
    left: int


async def fit(
    session: Session,
    reader: ChatModel,
    build: Build,
    candidates: Sequence[Candidate],
    *,
    wanted: int | None,
    at_once: int | None = None,
    effort: str | None = None,
) -> Fitted:
    """The candidates' texts, cut where `build`'s prompt and the answer would not fit `reader` together.

    `wanted` tokens are kept free for the answer (None: ANSWER_ROOM), but no more than a quarter of the context: a
    generous limit on the answer is no reason to show less. `at_once` candidates stand in one prompt (default: all).
    `effort` is the reasoning effort asked for, which some prompts tell. Every cut is recorded in the session.
    Raises `ContextTooLong` where not even the beginnings fit.
    """

    async def length(messages: tuple[Message, ...]) -> Room:
        return await reader.measure(session.asks(messages, reasoning_effort=effort))

    texts = [candidate.text for candidate in candidates]
    shown = min(at_once or len(texts), len(texts))
    # Where there is room for all of them in one prompt, there is for some, and nothing else need be measured.
    all_of_them = texts if shown == len(texts) else ["\n".join(texts), *[""] * (shown - 1)]
    room = await length(build(all_of_them))
    reserve = min(wanted or ANSWER_ROOM, room.limit // 4)
    if room.left >= reserve:
        return Fitted(texts, room.left)
    empty = await length((Message("user", ""),))
    lengths = [
        measured.tokens - empty.tokens
        for measured in await together(length((Message("user", text),)) for text in texts)
    ]

    def longest(of: Sequence[str]) -> list[str]:
        """The `shown` longest texts by tokens: characters would mislead between languages."""
        return [of[index] for index in sorted(range(len(of)), key=lambda index: -lengths[index])[:shown]]

    if shown < len(texts):
        room = await length(build(longest(texts)))
        if room.left >= reserve:
            return Fitted(texts, room.left)
    frame = (await length(build([""] * shown))).tokens
    budget = room.limit - reserve - frame
    if budget < LEAST_SHARE * shown:
        raise ContextTooLong(
            f"the conversation leaves {reader.name} no room to read {shown} candidates: it needs {frame} tokens "
            f"and {reserve} for the answer, of {room.limit}",
            hint=f"raise max_model_len of {reader.name}, shorten the conversation, or use a smaller panel",
        )
    for attempt in range(ATTEMPTS):
        # Tokens are not additive, so a cut by proportion may miss; each further attempt aims a little lower.
        cap = _fair_cap(lengths, shown, int(budget * (1 - 0.05 * (attempt + 1))))
        cut = [_cut(text, cap, tokens) for text, tokens in zip(texts, lengths, strict=True)]
        room = await length(build(longest(cut)))
        if room.left >= reserve:
            break
    else:
        raise ContextTooLong(
            f"the candidates could not be cut to fit the context of {reader.name}",
            hint=f"raise max_model_len of {reader.name} or lower the members' max_tokens",
        )
    for candidate, tokens in zip(candidates, lengths, strict=True):
        if tokens > cap:
            session.trimmed(Trim(candidate.id, reader.name, cap, tokens))
    return Fitted(cut, room.left)


def _fair_cap(lengths: Sequence[int], shown: int, budget: int) -> int:
    """The largest cap with which the `shown` longest texts fit `budget` tokens: short texts stay whole."""
    left, remaining = budget, shown
    for length in sorted(sorted(lengths, reverse=True)[:shown]):
        if length * remaining > left:
            return left // remaining
        left -= length
        remaining -= 1
    return max(lengths)


def _cut(text: str, cap: int, tokens: int) -> str:
    """`text` cut in the middle to about `cap` of its `tokens` tokens, with a mark that says so."""
    if tokens <= cap:
        return text
    mark = f" [… about {tokens - cap} tokens left out …] "
    keep = max(0, int(len(text) * cap / tokens) - len(mark))
    head = int(keep * HEAD)
    tail = keep - head
    return text[:head] + mark + (text[-tail:] if tail else "")
