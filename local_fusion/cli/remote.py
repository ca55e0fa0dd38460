"""Asking a running server: its stream of chunks read back into events, so that it looks like asking here."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import aiohttp
from pydantic import TypeAdapter, ValidationError

from local_fusion.core import events
from local_fusion.core.chat import ChatRequest, ToolCall
from local_fusion.core.depth import HEADER, depth_here
from local_fusion.core.events import Answered, Event, TextDelta
from local_fusion.core.model import Choice, FusionReport, Reply
from local_fusion.core.records import CallRecord, Usage
from local_fusion.errors import LocalFusionError, RemoteError, RequestError, SetupError, UnknownModel

KEY_VARIABLE = "LOCAL_FUSION_API_KEY"
CONNECT_SECONDS = 10
SILENCE_SECONDS = 120  # the server sends a comment every few seconds while it works


async def stream_remote(url: str, model: str | None, request: ChatRequest) -> AsyncGenerator[Event]:
    """The events of `request` put to `model` (default: the first in the list) at the server at `url`.

    Raises `SetupError` where nobody answers there, and the server's error otherwise.
    """
    base = url.rstrip("/").removesuffix("/v1")
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout, headers=headers_here()) as session:
            served = await _get(session, f"{base}/v1/models")
            entry = entry_of(served["data"], model, base)
            body: dict[str, Any] = {
                "model": entry["id"],
                "messages": [message.to_openai() for message in request.messages],
                "stream": True,
                "stream_options": {"include_usage": True},
                **request.sampling.set_fields(),
            }
            is_fusion = entry.get("kind") == "fusion"
            if is_fusion:
                body["fusion"] = {"events": True, "include": ["candidates", "verdict"]}
            # An engine's answer begins when its turn has come, and nothing is sent before.
            patience = timeout if is_fusion else aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
            async with session.post(f"{base}/v1/chat/completions", json=body, timeout=patience) as response:
                await check_answer(response)
                reader = _Reader(entry["id"], is_fusion)
                async for chunk in _payloads(response.content):
                    for event in reader.read(chunk):
                        yield event
        yield Answered(reader.reply())
    except (aiohttp.ClientError, TimeoutError) as error:
        raise SetupError(
            f"no answer from {base}: {str(error) or type(error).__name__}",
            hint="is `local-fusion serve` running there, and is the address right?",
        ) from None
    except (ValidationError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise SetupError(
            f"what {base} sends is not what local-fusion sends ({reason})",
            hint="check the address and that both sides have the same version",
        ) from None


def headers_here(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a server is told of whoever asks from here: the key in `LOCAL_FUSION_API_KEY`, and how deep this stands."""
    headers = {"Authorization": f"Bearer {key}"} if (key := environ.get(KEY_VARIABLE, "").strip()) else {}
    return headers | ({HEADER: str(depth)} if (depth := depth_here(environ)) else {})


def entry_of(served: list[dict[str, Any]], model: str | None, base: str) -> dict[str, Any]:
    """Of what the server at `base` serves, the entry of `model`, by default the first.

    Raises `SetupError` and `UnknownModel`.
    """
    if not served:
        raise SetupError(f"{base} serves no models")
    if model is None:
        return served[0]
    for entry in served:
        if entry["id"] == model:
            return entry
    raise UnknownModel(f"{base} does not serve '{model}'", hint=f"it serves {', '.join(e['id'] for e in served)}")


async def _get(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(url) as response:
        await check_answer(response)
        answer: dict[str, Any] = await response.json()
        return answer


async def check_answer(response: aiohttp.ClientResponse) -> None:
    """Raises the server's error, where it has answered with one."""
    if response.status >= 400:
        try:
            raise _error((await response.json())["error"])
        except (aiohttp.ContentTypeError, ValueError, LookupError, TypeError, AttributeError):
            raise SetupError(f"{response.url} answered {response.status} {response.reason}") from None


def _error(told: Mapping[str, Any] | str) -> LocalFusionError:
    if isinstance(told, str):  # not our shape, but a reason all the same
        return RemoteError(told)
    message = str(told.get("message", "the server reported an error without a message"))
    if told.get("fault") == "caller":
        return RequestError(message, param=told.get("param"))
    return RemoteError(message)


async def _payloads(lines: aiohttp.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """The JSON payloads of a stream of server-sent events; comments are skipped."""
    async for line in _lines(lines):
        if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
            payload: dict[str, Any] = json.loads(line[6:])
            if "error" in payload:
                raise _error(payload["error"])
            yield payload


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a stream, of any length (the stream's own iteration refuses long ones)."""
    rest = b""
    async for piece in stream.iter_any():
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line
    if rest:
        yield rest


class _Reader:
    """Collects chunks into a reply, and turns them into events on the way."""

    def __init__(self, name: str, is_fusion: bool) -> None:
        self._name = name
        self._is_fusion = is_fusion
        self._texts: dict[int, str] = {}
        self._thoughts: dict[int, str] = {}
        self._tool_calls: dict[int, dict[int, ToolCall]] = {}
        self._reasons: dict[int, str] = {}
        self._report: FusionReport | None = None
        self._calls: tuple[CallRecord, ...] = ()

    def read(self, chunk: dict[str, Any]) -> list[Event]:
        happened: list[Event] = []
        told = chunk.get("fusion") or {}
        if "event" in told:
            happened.append(events.from_json(told["event"]))
        elif told:
            self._report = TypeAdapter(FusionReport).validate_python({"fusion": self._name, **told})
        for choice in chunk["choices"]:
            index, delta = choice["index"], choice["delta"]
            text, thought = delta.get("content") or "", delta.get("reasoning") or ""
            self._texts[index] = self._texts.get(index, "") + text
            self._thoughts[index] = self._thoughts.get(index, "") + thought
            for part in delta.get("tool_calls") or ():
                self._read_tool_call(index, part)
            if choice["finish_reason"]:
                self._reasons[index] = choice["finish_reason"]
            if text or thought:
                happened.append(TextDelta(text, index, reasoning=thought))
        if usage := chunk.get("usage"):
            self._calls = self._read_usage(usage)
        return happened

    def _read_tool_call(self, index: int, part: dict[str, Any]) -> None:
        """Add a piece of a tool call: id and name come in its first, arguments in any."""
        calls, function = self._tool_calls.setdefault(index, {}), part.get("function") or {}
        begun = calls.get(part["index"]) or ToolCall(part["id"], function["name"], "")
        calls[part["index"]] = ToolCall(begun.id, begun.name, begun.arguments + (function.get("arguments") or ""))

    def _read_usage(self, usage: dict[str, Any]) -> tuple[CallRecord, ...]:
        calls = usage.get("fusion", {}).get("calls")
        if calls is None:
            total = Usage(usage["prompt_tokens"], usage["completion_tokens"])
            return (CallRecord("panel", self._name, total, 0.0),)
        return tuple(
            CallRecord(
                stage=call["stage"],
                model=call["model"],
                usage=Usage(call["prompt_tokens"], call["completion_tokens"]),
                seconds=call["seconds"],
                samples=call["samples"],
                error=call["error"],
            )
            for call in calls
        )

    def reply(self) -> Reply:
        """The whole reply. Raises `ValueError` for a stream that broke off."""
        if not self._reasons:
            raise ValueError("the stream ended before the answer did")
        choices = tuple(self._choice(index, reason) for index, reason in sorted(self._reasons.items()))
        return Reply(choices, self._calls, self._report)

    def _choice(self, index: int, reason: str) -> Choice:
        calls = tuple(call for _, call in sorted(self._tool_calls.get(index, {}).items()))
        return Choice(self._texts[index], reason, calls, self._thoughts[index])
