"""The README's table of clients, made of the tests; `python -m tests.conformance.table --write` puts it there."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
BEGIN, END = "<!-- clients: made by tests/conformance/table.py -->\n", "<!-- /clients -->"


def features() -> dict[str, list[str]]:
    """What is tested of each client, by the `client` marks of this folder's tests, in their order."""
    found: dict[str, list[str]] = {}
    for file in sorted(HERE.glob("test_*.py")):
        for name, feature in _marks(ast.parse(file.read_text(encoding="utf-8"))):
            if feature not in found.setdefault(name, []):
                found[name].append(feature)
    return dict(sorted(found.items(), key=lambda entry: entry[0].lower()))


def _marks(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.client":
                    name, feature = (ast.literal_eval(argument) for argument in mark.args)
                    yield name, feature


def table() -> str:
    """The table in Markdown."""
    rows = [f"| {name} | {' · '.join(tested)} |" for name, tested in features().items()]
    return "\n".join(["| client | what is tested |", "| --- | --- |", *rows, ""])


def in_readme(text: str) -> str:
    """The part of the README that is the table."""
    return text.partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        text = README.read_text(encoding="utf-8")
        README.write_text(text.replace(BEGIN + in_readme(text), BEGIN + table()), encoding="utf-8")
    else:
        print(table(), end="")
