"""A thought from beside: asking for it, and putting it in the ear of whoever answers."""

from __future__ import annotations

from collections.abc import Sequence

from local_fusion.fusion.prompts.layout import Messages, quoted, with_addition

SHOWN_CHARACTERS = 4000  # of the end of an answer that got stuck: what it repeats stands there


def thought(messages: Messages, so_far: str) -> Messages:
    """Asks for a short remark on the conversation, or on an answer that began to repeat itself."""
    stuck = (
        "Somebody began to answer the request above, and now repeats themselves. The end of what they wrote:\n\n"
        f"<answer>\n{quoted(so_far[-SHOWN_CHARACTERS:])}\n</answer>\n\n----\n"
        "What should they write about next that they have not said yet?"
    )
    fresh = "Somebody is about to answer the request above. What might they overlook, or from which other angle could "
    asked = stuck if so_far else f"{fresh}they look at it?"
    return with_addition(
        messages, f"----\n{asked} Do not answer the request yourself. Reply with one short sentence, a remark to them."
    )


def aside(messages: Messages, thoughts: Sequence[str]) -> Messages:
    """The conversation with remarks that whoever answers may ignore."""
    if not thoughts:
        return messages
    remarks = "\n".join(thoughts)
    return with_addition(
        messages,
        f"----\nRemarks by somebody who listens (use them if they help, else ignore them, and do not mention them):\n"
        f"{remarks}",
    )
