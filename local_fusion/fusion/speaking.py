"""One model that answers, aloud (what it says goes out as it comes) or for ourselves; and breaking it off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import TextDelta
from local_fusion.core.model import Choice
from local_fusion.core.records import Stage
from local_fusion.fusion.session import Session
from local_fusion.fusion.thinking import (
    Thoughts,
    emptied_by_cap,
    empty_answer,
    says_something,
    thought_first,
    with_more_room,
    without_thinking,
)

Result = TypeVar("Result")


async def speak(
    session: Session, stage: Stage, name: str, request: ChatRequest, say: Callable[[TextDelta], None]
) -> Choice:
    """What the model `name` answers, told to `say` as it comes; asked once more, with more room, where its limit came
    before its answer.

    Raises what the model raises, and `EmptyAnswer`; but to what has been begun (`prefix`) there may be nothing to add.
    """

    async def go_on() -> Choice:
        return (await session.resolve(name).answer(request, session.relay(stage, name, say))).choices[0]

    async def ask(request: ChatRequest) -> Choice:
        thoughts = Thoughts(say)
        reply = await session.resolve(name).answer(request, session.relay(stage, name, thoughts))
        thoughts.end()
        return thought_first(reply.choices[0])

    return await (go_on() if request.prefix else _with_room(session, name, name, request, ask))


async def ask_quietly(session: Session, stage: Stage, name: str, request: ChatRequest, *, label: str = "") -> Choice:
    """The same for ourselves: said to nobody, and without its thinking. `label` is what it is called."""
    told = label or name

    async def ask(request: ChatRequest) -> Choice:
        emit = session.relay(stage, told, lambda _: None)
        return without_thinking((await session.resolve(name).answer(request, emit)).choices[0])

    return await _with_room(session, name, told, request, ask)


async def _with_room(
    session: Session, name: str, told: str, request: ChatRequest, ask: Callable[[ChatRequest], Awaitable[Choice]]
) -> Choice:
    choice = await ask(request)
    if emptied_by_cap(choice) and (more := await with_more_room(session.resolve(name), request)) is not None:
        session.note(
            f"{told} was still thinking after {request.sampling.max_tokens} tokens: asked again with more room"
        )
        choice = await ask(more)
    if not says_something(choice):
        raise empty_answer(told, name, choice)
    return choice


def held_to_format(request: ChatRequest) -> bool:
    """Whether the answer is: what was begun can then not be gone on with, as engines hold only what they add to it."""
    return request.response_format is not None and request.response_format.get("type") != "text"


async def unless_cut(answering: Coroutine[Any, Any, Result], cut: asyncio.Future[Any]) -> Result | None:
    """The result, or None where `cut` is done before it; either way nothing of the call goes on.

    Raises what `answering` raises.
    """
    task = asyncio.ensure_future(answering)
    try:
        either: set[asyncio.Future[Any]] = {task, cut}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        await asyncio.wait([task])
