"""How vLLM writes what its engines say: the shapes of its JSON, without an engine.

A token is a word with the space before it; its id is a checksum of the word.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

UNKNOWN_LOGPROB = -1.0  # of words that a script says nothing about
OTHERS = -9.0  # of every other likely token at a place


def token_id(word: str) -> int:
    return zlib.crc32(word.strip().encode()) % 50_000


def words(text: str) -> list[str]:
    return re.findall(r"\s*\S+", text)


def called(call: dict[str, Any]) -> str:
    """A tool call as a chat template writes it."""
    return f" {call['function']['name']} {call['function']['arguments']}"


def flattened(body: dict[str, Any]) -> dict[str, Any]:
    """The request with plain texts for contents in parts, as a chat template makes them; an image is one word."""

    def text(content: Any) -> Any:
        if not isinstance(content, list):
            return content
        return "\n".join(part["text"] if part["type"] == "text" else "<image>" for part in content)

    return {**body, "messages": [{**message, "content": text(message.get("content"))} for message in body["messages"]]}


def rendered(body: dict[str, Any]) -> list[str]:
    """The prompt of a chat completion as tokens: each message has one for its role, and so have tools.

    Nothing stands for the beginning of an answer, so that a begun one is a message like any other.
    """
    tools = [tool["function"]["name"] for tool in body.get("tools") or ()]
    tokens = ["<tools>", *(f" {name}" for name in tools)] if tools else []
    for message in body["messages"]:
        calls = "".join(called(call) for call in message.get("tool_calls") or ())
        tokens += [f"<{message['role']}>", *words((message["content"] or "") + calls)]
    return tokens


def tools_refused(body: dict[str, Any], parser: str | None) -> str | None:
    """What vLLM answers to a request with tools where nothing says how the model calls them."""
    if parser is not None or not body.get("tools"):
        return None
    match body.get("tool_choice", "auto"):
        case None | "none":
            return None
        case "auto":
            return '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
        case {"function": {"name": name}}:
            return f'tool_choice=function "{name}" requires --tool-call-parser to be set'
        case choice:
            return f'tool_choice="{choice}" requires --tool-call-parser to be set'


@dataclass(frozen=True)
class Written:
    """An answer: thoughts, text and calls as tokens, and why it ends. A call's name is a token, an end alone is one.

    `stopped_by` is the stop of the request's that ended it.
    """

    thoughts: list[str]
    text: list[str]
    reason: str
    calls: list[dict[str, Any]] = field(default_factory=list)
    stopped_by: str | None = None

    @property
    def deltas(self) -> list[tuple[str, dict[str, Any]]]:
        """Each token, and how a stream brings it."""
        deltas: list[tuple[str, dict[str, Any]]] = [(word, {"reasoning": word}) for word in self.thoughts]
        deltas += [(word, {"content": word}) for word in self.text]
        for index, call in enumerate(self.calls):
            head = {"index": index, "id": f"call-{index}", "type": "function"}
            deltas.append((call["name"], {"tool_calls": [{**head, "function": {"name": call["name"]}}]}))
            for part in words(call["arguments"]):
                deltas.append((part, {"tool_calls": [{"index": index, "function": {"arguments": part}}]}))
        return deltas or [("", {"content": ""})]

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a whole."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self.text)}
        if self.thoughts:
            message["reasoning"] = "".join(self.thoughts)
        if self.calls:
            calls = enumerate(self.calls)
            message["tool_calls"] = [{"id": f"call-{i}", "type": "function", "function": call} for i, call in calls]
        return message


def token_logprobs(word: str, logprobs: dict[str, float], top: int) -> dict[str, Any]:
    """What is told of a token that was written; `top` alternatives, itself among them."""
    own = logprobs.get(word.strip(), UNKNOWN_LOGPROB)
    others = [{"token": f"other-{number}", "logprob": OTHERS} for number in range(top - 1)]
    return {"token": word, "logprob": own, "top_logprobs": [{"token": word, "logprob": own}, *others][:top]}


def prompt_logprobs(ids: list[int], known: dict[int, float]) -> list[dict[str, Any] | None]:
    """What is told of a prompt's tokens: of the first nothing."""
    told = [{str(one): {"logprob": known.get(one, UNKNOWN_LOGPROB), "rank": 1, "decoded_token": "x"}} for one in ids]
    return [None, *told[1:]]


def chunk_of(
    index: int,
    delta: dict[str, Any],
    reason: str | None,
    counts: dict[str, int],
    written: int,
    logprobs: dict[str, Any] | None = None,
    stopped_by: str | None = None,
) -> dict[str, Any]:
    told = None if logprobs is None else {"content": [logprobs]}
    choice = {"index": index, "delta": delta, "logprobs": told, "finish_reason": reason, "stop_reason": stopped_by}
    return {"choices": [choice], "usage": counts, "written": written}


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def matching(rules: list[Any], text: str) -> Iterator[Any]:
    """What those rules say whose regular expression is found in the text."""
    return (said for pattern, said in rules if re.search(pattern, text, re.DOTALL))
