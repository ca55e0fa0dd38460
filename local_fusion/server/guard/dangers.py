"""What engines would load, run or fetch because a request says so: refused in requests that go to them as they came.

Requests in other shapes than vLLM's own cannot say these things. Goes by what vLLM 0.32 reads in chat completions,
completions and embeddings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from local_fusion.config.problems import KeyPath, render_path
from local_fusion.config.server import ServerConfig
from local_fusion.errors import RequestError
from local_fusion.server.media import check_media_url

_TEMPLATE = ("a chat template is a program", "set the model's `chat_template` in the configuration")
_ELSEWHERE = ("it would make the engine exchange its memory with another machine", "leave it out")
_TENSORS = ("tensors are unpacked by code that trusts them", "send text or images")
_PROCESSOR = (
    "it changes how the engine reads media, and so how much memory that takes",
    "set it for the model: extra_args: ['--{flag}', '{{…}}']",
)
# Field → (why not, what to do instead).
_REFUSED = {
    "chat_template": _TEMPLATE,
    "kv_transfer_params": _ELSEWHERE,
    "ec_transfer_params": _ELSEWHERE,
    "prompt_embeds": _TENSORS,
    "mm_processor_kwargs": (_PROCESSOR[0], _PROCESSOR[1].format(flag="mm-processor-kwargs")),
    "media_io_kwargs": (_PROCESSOR[0], _PROCESSOR[1].format(flag="media-io-kwargs")),
    # By name from any module that the engine can import; vLLM before 0.10 took it.
    "logits_processors": ("it would make the engine run code of the request's choice", "leave it out"),
}
# Arguments of templates are harmless (`enable_thinking`), but these are the renderer's own.
_NOT_IN_TEMPLATES = ("chat_template", "tokenize", "tokenizer", "return_tensors", "return_dict")
_PARTS = ("image_embeds", "audio_embeds", "video_embeds", "prompt_embeds", "image_pil")
_MEDIA = ("image_url", "input_image", "video_url", "audio_url")
_DEEPEST, _MOST_PARTS = 64, 100_000
_INLINE = re.compile(r"data:(audio|video)/[a-z0-9.+-]+;base64,", re.IGNORECASE)


def refuse_dangerous(body: Mapping[str, Any], settings: ServerConfig) -> None:
    """Let pass a body that makes an engine do nothing but answer.

    Raises `RequestError` that names the field.
    """
    for field, (why, instead) in _REFUSED.items():
        if body.get(field) is not None:
            raise RequestError(f"'{field}' is not taken from requests: {why}", param=field, hint=instead)
    arguments = body.get("chat_template_kwargs")
    for name in _NOT_IN_TEMPLATES:
        if isinstance(arguments, Mapping) and name in arguments:
            param = f"chat_template_kwargs.{name}"
            raise RequestError(f"'{param}' is not taken from requests: {_TEMPLATE[0]}", param=param, hint=_TEMPLATE[1])
    for field in ("messages", "input"):
        if isinstance(body.get(field), list):
            _refuse_parts(body[field], field, settings)


def _refuse_parts(messages: list[Any], field: str, settings: ServerConfig) -> None:
    """The same for everything within messages that vLLM takes for media, by whatever key it would find it."""
    for path, part in _mappings(messages, (field,)):
        for key in _PARTS:
            if part.get(key) is not None:
                param = render_path((*path, key))
                raise RequestError(
                    f"'{param}' is not taken from requests: {_TENSORS[0]}", param=param, hint=_TENSORS[1]
                )
        for key in _MEDIA:
            media = part.get(key)
            url = media.get("url") if isinstance(media, Mapping) else media
            if isinstance(url, str) and not (key in ("video_url", "audio_url") and _INLINE.match(url)):
                where = (*path, key, "url") if isinstance(media, Mapping) else (*path, key)
                check_media_url(url, render_path(where), settings)


def _mappings(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    """Every mapping within `value` with its path, the first one first.

    Raises `RequestError` for more of them, or deeper ones, than any conversation has: how many is the client's choice.
    """
    open_ends: list[tuple[KeyPath, Any]] = [(path, value)]
    seen = 0
    while open_ends:
        path, value = open_ends.pop()
        seen += 1
        if isinstance(value, Mapping):
            yield path, value
        steps = value.items() if isinstance(value, Mapping) else enumerate(value)
        found = (((*path, step), each) for step, each in steps if isinstance(each, dict | list))
        inner = list(islice(found, _MOST_PARTS))
        if len(path) > _DEEPEST or seen + len(inner) > _MOST_PARTS:
            raise RequestError(
                f"'{path[0]}' holds more, or more deeply nested, than a conversation does", param=str(path[0])
            )
        open_ends += reversed(inner)
