"""Binding text that no model has just written by the limits that the client set."""

from __future__ import annotations

from collections.abc import Iterable

from local_fusion.core.chat import Message
from local_fusion.core.model import ChatModel, Choice
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.panel.seats import stops_of
from local_fusion.fusion.session import Session

ATTEMPTS = 8


async def limited(session: Session, readers: Iterable[str], text: str) -> Choice:
    """`text` up to the client's `stop` and `max_tokens`; tokens are those of the first of `readers` that can count."""
    sampling = session.request.sampling
    at, stop = min(((text.find(stop), stop) for stop in stops_of(sampling) if stop in text), default=(len(text), None))
    whole, most = Choice(text[:at], stopped_by=stop), sampling.max_tokens
    if most is None or len(whole.text.encode()) <= most:  # no token is shorter than a byte
        return whole
    for name in readers:
        try:
            return await _cut(session, session.resolve(name), whole, most)
        except LocalFusionError:
            continue
    session.note("max_tokens does not bind this answer, because no model could count its tokens")
    return whole


async def _cut(session: Session, reader: ChatModel, whole: Choice, most: int) -> Choice:
    text = whole.text

    async def tokens(of: str) -> int:
        return (await reader.measure(session.asks((Message("user", of),)))).tokens

    frame = await tokens("")
    count = await tokens(text) - frame
    if count <= most:
        return whole
    for attempt in range(ATTEMPTS):
        # Tokens are not additive, so a cut by proportion may miss; each further attempt aims lower.
        cut = text[: int(len(text) * most / count * (1 - attempt / ATTEMPTS))]
        if await tokens(cut) - frame <= most:
            return Choice(cut, "length")
    return Choice(text[:most], "length")
