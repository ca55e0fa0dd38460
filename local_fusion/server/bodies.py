"""Request bodies: read within bounds, and checked to be what every route needs of them."""

from __future__ import annotations

import json
import math
from typing import Any

from fastapi import Request
from pydantic import TypeAdapter, ValidationError

from local_fusion.core.chat import Priority
from local_fusion.errors import RequestError, TooLarge

# OpenAI's field for how urgent a request is; "flex" is its word for "slower is fine".
PRIORITIES: dict[str, Priority] = {
    "auto": "interactive",
    "default": "interactive",
    "priority": "interactive",
    "fast": "interactive",
    "scale": "interactive",
    "flex": "batch",
}
_WHOLE = TypeAdapter(int)
_MOST_ANSWERS = 10**9  # beyond all limits; Python does not even write numbers of thousands of digits


async def read_raw(request: Request, most_bytes: int) -> bytes:
    """The body as sent.

    Raises `TooLarge`, and `RequestError` for one that is compressed.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError("compressed bodies are not taken", hint="send the body as it is, without Content-Encoding")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and len(announced) < 20 and int(announced) > most_bytes:
        raise _too_large(most_bytes)  # before any of it is taken in
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most_bytes:
            raise _too_large(most_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


async def read_json(request: Request, most_bytes: int) -> tuple[bytes, dict[str, Any]]:
    """The body as sent and as JSON.

    Raises `TooLarge` and `RequestError`.
    """
    raw = await read_raw(request, most_bytes)
    try:
        # As text: from bytes it would also be read as UTF-16, in which engines and what we splice do not write.
        body = json.loads(raw.decode(), parse_float=_finite, parse_constant=_finite)
    except UnicodeDecodeError:
        raise RequestError("the body is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    if b"\\ud" in raw.lower() and not _is_text(body):
        raise RequestError("the body holds half of a surrogate pair, which is no text")
    return raw, body


def _finite(text: str) -> float:
    """The number that `text` spells; what Python reads as a number and JSON cannot write is none."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a number that JSON has")
    return number


def _too_large(most_bytes: int) -> TooLarge:
    return TooLarge(f"the request is larger than {most_bytes} bytes", hint="raise server.max_body_bytes")


def _is_text(body: dict[str, Any]) -> bool:
    """Whether all of `body` can be written as UTF-8: JSON's escapes can spell what cannot."""
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def model_name(body: dict[str, Any]) -> str:
    """Who is asked.

    Raises `RequestError`.
    """
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise RequestError("'model' is missing: name a fusion or an engine (GET /v1/models lists them)", param="model")
    return name


def priority_of(service_tier: Any) -> Priority:
    """What OpenAI's `service_tier` means here; interactive where it was left out.

    Raises `RequestError` for any value that is none of OpenAI's.
    """
    if service_tier is None:
        return "interactive"
    if not isinstance(service_tier, str) or service_tier not in PRIORITIES:
        told = ", ".join(PRIORITIES)
        raise RequestError(f"'service_tier' is one of {told}, not {service_tier!r}", param="service_tier")
    return PRIORITIES[service_tier]


def whole(value: Any) -> int | None:
    """The number that vLLM reads there, which takes "8" and 8.0 for 8, too; None for what it refuses."""
    try:
        return _WHOLE.validate_python(value)
    except ValidationError:
        return None


def sequences(body: dict[str, Any]) -> int:
    """How many sequences an engine request is to vLLM: each prompt or input once for each answer wanted of it.

    What is malformed counts as one: vLLM itself will say what is wrong with it.
    """
    prompts = body.get("prompt", body.get("input"))
    several = isinstance(prompts, list) and bool(prompts) and not isinstance(prompts[0], int)
    answers = min(max(1, whole(body.get("n")) or 1), _MOST_ANSWERS)
    return answers * (len(prompts) if several and isinstance(prompts, list) else 1)
