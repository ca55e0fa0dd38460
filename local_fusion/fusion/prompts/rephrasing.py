"""Asking for a question in other words."""

from __future__ import annotations

from local_fusion.core.chat import Message
from local_fusion.fusion.prompts.layout import Messages


def rephrase(question: str) -> Messages:
    """Asks for `question` in other words, with nothing lost, and not for its answer."""
    return (
        Message(
            "user",
            f"<question>\n{question}\n</question>\n\n----\nPut the question above in other words. Keep its meaning and "
            "every number, name, quotation, option and instruction in it exactly. Do not answer it. Reply with the new "
            "wording only.",
        ),
    )
