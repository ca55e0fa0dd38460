"""Thinking is no part of an answer: it is split off, so that no judge, no vote and no client takes it for one.

An engine with a `reasoning_parser` does that itself. Without one the tags tell; where a chat template has written the
opening one, they tell too late for an answer that is streamed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import TextDelta
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


def thought_first(choice: Choice) -> Choice:
    """The same for an answer that was streamed: only what an opening tag began is `reasoning`."""
    return without_thinking(choice) if choice.text.lstrip().startswith(_OPEN) else choice


class Thoughts:
    """Hands an answer on to `say` as it comes, with what it thinks first, in tags, as `reasoning`."""

    def __init__(self, say: Callable[[TextDelta], None]) -> None:
        self._say = say
        self._at: Literal["beginning", "thought", "gap", "answer"] = "beginning"
        self._held = ""

    def __call__(self, delta: TextDelta) -> None:
        """Take more of the answer; what may be the beginning of a tag is held back until it is known."""
        text, self._held, thought = self._held + delta.text, "", ""
        if self._at == "beginning":
            begun = text.lstrip()
            if begun.startswith(_OPEN):
                self._at, text = "thought", begun.removeprefix(_OPEN)
            elif _OPEN.startswith(begun):
                text, self._held = "", text
            else:
                self._at = "answer"
        if self._at == "thought":
            thought, closed, text = text.partition(_CLOSE)
            if closed:
                self._at = "gap"
            else:
                most = range(min(len(_CLOSE) - 1, len(thought)), 0, -1)
                held = next((size for size in most if _CLOSE.startswith(thought[-size:])), 0)
                thought, self._held = thought[: len(thought) - held], thought[len(thought) - held :]
        if self._at == "gap":
            text = text.lstrip()
            self._at = "answer" if text else "gap"
        self._say(replace(delta, text=text, reasoning=delta.reasoning + thought))

    def end(self) -> None:
        """The answer is over: what was held back is no tag."""
        if self._held and self._at == "beginning":
            self._say(TextDelta(self._held))
        elif self._held:
            self._say(TextDelta("", reasoning=self._held))
        self._held = ""


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
