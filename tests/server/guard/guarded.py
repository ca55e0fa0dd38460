"""A server with a guard that tests have set up: its keys, its options, and requests down to every header."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from local_fusion.config.server import ServerConfig
from local_fusion.server.guard.access import Access
from local_fusion.server.guard.keys import Key, Keys, hash_of, write_keys
from tests.server.controlled import ControlledRuntime, app_over, controlled, overview

CHAT = {"model": "one", "messages": [{"role": "user", "content": "hello"}]}
MESSAGES = {"model": "one", "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}]}
Headers = Sequence[tuple[str, str]] | Mapping[str, str]


def entry(name: str, key: str | None = None, **fields: Any) -> Key:
    """An entry of the file of keys; the key is the name after `lf-`, unless it is given."""
    return Key.model_validate({"name": name, "sha256": hash_of((key or f"lf-{name}").encode()), **fields})


def keyed(folder: Path, *entries: Key) -> Path:
    """A file with these keys."""
    path = folder / "keys.yaml"
    write_keys(path, Keys(keys=list(entries)))
    return path


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: list[tuple[str, str]]
    raw: bytes

    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def error(self) -> Any:
        return self.json()["error"]

    def header(self, name: str) -> str | None:
        return next((value for each, value in self.headers if each == name), None)


@dataclass
class Guarded:
    """An application and whoever asks it."""

    app: FastAPI
    runtime: ControlledRuntime
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def access(self) -> Access:
        """What the guard knows."""
        found = next(each.kwargs["access"] for each in self.app.user_middleware if "access" in each.kwargs)
        assert isinstance(found, Access)
        return found

    async def call(self, method: str, path: str, body: Any = None, headers: Headers = ()) -> Answer:
        """The whole answer; the request's body comes at once."""
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        unread = [{"type": "http.request", "body": raw, "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            return unread.pop() if unread else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(self.scope(method, path, headers), receive, send)
        given = [(name.decode(), value.decode("latin-1")) for name, value in sent[0]["headers"]]
        return Answer(sent[0]["status"], given, b"".join(message.get("body", b"") for message in sent[1:]))

    def scope(self, method: str, path: str, headers: Headers = ()) -> dict[str, Any]:
        """A request as the server of HTTP hands it on."""
        several = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        given = [(name.lower().encode(), value.encode("utf-8")) for name, value in (*self.headers.items(), *several)]
        path, _, query = path.partition("?")
        return {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": given}

    async def get(self, path: str, headers: Headers = ()) -> Answer:
        return await self.call("GET", path, headers=headers)

    async def post(self, path: str, body: Any, headers: Headers = ()) -> Answer:
        return await self.call("POST", path, body, headers)


def with_options(runtime: ControlledRuntime, **options: Any) -> ControlledRuntime:
    """The same with other options of the server."""
    server = ServerConfig.model_validate({**runtime.config.server.model_dump(), **options})
    runtime.config = runtime.config.model_copy(update={"server": server})
    return runtime


def guarded(keys: Path | None = None, **options: Any) -> Guarded:
    """A server over the engines `a` and `b` with the fusions `one` (asks a) and `two` (asks b)."""
    runtime = controlled(
        overview("a"),
        overview("b"),
        one={"strategy": "single", "panel": ["a"]},
        two={"strategy": "single", "panel": ["b"]},
    )
    with_options(runtime, api_keys_file=None if keys is None else str(keys), **options)
    return Guarded(app_over(runtime), runtime)


def bearer(name: str) -> dict[str, str]:
    """The key of `entry(name)`, shown as OpenAI's clients do."""
    return {"authorization": f"Bearer lf-{name}"}
