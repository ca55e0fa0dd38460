"""What stands for the programs that check candidates: a simulation starts none."""

from __future__ import annotations

import random

from local_fusion.config.base import Command


async def accepts(command: Command, text: str) -> bool:
    """Whether `command` accepts `text`: by lot, one in two, always the same for the same pair; it takes no time."""
    return random.Random("\0".join((*command.command, text))).random() < 0.5
