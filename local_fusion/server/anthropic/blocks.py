"""Content blocks: what a client may put into a message, as the text and images that models are shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from local_fusion.core.chat import Image, ToolCall
from local_fusion.errors import RequestError
from local_fusion.server.fields import Part, by_type, listed

Piece = str | Image
CheckImage = Callable[[str, str], None]
"""Raises `RequestError` for an address, at a path, from which no image is taken."""

_NO_FILES = "there is no store of files: send the content itself"
_SERVERS = "Anthropic's servers did that, and models here know nothing of it: leave it out, or tell its result as text"
_NOT_HERE = {
    "container_upload": _NO_FILES,
    "tool_reference": "tools are not searched for here: list those that may be called in 'tools'",
    "browser_state": "there are no toolsets: send what is to be seen as text and images",
    "compaction": "conversations are not compacted here: send the messages themselves",
    **dict.fromkeys(
        (
            "server_tool_use",
            "web_search_tool_result",
            "web_fetch_tool_result",
            "code_execution_tool_result",
            "bash_code_execution_tool_result",
            "text_editor_code_execution_tool_result",
            "tool_search_tool_result",
            "mcp_tool_use",
            "mcp_tool_result",
        ),
        _SERVERS,
    ),
}
_SOURCES_NOT_HERE = {"file": _NO_FILES}
_DOCUMENTS_NOT_HERE = {
    **dict.fromkeys(("base64", "url"), "models here read no PDF: send its text as a source of type text"),
    "file": _NO_FILES,
}


class Block(Part):
    """A content block."""

    # A hint to Anthropic's cache. Engines cache the beginnings of conversations by themselves.
    cache_control: dict[str, Any] | None = None


class Text(Block):
    """Text."""

    type: Literal["text"]
    text: str
    citations: list[Any] | None = None  # where an answer's text is from, for people: no part of what was said


class _Citations(Part):
    enabled: Literal[False] | None = None  # no model here says from where in a document it has something


class _Transformations(Part):
    oversized_image: Literal["downsize"] | None = None  # which engines do


class _Picture(Block):
    type: Literal["image"]
    source: Any
    transformations: _Transformations | None = None


class _Base64(Part):
    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class _Address(Part):
    type: Literal["url"]
    url: str


class _Document(Block):
    type: Literal["document"]
    source: Any
    title: str | None = None
    context: str | None = None
    citations: _Citations | None = None


class _PlainText(Part):
    type: Literal["text"]
    media_type: Literal["text/plain"]
    data: str


class _Blocks(Part):
    type: Literal["content"]
    content: str | list[Any]


class _SearchResult(Block):
    type: Literal["search_result"]
    source: str
    title: str
    content: list[Any]
    citations: _Citations | None = None


class _Thinking(Block):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class _RedactedThinking(Block):
    type: Literal["redacted_thinking"]
    data: str


class _Caller(Part):
    type: Literal["direct"]


class _ToolUse(Block):
    type: Literal["tool_use"]
    id: str = Field(min_length=1)
    name: str = Field(min_length=1)
    input: dict[str, Any]
    caller: _Caller | None = None
    toolset_name: None = None


class ToolResult(Block):
    """What a tool that was called has brought."""

    type: Literal["tool_result"]
    tool_use_id: str = Field(min_length=1)
    content: str | list[Any] | None = None
    is_error: bool | None = None
    toolset_name: None = None


_SHOWN: dict[str, type[Part]] = {
    "text": Text,
    "image": _Picture,
    "document": _Document,
    "search_result": _SearchResult,
}
_USER: dict[str, type[Part]] = {**_SHOWN, "tool_result": ToolResult}
_ASSISTANT: dict[str, type[Part]] = {
    "text": Text,
    "tool_use": _ToolUse,
    "thinking": _Thinking,
    "redacted_thinking": _RedactedThinking,
}


def texts(value: Any, path: str) -> list[str]:
    """The texts of `value`, which is one or a list of text blocks.

    Raises `RequestError`.
    """
    if isinstance(value, str):
        return [value]
    blocks = (by_type({"text": Text}, block, f"{path}[{n}]", _NOT_HERE) for n, block in enumerate(listed(value, path)))
    return [block.text for block in blocks if isinstance(block, Text)]


def said_by_user(value: Any, path: str, check: CheckImage) -> Iterator[tuple[str, Piece | ToolResult]]:
    """What a user's turn shows and which results it brings, each with its path.

    Raises `RequestError`.
    """
    yield from _taken(value, path, _USER, check)


def said_by_assistant(value: Any, path: str) -> Iterator[str | ToolCall]:
    """What a model said, and the tools that it called.

    Raises `RequestError`.
    """
    if isinstance(value, str):
        yield value
        return
    for number, raw in enumerate(listed(value, path)):
        match by_type(_ASSISTANT, raw, f"{path}[{number}]", _NOT_HERE):
            case Text(text=text):
                yield text
            case _ToolUse(id=id_, name=name, input=given):
                yield ToolCall(id_, name, json.dumps(given, ensure_ascii=False))
            case _:
                # What was thought is left out: it was one member's, and would reach the others as if it were theirs.
                pass


def pieces_of(result: ToolResult, path: str, check: CheckImage) -> list[Piece]:
    """What a result shows.

    Raises `RequestError`.
    """
    content = "" if result.content is None else result.content
    taken = _taken(content, f"{path}.content", _SHOWN, check)
    return [piece for _, piece in taken if not isinstance(piece, ToolResult)]


def _taken(
    value: Any, path: str, kinds: Mapping[str, type[Part]], check: CheckImage
) -> Iterator[tuple[str, Piece | ToolResult]]:
    if isinstance(value, str):
        yield path, value
        return
    for number, raw in enumerate(listed(value, path)):
        here = f"{path}[{number}]"
        match by_type(kinds, raw, here, _NOT_HERE):
            case Text(text=text):
                yield here, text
            case _Picture(source=source):
                yield here, _image(source, f"{here}.source", check)
            case _Document() as document:
                for piece in _document(document, here, check):
                    yield here, piece
            case _SearchResult(source=source, title=title, content=content):
                opening, closing = _tags("search_result", source=source, title=title)
                yield here, "\n".join((opening, *texts(content, f"{here}.content"), closing))
            case ToolResult() as result:
                yield here, result


def _image(source: Any, path: str, check: CheckImage) -> Image:
    match by_type({"base64": _Base64, "url": _Address}, source, path, _SOURCES_NOT_HERE):
        case _Base64(media_type=kind, data=data):
            url, field = f"data:{kind};base64,{data}", f"{path}.data"
        case _Address(url=url):
            field = f"{path}.url"
            if url[:5].lower() == "data:":
                raise RequestError(f"'{field}' is an address", param=field, hint="send data as a source of type base64")
        case _:
            raise AssertionError("the table has no other kinds")
    check(url, field)
    return Image(url)


def _document(document: _Document, path: str, check: CheckImage) -> Iterator[Piece]:
    """A document as text with its title, and with images where it has such between its texts."""
    kinds: dict[str, type[Part]] = {"text": _PlainText, "content": _Blocks}
    shown: dict[str, type[Part]] = {"text": Text, "image": _Picture}
    source = f"{path}.source"
    pieces: list[Piece] = []
    match by_type(kinds, document.source, source, _DOCUMENTS_NOT_HERE):
        case _PlainText(data=data):
            pieces = [data]
        case _Blocks(content=content):
            taken = _taken(content, f"{source}.content", shown, check)
            pieces = [piece for _, piece in taken if not isinstance(piece, ToolResult)]
    opening, closing = _tags("document", title=document.title, context=document.context)
    if any(isinstance(piece, Image) for piece in pieces):
        yield from (opening, *pieces, closing)
    else:
        yield "\n".join((opening, *map(str, pieces), closing))


def _tags(tag: str, **attributes: str | None) -> tuple[str, str]:
    """What stands before and after a text to say what it is, as models have learnt to read documents."""
    told = "".join(f" {name}={json.dumps(value, ensure_ascii=False)}" for name, value in attributes.items() if value)
    return f"<{tag}{told}>", f"</{tag}>"
