"""Messages put to one scripted model, `a`, and to a fusion of it, `one`, without a network between."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, cast

from local_fusion.core.model import Choice
from local_fusion.errors import LocalFusionError
from tests.scripted import Scripted
from tests.server.controlled import Asking, ControlledRuntime, Exchange, asking_of, controlled, overview

QUESTION: list[dict[str, Any]] = [{"role": "user", "content": "What is 6 times 7?"}]
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "How the weather is.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PICTURE: dict[str, Any] = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": PNG},
}


def asked(**more: Any) -> dict[str, Any]:
    """A request; what is None is left out."""
    body = {"model": "a", "max_tokens": 1000, "messages": QUESTION, **more}
    return {name: value for name, value in body.items() if value is not None}


@dataclass
class Talk:
    """A server over `a`, which answers with `choices` in turn or fails with `error`."""

    choices: list[Choice] = field(default_factory=lambda: [Choice("It is 42.")])
    error: LocalFusionError | None = None
    fails_after: int | None = None
    runtime: ControlledRuntime = field(init=False)
    model: Scripted = field(init=False)
    client: Asking = field(init=False)

    def __post_init__(self) -> None:
        self.runtime = controlled(overview("a"), one={"strategy": "single", "panel": ["a"]})
        self.model = cast(Scripted, self.runtime.models["a"])
        self.model.choices, self.model.error, self.model.fails_after = self.choices, self.error, self.fails_after
        self.client = asking_of(self.runtime)

    async def post(self, path: str = "/v1/messages", **more: Any) -> Exchange:
        """The answer to a request."""
        return await self.client.post(path, asked(**more))

    async def refused(self, path: str = "/v1/messages", **more: Any) -> dict[str, Any]:
        """The error of a request that is the caller's fault, in Anthropic's shape; nobody was asked."""
        answer = await self.post(path, **more)
        body: dict[str, Any] = answer.json()
        assert (answer.status, body["type"], body["error"]["type"]) == (400, "error", "invalid_request_error"), body
        assert body["request_id"] == answer.headers["request-id"]
        assert not self.model.requests
        error: dict[str, Any] = body["error"]
        return error

    async def understood(self, **more: Any) -> Any:
        """What reaches the model."""
        answer = await self.post(**more)
        assert answer.status == 200, answer.text
        return self.model.requests[-1]

    async def lines(self, **more: Any) -> list[str]:
        """The lines of a stream, with the request's id as ID."""
        answer = await self.post(stream=True, **more)
        assert answer.status == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        return re.sub(r"\b[0-9a-f]{24}\b|(?<=msg_)[0-9a-f]{24}", "ID", answer.text).splitlines()


def events(lines: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """Each event's name and what it carries."""
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    payloads = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert [payload["type"] for payload in payloads] == names
    return list(zip(names, payloads, strict=True))
