"""Thinking is no part of an answer: it is split off, so that no judge and no vote takes it for one.

Not of an answer that is streamed as it is written: that is for the engine's `reasoning_parser`.
"""

from __future__ import annotations

from dataclasses import replace

from local_fusion.core.chat import ChatRequest
from local_fusion.core.model import ChatModel, Choice
from local_fusion.errors import EmptyAnswer

MORE_ROOM = 4  # times the tokens, for an answer that its limit left empty
_OPEN, _CLOSE = "<think>", "</think>"


def without_thinking(choice: Choice) -> Choice:
    """The same with what stands up to `</think>` as `reasoning`, where the engine has no parser that splits it off.

    Many chat templates write the opening tag themselves, so the answer may hold only the closing one.
    """
    text = choice.text.lstrip()
    if text.startswith(_OPEN):
        thought, _, answer = text.removeprefix(_OPEN).partition(_CLOSE)
    else:
        thought, closed, answer = text.partition(_CLOSE)
        if not closed or _OPEN in thought:  # an answer that talks about the tags
            return choice
    reasoning = "\n".join(filter(None, (choice.reasoning, thought.strip())))
    return replace(choice, text=answer.lstrip(), reasoning=reasoning)


def says_something(choice: Choice) -> bool:
    """Whether there is an answer, in words or in calls of tools."""
    return bool(choice.text.strip() or choice.tool_calls)


def emptied_by_cap(choice: Choice) -> bool:
    """Whether the token limit came before the answer did."""
    return choice.finish_reason == "length" and not says_something(choice)


def empty_answer(label: str, model: str, choice: Choice) -> EmptyAnswer:
    """The error of an answer that says nothing, with its cause and, where there is one, the way out."""
    if choice.finish_reason != "length":
        return EmptyAnswer(f"{label} came back empty")
    return EmptyAnswer(
        f"{label} reached its token limit before it began to answer",
        hint=f"raise max_tokens of {model}, or ask it to think less",
    )


async def with_more_room(model: ChatModel, request: ChatRequest) -> ChatRequest | None:
    """The request for one answer with `MORE_ROOM` times the tokens, or with as many as the context of `model` leaves.

    None where there are no more to give, or it had no limit. Raises what `model.measure` raises.
    """
    limit = request.sampling.max_tokens
    if limit is None:
        return None
    room = min(MORE_ROOM * limit, (await model.measure(request)).left)
    return request.but(sampling=request.sampling.with_fields(max_tokens=room), samples=1) if room > limit else None
