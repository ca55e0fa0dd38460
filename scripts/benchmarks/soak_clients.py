"""Clients of every kind, also of the worst: each makes one request and says what became of it."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

PATIENCE_SECONDS = 60.0  # whoever is not answered by then never will be
_MOST_WORDS = 30
_SLOW_BUFFER = 4096  # bytes: of the socket of a client that reads slowly


class Wrong(Exception):
    """An answer that must not be."""


@dataclass
class Crowd:
    """What all clients know: the server, keys, what the server offers, and their common source of chance."""

    host: str
    port: int
    admin: str
    user: str
    limited: str
    fusions: tuple[str, ...]
    engines: tuple[str, ...]
    chance: random.Random
    session: aiohttp.ClientSession = field(init=False)
    paths: frozenset[str] = field(default_factory=frozenset)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Connections are kept alive until the block ends."""
        unlimited, connector = aiohttp.ClientTimeout(total=None), aiohttp.TCPConnector(limit=0)
        url = f"http://{self.host}:{self.port}"
        async with aiohttp.ClientSession(url, connector=connector, timeout=unlimited) as self.session:
            yield

    def words(self) -> str:
        """A prompt, of a length that differs."""
        return " ".join(f"word{self.chance.randrange(1000)}" for _ in range(self.chance.randint(1, _MOST_WORDS)))

    def model(self) -> str:
        """A fusion or an engine."""
        return self.chance.choice(self.fusions + self.engines)

    def headers(self, key: str) -> dict[str, str]:
        """With that key."""
        return {"Authorization": f"Bearer {key}"}

    async def post(self, path: str, body: Any, *, key: str | None = None) -> tuple[int, bytes, dict[str, str]]:
        """Status, whole answer, and its headers."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **self.headers(key or self.user)}
        async with self.session.post(path, data=data, headers=headers) as response:
            return response.status, await response.read(), {k.lower(): v for k, v in response.headers.items()}


def chat(crowd: Crowd, model: str, *, stream: bool) -> dict[str, Any]:
    """A chat completion's body."""
    return {"model": model, "messages": [{"role": "user", "content": crowd.words()}], "stream": stream}


async def _asked(crowd: Crowd, path: str, body: dict[str, Any], end: bytes) -> str:
    """A request that is to be answered with 200; `end` is in the whole answer, near its end where it is a stream."""
    status, answer, _ = await crowd.post(path, body)
    if status != 200 or end not in answer:
        raise Wrong(f"{path} {json.dumps(body)[:200]}: status {status}, {answer[-300:]!r}")
    return "answered"


async def a_fusion(crowd: Crowd) -> str:
    """A fusion, whole."""
    return await _asked(
        crowd, "/v1/chat/completions", chat(crowd, crowd.chance.choice(crowd.fusions), stream=False), b'"fusion"'
    )


async def a_fusion_streams(crowd: Crowd) -> str:
    """A fusion, streamed."""
    body = chat(crowd, crowd.chance.choice(crowd.fusions), stream=True)
    return await _asked(crowd, "/v1/chat/completions", body, b"data: [DONE]")


async def an_engine(crowd: Crowd) -> str:
    """An engine, whole or streamed, with or without usage."""
    body = chat(crowd, crowd.chance.choice(crowd.engines), stream=crowd.chance.random() < 0.7)
    if body["stream"] and crowd.chance.random() < 0.5:
        body["stream_options"] = {"include_usage": True}
    return await _asked(crowd, "/v1/chat/completions", body, b"data: [DONE]" if body["stream"] else b'"usage"')


async def a_completion(crowd: Crowd) -> str:
    """A text completion."""
    body = {"model": crowd.chance.choice(crowd.engines), "prompt": crowd.words()}
    return await _asked(crowd, "/v1/completions", body, b'"choices"')


async def an_embedding(crowd: Crowd) -> str:
    """An embedding."""
    body = {"model": crowd.chance.choice(crowd.engines), "input": [crowd.words()] * crowd.chance.randint(1, 4)}
    return await _asked(crowd, "/v1/embeddings", body, b'"embedding"')


async def a_response(crowd: Crowd) -> str:
    """OpenAI's Responses, whole or streamed, kept or not."""
    stream = crowd.chance.random() < 0.5
    body = {"model": crowd.model(), "input": crowd.words(), "stream": stream, "store": crowd.chance.random() < 0.3}
    return await _asked(crowd, "/v1/responses", body, b"response.completed" if stream else b'"completed"')


async def a_message(crowd: Crowd) -> str:
    """Anthropic's messages, whole or streamed."""
    stream = crowd.chance.random() < 0.5
    body = {**chat(crowd, crowd.model(), stream=stream), "max_tokens": 100}
    return await _asked(crowd, "/v1/messages", body, b"message_stop" if stream else b'"stop_reason"')


async def a_look(crowd: Crowd) -> str:
    """What is only looked at."""
    path, key = crowd.chance.choice(
        (("/v1/models", crowd.user), ("/ready", crowd.user), ("/health", ""), ("/metrics", crowd.admin))
    )
    async with crowd.session.get(path, headers=crowd.headers(key) if key else {}) as response:
        answer = await response.read()
    if response.status != 200:
        raise Wrong(f"{path}: status {response.status}, {answer[-300:]!r}")
    return "answered"


async def one_that_gives_up(crowd: Crowd) -> str:
    """Leaves at any moment, also before the answer begins."""
    path, body = crowd.chance.choice(
        [
            (path, body)
            for path, body in (
                ("/v1/chat/completions", chat(crowd, crowd.model(), stream=True)),
                ("/v1/chat/completions", chat(crowd, crowd.model(), stream=False)),
                ("/v1/responses", {"model": crowd.model(), "input": crowd.words(), "stream": True, "store": False}),
                ("/v1/messages", {**chat(crowd, crowd.model(), stream=True), "max_tokens": 100}),
            )
            if path in crowd.paths
        ]
    )
    with suppress(TimeoutError):
        async with asyncio.timeout(crowd.chance.uniform(0, 0.15)):
            await crowd.post(path, body)
            return "answered before it gave up"
    return "gave up"


_SAID = [{"role": "user", "content": "x"}]
_CHAT = "/v1/chat/completions"
_REFUSED, _REFUSED_OR_NOT_THERE = frozenset({400}), frozenset({400, 404})
BAD: tuple[tuple[str, Any, frozenset[int]], ...] = (
    (_CHAT, b"{nope", _REFUSED),
    (_CHAT, b"[]", _REFUSED),
    (_CHAT, b"\xff\xfe\x00", _REFUSED),
    (_CHAT, {"model": "nobody", "messages": []}, frozenset({404})),
    (_CHAT, {"model": "one", "messages": []}, _REFUSED),
    (_CHAT, {"model": "one", "messages": [{"role": "user", "content": 3}]}, _REFUSED),
    (_CHAT, {"model": "one", "messages": [{"role": "u", "content": "x"}], "n": -1}, _REFUSED),
    (_CHAT, {"messages": _SAID}, _REFUSED),
    (_CHAT, {"model": "a", "messages": [], "service_tier": "never"}, _REFUSED),
    (_CHAT, {"model": "one", "fusion": {"panel": 3}, "messages": _SAID}, _REFUSED),
    ("/v1/embeddings", {"model": "one", "input": "x"}, _REFUSED),
    ("/v1/responses", {"model": "one"}, _REFUSED_OR_NOT_THERE),
    ("/v1/responses", {"model": "one", "input": "x", "previous_response_id": "resp_none"}, _REFUSED_OR_NOT_THERE),
    ("/v1/messages", {"model": "one", "messages": []}, _REFUSED_OR_NOT_THERE),
    ("/nowhere", {}, frozenset({403, 404})),  # with keys, which paths there are is for admins to know
    ("/v1/models", {}, frozenset({405})),
)


async def a_bad_one(crowd: Crowd) -> str:
    """What is wrong is said to be, in JSON."""
    path, body, expected = crowd.chance.choice(BAD)
    status, answer, _ = await crowd.post(path, body)
    if status not in expected or "error" not in json.loads(answer):
        raise Wrong(f"{path} {body!r}: status {status}, {answer[-300:]!r}")
    return "refused"


async def a_stranger(crowd: Crowd) -> str:
    """Has no key, or a wrong one."""
    headers = crowd.chance.choice(({}, crowd.headers("lf-wrong"), {"x-api-key": "wrong"}))
    body = json.dumps(chat(crowd, crowd.model(), stream=True))
    async with crowd.session.post("/v1/chat/completions", data=body, headers=headers) as response:
        await response.read()
    if response.status != 401:
        raise Wrong(f"a stranger was answered with status {response.status}")
    return "refused"


async def one_over_its_limit(crowd: Crowd) -> str:
    """May ask so many times a minute, and asks oftener."""
    status, answer, headers = await crowd.post(
        "/v1/chat/completions", chat(crowd, "a", stream=False), key=crowd.limited
    )
    if status == 200:
        return "answered"
    if status != 429 or "retry-after" not in headers:
        raise Wrong(f"over the limit: status {status}, {answer[-300:]!r}, {headers}")
    return "refused"


async def a_slow_reader(crowd: Crowd) -> str:
    """Takes a stream in small bites, and perhaps not to its end."""
    body = json.dumps(chat(crowd, crowd.model(), stream=True)).encode()
    bites = crowd.chance.randint(1, 60)
    async with asyncio.timeout(PATIENCE_SECONDS):
        with await _dialled(crowd) as client:
            await _sent(client, _request(crowd, body))
            loop = asyncio.get_running_loop()
            for _ in range(bites):
                await asyncio.sleep(crowd.chance.uniform(0, 0.05))
                if (answer := await loop.sock_recv(client, 64)) == b"" or answer.endswith(b"0\r\n\r\n"):
                    return "answered"
    return "gave up"


async def a_slow_writer(crowd: Crowd) -> str:
    """Stops in the middle of its request, waits, and goes."""
    body = json.dumps(chat(crowd, crowd.model(), stream=True)).encode()
    request = _request(crowd, body)
    with await _dialled(crowd) as client:
        await _sent(client, request[: crowd.chance.randrange(len(request))])
        await asyncio.sleep(crowd.chance.uniform(0, 0.5))
    return "gave up"


def _request(crowd: Crowd, body: bytes) -> bytes:
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {crowd.host}:{crowd.port}\r\n"
        f"Authorization: Bearer {crowd.user}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _dialled(crowd: Crowd) -> socket.socket:
    client = socket.socket()
    try:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BUFFER)
        await asyncio.get_running_loop().sock_connect(client, (crowd.host, crowd.port))
    except BaseException:
        client.close()
        raise
    return client


async def _sent(client: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(client, data)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of client, how often it comes, and the path that the server must have for it."""

    name: str
    weight: int
    act: Callable[[Crowd], Awaitable[str]]
    path: str = "/v1/chat/completions"


KINDS = (
    Kind("fusion", 12, a_fusion),
    Kind("fusion, streamed", 12, a_fusion_streams),
    Kind("engine", 16, an_engine),
    Kind("completion", 4, a_completion, "/v1/completions"),
    Kind("embedding", 4, an_embedding, "/v1/embeddings"),
    Kind("response", 12, a_response, "/v1/responses"),
    Kind("message", 12, a_message, "/v1/messages"),
    Kind("look", 6, a_look),
    Kind("gives up", 16, one_that_gives_up),
    Kind("bad request", 12, a_bad_one),
    Kind("stranger", 4, a_stranger),
    Kind("over its limit", 4, one_over_its_limit),
    Kind("slow reader", 4, a_slow_reader),
    Kind("slow writer", 4, a_slow_writer),
)
