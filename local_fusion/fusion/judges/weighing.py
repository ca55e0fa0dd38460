"""Forward passes: what a judge would say, as probabilities, with nothing generated."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from local_fusion.config.base import Reference
from local_fusion.core.concurrency import together
from local_fusion.core.sampling import Sampling
from local_fusion.fusion.prompts.layout import Messages
from local_fusion.fusion.session import Session

AT_THE_SAME_TIME = 64  # in flight for one request, so that one large panel leaves others their turn


async def weighed(
    session: Session, judge: Reference, prompts: Iterable[Messages], labels: tuple[str, ...]
) -> list[Mapping[str, float]]:
    """For each prompt the probabilities with which the judge's answer begins with each of `labels`.

    The first failure cancels the rest and is raised.
    """
    model = session.resolve(judge.model)
    emit = session.relay("judge", judge.model, lambda _: None)
    limit = asyncio.Semaphore(AT_THE_SAME_TIME)

    async def weigh(prompt: Messages) -> Mapping[str, float]:
        async with limit:
            return await model.weigh(session.asks(prompt, Sampling(temperature=0, max_tokens=1)), labels, emit)

    return await together(weigh(prompt) for prompt in prompts)
