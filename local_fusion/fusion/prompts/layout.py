"""How what we say to a model is put beside a conversation.

The conversation stays in front, byte for byte (only a persona changes its beginning), and what we add is at the
end of its last user turn. So the prefix cache of an engine serves the shared part for every member, judge and later
stage, and chat templates that insist on alternating roles are content.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from local_fusion.core.chat import Message

Messages = tuple[Message, ...]


def with_persona(messages: Messages, persona: str) -> Messages:
    """The conversation with `persona` as (part of) its system message."""
    if messages and messages[0].role in ("system", "developer"):
        return (messages[0].adding(persona), *messages[1:])
    return (Message("system", persona), *messages)


def with_addition(messages: Messages, addition: str) -> Messages:
    """The conversation with `addition` at the end of its last user turn (a new one where another role spoke last)."""
    if messages and messages[-1].role == "user":
        return (*messages[:-1], messages[-1].adding(addition))
    return (*messages, Message("user", addition))


def quoted(text: str, tag: str = "answer") -> str:
    """The text without anything that would close the tag it stands in, or pass for another one of its kind."""
    return re.sub(rf"<(?=\s*/?\s*{tag})", "&lt;", text, flags=re.IGNORECASE)


def shortened(text: str, most: int) -> str:
    """The text cut in the middle to about `most` characters: programs print the first error first and the sum last."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"


def question(messages: Messages) -> str:
    """What the user asked last; empty where another role spoke last."""
    return messages[-1].content if messages and messages[-1].role == "user" else ""


def answers(texts: Sequence[str]) -> str:
    """The candidates, anonymous, numbered from 1 in the order given."""
    return "\n\n".join(
        f'<answer id="{number}">\n{quoted(text)}\n</answer>' for number, text in enumerate(texts, start=1)
    )
