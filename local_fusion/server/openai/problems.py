"""What is wrong with a field of a chat completion: which one, what was expected, and why some are not taken."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from local_fusion.errors import RequestError
from local_fusion.server.fields import LONGEST_SHOWN, shown

CHOICE = "ToolChoice"  # the class of what `tool_choice` may be beside a word
_ENGINES = "are answered by engines: use an engine's name as model"
_SEARCH = "nothing here searches the web: give the model a function that does"
# Fields of OpenAI's, OpenRouter's and vLLM's that a fusion cannot honour, and why, or what to do instead.
_NOT_HERE = {
    "logprobs": f"log-probabilities {_ENGINES}",
    "top_logprobs": f"log-probabilities {_ENGINES}",
    "logit_bias": f"logit biases {_ENGINES}",
    "functions": "deprecated by OpenAI, and not known here: use 'tools'",
    "function_call": "deprecated by OpenAI, and not known here: use 'tools' and 'tool_choice'",
    "audio": "models here write text only",
    "modalities": "models here write text only",
    "web_search_options": _SEARCH,
    "moderation": "nothing is moderated here",
    "store": "chat completions are not stored; POST /v1/responses stores its answers",
    "verbosity": "models here know no such level: say in the prompt how long the answer is to be",
    "models": "no other model is asked where one fails: name a fusion of strategy single, whose members stand in",
    "transforms": "a client's conversation is never cut: shorten it, or ask a model with a larger context",
    "debug": "there is no upstream whose request could be shown; `fusion.include` shows how the answer came about",
    "image_config": "models here make no images",
    "top_a": "vLLM has no such sampling; use min_p",
    "stop_server_tools_when": "the one server tool here, openrouter:fusion, runs at most once",
    "chat_template": "chat templates are taken from the configuration only",
    "stream_options.include_obfuscation": "nothing is padded here",
    "reasoning.max_tokens": "no model here bounds its thinking by tokens: use reasoning.effort",
}
_TYPES_NOT_HERE = {
    "input_audio": "models here hear nothing",
    "file": "there is no store of files: send the text itself",
    "video_url": "videos are taken by engines that know them: use an engine's name as model",
    "custom": "models here call functions with JSON arguments only: make it a function with one text parameter",
    "openrouter:web_search": _SEARCH,
    "openrouter:web_fetch": "nothing here fetches pages: give the model a function that does",
    "openrouter:datetime": "there is no such tool here: tell the time in a message",
    "openrouter:image_generation": "models here make no images",
}


def bad_field(kind: type[BaseModel], error: ValidationError) -> RequestError:
    """The first field that is unknown or has a bad value."""
    # A union reports every branch; the deepest location is the branch that the caller meant.
    first = max(error.errors(include_url=False), key=lambda problem: len(problem["loc"]))
    unknown = first["type"] == "extra_forbidden"
    *inner, last = first["loc"] or ("",)
    location = [part for part in inner if not _is_branch(part)]
    if unknown or not _is_branch(last):
        location.append(last)
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    path = path[:LONGEST_SHOWN]
    name = str(location[-1]) if location else ""
    value = first["input"]
    if location and (reason := _why_not(path, name, value)):
        return RequestError(f"'{path}': {reason}", param=path)
    if unknown:
        near = get_close_matches(name[:64], kind.model_fields, 1) if len(location) == 1 else []
        meant = f"; did you mean '{near[0]}'?" if near else ""
        return RequestError(f"unknown field '{path}': a fusion does not know it{meant}", param=path)
    if first["type"] == "missing":
        return RequestError(f"'{path}' is missing", param=path)
    return RequestError(f"'{path}': {first['msg'].removeprefix('Value error, ')}, got {shown(value)}", param=path)


def _why_not(path: str, name: str, value: Any) -> str | None:
    if name == "type" and isinstance(value, str):
        return _TYPES_NOT_HERE.get(value)
    return _NOT_HERE.get(path) or _NOT_HERE.get(re.split(r"[.\[]", path, maxsplit=1)[0])


def _is_branch(part: int | str) -> bool:
    """Whether a part of an error's location names a branch of a union, not a field."""
    return isinstance(part, str) and (part in ("str", CHOICE) or part.startswith(("list[", "literal[")))
