"""Talking to one engine over its Unix socket. Foreign errors become ours here, and nowhere else."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from local_fusion.engines.chunks import Chunk, chunks_of
from local_fusion.errors import (
    ContextTooLong,
    EngineDied,
    EngineRejected,
    EngineUnavailable,
    LocalFusionError,
    RequestError,
)

_TOO_LONG = re.compile(r"maximum context length|maximum model length|cannot be greater than max_model_len")
_NO_TOOLS = re.compile(r"requires .*--tool-call-parser")
# Those that concern one connection only (RFC 9110, 7.6.1), and what a client must not decide for us.
_PER_CONNECTION = {
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
_OURS = {"proxy-authenticate", "proxy-authorization", "authorization", "cookie", "accept-encoding"}
_HOP_HEADERS = _PER_CONNECTION | _OURS
# An aiohttp session tells time limits apart: none in all, short for connecting.
_CONNECT_SECONDS = 5.0
_HEALTH_SECONDS = 5.0
# vLLM's server drops idle connections after 5 s; reusing one at that moment would look like a crash.
_KEEP_ALIVE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A text's tokens as the engine counts them, and the longest context it takes, in tokens."""

    count: int
    max_model_len: int
    tokens: tuple[int, ...]


class ForwardedResponse:
    """An engine's answer as it came: status, headers, and the raw bytes of the body, once."""

    def __init__(self, response: aiohttp.ClientResponse, client: EngineClient) -> None:
        self.status = response.status
        self.headers = response.headers.copy()
        for header in _HOP_HEADERS:
            self.headers.popall(header, None)
        self._response = response
        self._client = client

    async def body(self) -> AsyncGenerator[bytes, None]:
        """The body in pieces as they arrive. Raises `EngineDied` where it ends too early; closing it gives up."""
        try:
            with self._client.translated():
                async for piece in self._client.hearing(self._response):
                    yield piece
        finally:
            self.close()

    def close(self) -> None:
        """Drop the connection unless the body was read to its end; that aborts the engine's work."""
        self._response.close()
        self._client.ended(self._response)


class EngineClient:
    """A connection pool to the engine called `name` that listens on `socket`.

    `heard` grows with every piece of an answer to a call. What the engine is told by `control` is no call. It is `gone`
    once nobody listens to the socket any more, which shows before the last of the engine's processes has ended.
    """

    def __init__(self, socket: Path, name: str) -> None:
        self.name = name
        self.heard = 0
        self.gone = False
        self._calls = 0
        self._answers: set[aiohttp.ClientResponse] = set()
        self._being_read: set[aiohttp.ClientResponse] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._given_up: str | None = None

    async def chat_stream(self, payload: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
        """Stream a chat completion (`payload` as OpenAI's, without the streaming options).

        Raises `RequestError`, `ContextTooLong`, `EngineRejected`, `EngineUnavailable`, and `EngineDied` where the
        stream ends without being finished. Closing the iterator aborts the engine's work.
        """
        options = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        async with self._open("POST", "/v1/chat/completions", {**payload, **options}) as response:
            finished = False
            async for data in _events(self.hearing(response)):
                if data == b"[DONE]":
                    finished = True
                    continue
                event = _parsed(data, self.name)
                if "error" in event:
                    raise _rejection(event, response.status, self.name)
                for chunk in chunks_of(event):
                    yield chunk
            if not finished:
                raise EngineDied(f"{self.name} broke off in the middle of its answer", hint=_HINT)

    async def complete(self, payload: Mapping[str, Any], path: str = "/v1/chat/completions") -> dict[str, Any]:
        """One completion without streaming, as the engine gives it. Raises as `chat_stream` does."""
        async with self._open("POST", path, payload) as response:
            return _parsed(await response.read(), self.name)

    async def tokenize(self, conversation: str | Mapping[str, Any]) -> Tokenized:
        """The tokens of a plain text (nothing added), or of a chat completion's prompt (`messages`, `tools`, …)."""
        if isinstance(conversation, str):
            payload: dict[str, Any] = {"prompt": conversation, "add_special_tokens": False}
        else:
            payload = dict(conversation)
        answer = await self.complete({"model": self.name, **payload}, "/tokenize")
        return Tokenized(answer["count"], answer["max_model_len"], tuple(answer["tokens"]))

    async def healthy(self, within: float = _HEALTH_SECONDS) -> bool:
        """Whether the engine says `within` so many seconds that it is well; False for anything else."""
        timeout = aiohttp.ClientTimeout(total=within)
        try:
            async with self._opened().get("/health", timeout=timeout) as response:
                return response.status == 200
        except (EngineUnavailable, aiohttp.ClientError, OSError, TimeoutError):
            return False

    async def forward(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> ForwardedResponse:
        """Pass a request through untouched; `path` includes the query. Close or exhaust what comes back.

        Raises `EngineUnavailable` or `EngineDied`; an error that the engine answers with is passed on, not raised.
        """
        passed = {key: value for key, value in headers.items() if key.lower() not in _HOP_HEADERS}
        with self._unanswered(), self.translated():
            response = await self._opened().request(method, path, headers=passed, data=body or None)
            self._began(response)
        return ForwardedResponse(response, self)

    async def metrics(self) -> str:
        """The engine's metrics in Prometheus's text format.

        Raises `EngineUnavailable`, `EngineDied` or `EngineRejected`.
        """
        with self.translated():
            async with self._opened().get("/metrics") as response:
                text = (await response.read()).decode(errors="replace")
        if response.status != 200:
            raise EngineRejected(f"{self.name} does not show its metrics", engine_status=response.status)
        return text

    async def control(self, method: str, path: str, payload: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Tell the engine what to do with itself, or ask; {} where it has nothing to say.

        Raises as `complete` does, for a status of 400 or more too.
        """
        with self.translated():
            async with self._opened().request(method, path, json=payload) as response:
                body = await response.read()
        if response.status >= 400:
            # Outside of OpenAI's dialect errors are texts (`Internal Server Error`) or FastAPI's own objects.
            said = body[:500].decode(errors="replace")
            raise EngineRejected(
                f"{self.name} answered {path} with status {response.status}: {said}", engine_status=response.status
            )
        return _parsed(body, self.name) if body else {}

    @property
    def in_flight(self) -> int:
        """Calls that are not answered to their end."""
        return self._calls + len(self._answers)

    @property
    def waiting(self) -> int:
        """Calls in flight that wait for the engine; the others wait for whoever reads their answer."""
        return self.in_flight - len(self._being_read)

    async def idle(self) -> None:
        """Wait until no call is in flight."""
        while self.in_flight:
            await self._idle.wait()

    async def aclose(self, because: str | None = None) -> None:
        """Close all connections, for good: every later call raises `EngineUnavailable`, those in flight `EngineDied`.

        `because` is what these are told: `was killed after …`.
        """
        self._closed = True
        self._given_up = self._given_up or because
        for response in self._answers:
            # aiohttp (3.14) closes the connection of an answer that is being read, and does not tell the reader.
            response.content.set_exception(aiohttp.ClientConnectionError("the connection was closed"))
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._closed:
            raise EngineUnavailable(f"{self.name} went away", hint=_HINT)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                "http://engine",
                connector=aiohttp.UnixConnector(str(self._socket), limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
                auto_decompress=False,
                skip_auto_headers=("Accept-Encoding", "User-Agent"),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    @asynccontextmanager
    async def _open(self, method: str, path: str, payload: Mapping[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response that the engine gave with success; anything else is raised as ours."""
        with self.translated():
            with self._unanswered():
                response = await self._opened().request(method, path, json=payload)
                self._began(response)
            try:
                async with response:
                    if response.status >= 400:
                        raise _rejection(_parsed(await response.read(), self.name), response.status, self.name)
                    yield response
            finally:
                self.ended(response)

    async def hearing(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """The pieces of an answer as they arrive."""
        async for piece in response.content.iter_any():
            self.heard += 1
            self._being_read.add(response)
            yield piece
            self._being_read.discard(response)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raises what goes wrong with a connection as ours."""
        try:
            yield
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            self.gone |= isinstance(error.__cause__, (ConnectionRefusedError, FileNotFoundError))
            raise EngineUnavailable(f"{self.name} does not accept connections: {error}", hint=_HINT) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            why = self._given_up or f"went away in the middle of a call: {error!r}"
            raise EngineDied(f"{self.name} {why}", hint=_HINT) from error

    def ended(self, response: aiohttp.ClientResponse) -> None:
        """Nobody reads that answer any longer."""
        self._answers.discard(response)
        self._being_read.discard(response)
        self._rest()

    @contextmanager
    def _unanswered(self) -> Iterator[None]:
        """A call is in flight, and there is no answer to it yet."""
        self._calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._calls -= 1
            self._rest()

    def _began(self, response: aiohttp.ClientResponse) -> None:
        self.heard += 1
        self._answers.add(response)

    def _rest(self) -> None:
        if not self.in_flight:
            self._idle.set()


_HINT = "Try again; GET /ready says how the engine is."


async def _events(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of server-sent events, whole, however the bytes were cut."""
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _parsed(data: bytes, name: str) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        text = data[:200].decode(errors="replace")
        raise EngineRejected(f"{name} answered with something that is not a JSON object: {text!r}")
    return parsed


def _rejection(answer: Mapping[str, Any], status: int, name: str) -> LocalFusionError:
    """The engine's error answer as one of ours: the request's fault where the engine says so."""
    error = answer.get("error")
    error = error if isinstance(error, Mapping) else {"message": str(answer)}
    message = str(error.get("message"))
    code = error.get("code")
    if status < 400:  # said in the middle of a stream that began well
        status = code if isinstance(code, int) else 500
    if status in (400, 422):
        param = error.get("param")
        param = param.removeprefix("body.") if isinstance(param, str) else None
        if _TOO_LONG.search(message):
            return ContextTooLong(
                f"{name}: {message}", param=param, hint="Shorten the conversation or ask for fewer tokens."
            )
        if _NO_TOOLS.search(message):
            return RequestError(
                f"{name} cannot call tools, because nothing says how it writes calls",
                param="tools",
                hint=f"Set `tool_call_parser` of the model {name}, to vLLM's name for its way of writing them.",
            )
        return RequestError(f"{name}: {message}", param=param)
    return EngineRejected(f"{name} answered with status {status}: {message}", engine_status=status)
