"""YAML as values that remember their lines. The core schema of YAML 1.2: `yes`, `on` and `2024-01-01` are just text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from local_fusion.config.problems import KeyPath, Problem, shown

_TAG = "tag:yaml.org,2002:"
_MOST_VALUES = 100_000  # aliases can unfold a small file into a huge one


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own class attribute)


for _kind, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
    ("merge", r"^<<$", ["<"]),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(_pattern), _first)


_HINTS = (  # (what PyYAML says, what it means); the first match counts
    (r"found character '\\t'", "indent with spaces: YAML does not allow tabs"),
    (r"mapping values are not allowed", "check the indentation, and put text that contains ': ' in quotes"),
    (r"could not find expected ':'", "write `key: value`, with a space after the colon"),
    (r"expected ',' or '\]'", "a '[' is not closed, or a comma is missing between its entries"),
    (r"expected ',' or '\}'", "a '{' is not closed, or a comma or a space after a colon is missing in it"),
    (r"found unexpected end of stream", "a quote is opened and never closed"),
    (r"expected <block end>", "the indentation does not line up with the lines above, or a bracket is not balanced"),
    (r"expected the node content|did not find expected", "a bracket is not balanced, or a value is missing"),
    (r"unknown escape character", "in double quotes a backslash starts an escape: use single quotes"),
    (
        r"undefined alias",
        "a '*name' refers to an '&name' that must come before it; text that starts with * needs quotes",
    ),
    (r"cannot start any token", "put text that starts with this character in quotes"),
    (r"but found another document", "only one document is allowed in a file: remove the '---' line"),
)


_GLUED = re.compile(r"\s*[A-Za-z0-9_-]+:[^\s:/]")  # `key:value`


class YamlSyntaxError(Exception):
    """The text is not YAML; `line` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


@dataclass(frozen=True, slots=True)
class Document:
    """The values of a YAML text; problems found while reading them; and where everything is."""

    data: Any
    problems: tuple[Problem, ...]
    root: Node | None

    def line(self, path: KeyPath) -> int:
        """The line (from 1) of the key at `path`, or of the nearest part of the path that exists."""
        node, line = self.root, 1
        for step in path:
            found = _child(node, step)
            if found is None:
                break
            line, node = found
        return line


def read_document(text: str) -> Document:
    """Parse YAML text.

    Raises `YamlSyntaxError`. Repeated keys, keys that are not text and unknown tags become problems.
    """
    builder = _Builder()
    try:
        root = yaml.compose(text, Loader=_Loader)
        data = builder.build(root, ()) if root is not None else None
    except yaml.MarkedYAMLError as error:
        raise _plain_words(error, text.splitlines()) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position] if isinstance(error.position, int) else ""
        message = f"not valid YAML: {error.reason} (code {error.character})"
        raise YamlSyntaxError(message, before.count("\n") + 1) from None
    except RecursionError:
        raise YamlSyntaxError("not valid YAML: brackets are nested too deeply", 1) from None
    return Document(data, tuple(builder.problems), root)


def _plain_words(error: yaml.MarkedYAMLError, lines: list[str]) -> YamlSyntaxError:
    said = f"{error.context or ''}; {error.problem or ''}".strip("; ")
    hint = next((meaning for pattern, meaning in _HINTS if re.search(pattern, said)), "")
    line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
    above = lines[line - 2] if line >= 2 else ""
    if "mapping values" in said and _GLUED.match(above):
        hint = f"in line {line - 1} a space is missing after the colon: `{above.strip()}`"
    opened = error.context_mark.line + 1 if error.context_mark is not None else line
    since = f" (begun in line {opened})" if opened != line else ""
    return YamlSyntaxError(f"not valid YAML: {said}{since}" + (f"; {hint}" if hint else ""), line)


def _entries(node: MappingNode) -> Iterator[tuple[ScalarNode | Node, Node]]:
    """Key and value nodes: the mapping's own first, then those it merges in with `<<`, however deep."""
    for mapping in _merged(node, {id(node)}):
        for key, value in mapping.value:
            if key.tag != f"{_TAG}merge":
                yield key, value


def _merged(node: MappingNode, seen: set[int]) -> Iterator[MappingNode]:
    """The mapping and all it merges in, those whose keys win first; each once, however often it is named."""
    yield node
    for source in _sources(node):
        if isinstance(source, MappingNode) and id(source) not in seen:
            seen.add(id(source))
            yield from _merged(source, seen)


def _sources(node: MappingNode) -> Iterator[Node]:
    for key, value in node.value:
        if key.tag == f"{_TAG}merge":
            yield from value.value if isinstance(value, SequenceNode) else [value]


def _child(node: Node | None, step: str | int) -> tuple[int, Node] | None:
    if isinstance(node, MappingNode):
        for key, value in _entries(node):
            if isinstance(key, ScalarNode) and key.value == step:
                return key.start_mark.line + 1, value
    elif isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
        entry: Node = node.value[step]
        return entry.start_mark.line + 1, entry
    return None


class _Builder:
    """Turns nodes into values and collects problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._open: set[int] = set()
        self._count = 0

    def build(self, node: Node, path: KeyPath) -> Any:
        self._count += 1
        if self._count > _MOST_VALUES:
            if self._count == _MOST_VALUES + 1:
                self._complain(node, path, f"the file unfolds to more than {_MOST_VALUES} values")
            return None
        if id(node) in self._open:
            self.problems.append(Problem(path, "an alias contains itself"))
            return None
        self._open.add(id(node))
        try:
            if not isinstance(node, ScalarNode) and node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
                self._unknown_tag(node, path)
            if isinstance(node, MappingNode):
                return self._mapping(node, path)
            if isinstance(node, SequenceNode):
                return [self.build(entry, (*path, index)) for index, entry in enumerate(node.value)]
            return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        self._check_merges(node, path)
        own = sum(key.tag != f"{_TAG}merge" for key, _ in node.value)
        for position, (key, value) in enumerate(_entries(node)):
            if not isinstance(key, ScalarNode) or key.tag != f"{_TAG}str":
                what = f"'{key.value}'" if isinstance(key, ScalarNode) and key.value else "a text"
                self._complain(key, path, f"expected a text as key; write {what} in quotes")
            elif key.value in values:
                if position < own:
                    first, again = lines[key.value], key.start_mark.line + 1
                    message = f"given twice, in line {first} and in line {again}; remove one of them"
                    self._complain(key, (*path, key.value), message)
            else:
                values[key.value] = self.build(value, (*path, key.value))
                lines[key.value] = key.start_mark.line + 1
        return values

    def _check_merges(self, node: MappingNode, path: KeyPath) -> None:
        for mapping in _merged(node, {id(node)}):
            for source in _sources(mapping):
                if id(source) in self._open:
                    self._complain(source, path, "an alias contains itself")
                elif not isinstance(source, MappingNode):
                    self._complain(source, path, "'<<' takes a mapping, or a list of mappings, most often as '*name'")

    def _scalar(self, node: Node, path: KeyPath) -> Any:
        text = str(node.value)
        match node.tag.removeprefix(_TAG):
            case "str":
                return text
            case "null":
                return None
            case "bool" if text.casefold() in ("true", "false"):
                return text.casefold() == "true"
            case "int" | "float" as kind:
                try:
                    number = int(text, 0 if text[:2] in ("0o", "0x") else 10) if kind == "int" else float(text)
                    usable = math.isfinite(number)
                except (ValueError, OverflowError):
                    usable = False
                if usable:
                    return number
                self._complain(node, path, f"not a number that can be used: {shown(text)}")
            case _:
                self._unknown_tag(node, path)
        return None

    def _unknown_tag(self, node: Node, path: KeyPath) -> None:
        self._complain(node, path, f"the tag {node.tag.replace(_TAG, '!!')} has no meaning here; remove it")

    def _complain(self, node: Node, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(path, message, node.start_mark.line + 1))
