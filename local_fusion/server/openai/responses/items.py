"""Input items: what a client may send, in the form in which they are kept and listed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from pydantic import Field

from local_fusion.errors import RequestError
from local_fusion.server.fields import Part, by_type, checked, listed

Item = dict[str, Any]
CheckImage = Callable[[str, str], None]
"""Raises `RequestError` for an address, at a path, from which no image is taken."""

REFERENCE = "item_reference"
RESULT = "openrouter:fusion"

_FILES = "there is no store of files: send the text itself as input_text"
_NOT_HERE = {
    "input_file": _FILES,
    "input_audio": "models here hear nothing",
    "custom_tool_call": "only functions are called here",
    "custom_tool_call_output": "only functions are called here",
    "compaction": "conversations are not compacted here: send the items themselves",
    "compaction_trigger": "conversations are not compacted here",
}


class _Text(Part):
    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: dict[str, Any] | None = None  # a hint to OpenAI's cache


class _Image(Part):
    type: Literal["input_image"]
    image_url: str | None = None
    detail: Literal["low", "high", "auto"] | None = None
    file_id: None = None  # there is no store of files
    prompt_cache_breakpoint: dict[str, Any] | None = None  # a hint to OpenAI's cache


class _Said(Part):
    type: Literal["output_text"]
    text: str
    # Left over from an answer that is sent back as it came.
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    parsed: Any = None


class _Refused(Part):
    type: Literal["refusal"]
    refusal: str


class _Message(Part):
    type: Literal["message"] = "message"
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Any]
    status: str | None = None
    phase: Literal["commentary", "final_answer"] | None = None  # models here know no such labels


class _Called(Part):
    type: Literal["function_call"]
    id: str | None = None
    call_id: str = Field(min_length=1)
    name: str = Field(min_length=1)
    arguments: str
    status: str | None = None
    parsed_arguments: Any = None  # the arguments once more: the official client's helpers leave it there
    namespace: None = None
    caller: None = None
    asynchronous: Literal[False] | None = Field(None, alias="async")


class _Result(Part):
    type: Literal["function_call_output"]
    id: str | None = None
    call_id: str = Field(min_length=1)
    output: str | list[Any]
    status: str | None = None
    name: str | None = None  # which the call has, too
    namespace: None = None
    caller: None = None
    created_by: str | None = None


class _Thoughts(Part):
    type: Literal["reasoning"]
    id: str | None = None
    summary: list[Any] | None = None
    content: list[Any] | None = None
    encrypted_content: str | None = None
    status: str | None = None


class _Reference(Part):
    type: Literal["item_reference"] | None = None
    id: str = Field(min_length=1)


_HEARD: dict[str, type[Part]] = {"input_text": _Text, "input_image": _Image}
_SPOKEN: dict[str, type[Part]] = {"output_text": _Said, "refusal": _Refused, "input_text": _Text}
_ITEMS: dict[str, type[Part]] = {
    "message": _Message,
    "function_call": _Called,
    "function_call_output": _Result,
    "reasoning": _Thoughts,
    REFERENCE: _Reference,
}


def read_items(given: str | list[Any], name: str, check_image: CheckImage) -> list[Item]:
    """The items of `input`, each with an id, made of `name` where the client gave none; references as they are.

    Raises `RequestError` with the path of what is wrong.
    """
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not given:
        raise RequestError("'input' has no items", param="input")
    return [_item(value, f"input[{number}]", f"{name}_{number}", check_image) for number, value in enumerate(given)]


def _item(value: Any, path: str, name: str, check_image: CheckImage) -> Item:
    if isinstance(value, Mapping) and value.get("type") is None:  # which both may leave out
        kind = _Message if "role" in value or "id" not in value else _Reference
        item: Part = checked(kind, {key: part for key, part in value.items() if key != "type"}, path)
    elif isinstance(value, Mapping) and value.get("type") == RESULT:
        # How an answer came about, sent back beside the answer itself; `messages` leaves it out.
        return {**value, "id": value["id"] if isinstance(value.get("id"), str) else f"fusion_{name}"}
    else:
        item = by_type(_ITEMS, value, path, _NOT_HERE)
    match item:
        case _Message():
            return _message(item, path, name, check_image)
        case _Called():
            plain = {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
            return {"id": item.id or f"fc_{name}", "type": "function_call", "status": "completed", **plain}
        case _Result():
            output: Any = item.output
            if not isinstance(output, str):
                output = [_heard(part, f"{path}.output[{at}]", check_image) for at, part in enumerate(output)]
            head = {"id": item.id or f"fco_{name}", "type": "function_call_output", "status": "completed"}
            return {**head, "call_id": item.call_id, "output": output}
        case _Thoughts():
            told = {"summary": item.summary or [], "content": item.content or []}
            return {"id": item.id or f"rs_{name}", "type": "reasoning", **told}
        case _:
            return {"id": cast(_Reference, item).id, "type": REFERENCE}


def _message(message: _Message, path: str, name: str, check_image: CheckImage) -> Item:
    head = {"id": message.id or f"msg_{name}", "type": "message", "status": "completed", "role": message.role}
    if message.role == "assistant":
        if isinstance(message.content, str):
            return {**head, "content": [_output_text(message.content)]}
        parts = enumerate(listed(message.content, f"{path}.content"))
        return {**head, "content": [_spoken(part, f"{path}.content[{at}]") for at, part in parts]}
    if isinstance(message.content, str):
        return {**head, "content": [{"type": "input_text", "text": message.content}]}
    parts = enumerate(listed(message.content, f"{path}.content"))
    return {**head, "content": [_heard(part, f"{path}.content[{at}]", check_image) for at, part in parts]}


def _heard(value: Any, path: str, check_image: CheckImage) -> Item:
    part = by_type(_HEARD, value, path, _NOT_HERE)
    if isinstance(part, _Text):
        return {"type": "input_text", "text": part.text}
    assert isinstance(part, _Image)
    if part.image_url is None:
        raise RequestError(f"'{path}.image_url' is missing", param=f"{path}.image_url")
    check_image(part.image_url, f"{path}.image_url")
    return {"type": "input_image", "image_url": part.image_url, "detail": part.detail or "auto"}


def _spoken(value: Any, path: str) -> Item:
    part = by_type(_SPOKEN, value, path, {})
    if isinstance(part, _Refused):
        return {"type": "refusal", "refusal": part.refusal}
    return _output_text(cast(_Said | _Text, part).text)


def _output_text(text: str) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
