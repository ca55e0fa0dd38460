"""A system prompt and messages as the conversation that every `ChatModel` understands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from local_fusion.core.chat import Image, Message, Role, ToolCall
from local_fusion.errors import RequestError, TakesNoImages
from local_fusion.server.anthropic.blocks import (
    CheckImage,
    Piece,
    ToolResult,
    pieces_of,
    said_by_assistant,
    said_by_user,
    texts,
)
from local_fusion.server.fields import Part, checked

# Claude Code begins its system prompt with a line for Anthropic's accounts. It says nothing to a model, and changes
# with every version and sometimes every request: engines could not take the rest of the prompt from their caches.
_BILLING = "x-anthropic-billing-header:"
_MESSAGE = re.compile(r"messages\[(\d+)\]")
_NAMES = {
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "stop": "stop_sequences",
}


class _Message(Part):
    role: Literal["user", "assistant", "system"]
    content: Any


@dataclass(slots=True)
class _Turn:
    """A turn while it is put together; `origin` is the field of the request with which it begins."""

    role: Role
    origin: str
    pieces: list[Piece] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    answers: str | None = None

    @property
    def text(self) -> str:
        return "\n".join(piece for piece in self.pieces if isinstance(piece, str) and piece)

    def to_message(self) -> Message:
        seen = any(isinstance(piece, Image) for piece in self.pieces)
        parts = tuple(piece for piece in self.pieces if piece) if seen else ()
        return Message(self.role, self.text, None, tuple(self.calls), self.answers, parts)


class Conversation:
    """What was said, in the turns that chat templates know: no two of the same role in a row but tools' results, and
    the system's turn at the beginning only.

    `prefix` is what a last turn of the assistant's has begun, for the answer to go on with.
    """

    def __init__(self, system: Any, messages: Sequence[Any], check: CheckImage) -> None:
        """Raises `RequestError` for what is malformed, or nothing to answer."""
        self.prefix = ""
        self._turns: list[_Turn] = []
        self._images: list[str] = []
        self._check = check
        before = [] if system is None else [text for text in texts(system, "system") if text]
        self._system = [text for text in before if not text.startswith(_BILLING)]
        for number, raw in enumerate(messages):
            self._take(checked(_Message, raw, f"messages[{number}]"), f"messages[{number}]")
        self._end()

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation without `prefix`."""
        system = (Message("system", "\n\n".join(self._system)),) if self._system else ()
        return (*system, *(turn.to_message() for turn in self._turns))

    def in_the_clients_terms(self, error: RequestError) -> None:
        """Let the error name the field that the client sent in place of what became of it."""
        if isinstance(error, TakesNoImages) and self._images:
            error.param = self._images[0]
        elif error.param is not None:
            found = _MESSAGE.match(error.param)
            origins = [*(["system"] if self._system else []), *(turn.origin for turn in self._turns)]
            if found and int(found[1]) < len(origins):
                error.param = origins[int(found[1])]
            else:
                error.param = _NAMES.get(error.param, error.param)

    def _take(self, message: _Message, path: str) -> None:
        content = f"{path}.content"
        match message.role:
            case "user":
                self._take_user(message.content, path, content)
            case "assistant":
                turn = self._turn("assistant", path)
                for said in said_by_assistant(message.content, content):
                    if isinstance(said, ToolCall):
                        turn.calls.append(said)
                    else:
                        turn.pieces.append(said)
            case "system":
                self._take_system([text for text in texts(message.content, content) if text], path)

    def _take_user(self, said: Any, path: str, content: str) -> None:
        """Results first, as models are shown them right after the calls; their images in the user's turn, because few
        templates show any in a tool's.
        """
        shown: list[Piece] = []
        for where, piece in said_by_user(said, content, self._check):
            if isinstance(piece, ToolResult):
                shown += self._result(piece, where)
            else:
                shown.append(piece)
                if isinstance(piece, Image):
                    self._images.append(where)
        if shown:
            self._turn("user", path).pieces += shown

    def _result(self, result: ToolResult, where: str) -> list[Piece]:
        """Add the turn of a result, and return what of it is left for the user's turn."""
        pieces = pieces_of(result, where, self._check)
        images: list[Piece] = [piece for piece in pieces if isinstance(piece, Image)]
        text = "\n".join(piece for piece in pieces if isinstance(piece, str))
        if images:
            text = f"{text}\n[what it shows follows]".lstrip()
            self._images += [where] * len(images)
        turn = _Turn("tool", where, answers=result.tool_use_id)
        turn.pieces.append(f"Error: {text}" if result.is_error else text)
        self._turns.append(turn)
        return [f"What {result.tool_use_id} shows:", *images] if images else []

    def _take_system(self, said: list[str], path: str) -> None:
        """What the system says later on stands in the turn before it, marked as Claude Code marks it where there are no
        such turns: most chat templates know a system's turn at the beginning only, and moving it there would change the
        beginning of the conversation, which engines have cached.
        """
        if not self._turns:
            self._system += [text for text in said if not text.startswith(_BILLING)]
            return
        told: list[Piece] = [f"<system-reminder>\n{text}\n</system-reminder>" for text in said]
        last = self._turns[-1]
        turn = last if last.role in ("user", "tool") else self._turn("user", path)
        turn.pieces += told

    def _turn(self, role: Role, path: str) -> _Turn:
        """The turn that goes on, or a new one."""
        if not self._turns or self._turns[-1].role != role:
            self._turns.append(_Turn(role, path))
        return self._turns[-1]

    def _end(self) -> None:
        if all(turn.role == "assistant" for turn in self._turns):
            raise RequestError("'messages' holds nothing to answer", param="messages", hint="add a user's message")
        last = self._turns[-1]
        if last.role != "assistant":
            return
        if last.calls:
            raise RequestError(
                f"the tool calls of '{last.origin}' have no results", param=last.origin, hint="add their tool_result"
            )
        self._turns.pop()
        self.prefix = last.text
