"""The map of the house holds: imports go down only, nothing heavy is imported early, the error tree is drawn whole."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import get_args

import pytest

from local_fusion import errors

PACKAGE = Path(errors.__file__).parent
LAYERS = (
    "errors",
    "core",
    "config",
    "hardware",
    "planner",
    "engines",
    "scheduler",
    "fusion",
    "traces",
    "runtime",
    "simulation",
    "experiments",
    "server",
    "cli",
)
FORBIDDEN = {"fusion": {"engines", "planner", "hardware"}}
HEAVY = {"torch", "transformers", "vllm"}
MAY_BE_HEAVY = {"local_fusion.engines.checkpoints.gguf_import"}  # runs in a process of its own
FREE = {"__init__", "__main__"}


@dataclass(frozen=True)
class Import:
    """`module` imports `target` in `line`; `early`: when the module is imported, not when a function is called."""

    module: str
    target: str
    line: int
    early: bool


def modules_of(package: Path) -> dict[str, Path]:
    """Every module of a package by its full name."""
    found: dict[str, Path] = {}
    for file in sorted(package.rglob("*.py")):
        parts = (package.name, *file.relative_to(package).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports_of(module: str, file: Path, modules: dict[str, Path]) -> Iterator[Import]:
    """What a module imports, types for the type checker only left out; our own modules by their full names."""
    here = module if file.name == "__init__.py" else module.rpartition(".")[0]

    def visit(node: ast.AST, early: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(module, name.name, node.lineno, early) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = ".".join(here.split(".")[: len(here.split(".")) - node.level + 1])
                base = f"{above}.{base}" if base else above
            for name in node.names:
                full = f"{base}.{name.name}"
                ours = any(known == full or known.startswith(f"{full}.") for known in modules)
                yield Import(module, full if ours else base, node.lineno, early)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for otherwise in node.orelse:
                yield from visit(otherwise, early)
        else:
            inner = early and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, inner)

    yield from visit(ast.parse(file.read_text(encoding="utf-8")), early=True)


def violations(package: Path) -> list[str]:
    """Every import in `package` that breaks a rule of the house."""
    modules = modules_of(package)
    found: list[str] = []
    early: dict[str, set[str]] = {}
    for module, file in modules.items():
        layer = layer_of(module)
        if layer not in (*LAYERS, *FREE):
            found.append(f"{module}: {layer} is in no layer")
        for each in imports_of(module, file, modules):
            where = f"{module}:{each.line}"
            if each.target.split(".")[0] in HEAVY and each.early and module not in MAY_BE_HEAVY:
                found.append(f"{where}: imports {each.target} at module level")
            if each.target.split(".")[0] != package.name:
                continue
            target = layer_of(each.target)
            if target == layer:
                if each.early and each.target != module:
                    early.setdefault(module, set()).add(each.target)
            elif layer in LAYERS and (target not in LAYERS or LAYERS.index(target) > LAYERS.index(layer)):
                if target != "__init__":
                    found.append(f"{where}: {layer} imports {target}, which is above it")
            elif target in FORBIDDEN.get(layer, ()):
                found.append(f"{where}: {layer} must not know {target}")
    return found + cycles(early)


def layer_of(module: str) -> str:
    """The part of the package that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def cycles(imports: dict[str, set[str]]) -> list[str]:
    """A cycle of imports, if there is one."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return [f"modules import each other: {' → '.join(error.args[1])}"]
    return []


def house(folder: Path, files: dict[str, str]) -> Path:
    """A package with these modules (`core/chat` for core/chat.py)."""
    package = folder / "local_fusion"
    for name, text in files.items():
        file = package / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return package


def test_imports_go_down_and_never_in_circles() -> None:
    assert violations(PACKAGE) == []


def test_a_clean_house_has_no_violations(tmp_path: Path) -> None:
    files = {
        "__main__": "from local_fusion.cli import main\n",
        "errors": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from local_fusion.core.chat import X\n",
        "core/chat": "from local_fusion.errors import E\nfrom . import model\n",
        "core/model": "import asyncio\n",
        "engines/host": "def start():\n    import torch\n",
        "engines/checkpoints/gguf_import": "import torch\n",
        "cli/main": "from local_fusion import __version__\nfrom ..core import chat\n",
    }
    package = house(tmp_path, files)
    assert violations(package) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"core/chat": "import local_fusion.config.schema\n"}, "core.chat:1: core imports config, which is above it"),
        ({"core/chat": "def f():\n    from local_fusion.server import app\n"}, "core.chat:2: core imports server"),
        ({"planner/a": "from ..engines import host\n"}, "planner.a:1: planner imports engines, which is above it"),
        (
            {"errors": "from local_fusion import cli\n", "cli/main": ""},
            "errors:1: errors imports cli, which is above it",
        ),
        (
            {"fusion/panel": "from local_fusion.engines.host import Host\n"},
            "fusion.panel:1: fusion must not know engines",
        ),
        ({"fusion/panel": "from local_fusion.planner import plan\n"}, "fusion.panel:1: fusion must not know planner"),
        ({"fusion/panel": "from local_fusion.hardware import probe\n"}, "fusion must not know hardware"),
        ({"engines/a": "import torch.nn\n"}, "engines.a:1: imports torch.nn at module level"),
        ({"engines/a": "try:\n    from vllm import LLM\nexcept ImportError: ...\n"}, "imports vllm at module level"),
        ({"engines/a": "class A:\n    import transformers\n"}, "imports transformers at module level"),
        (
            {"core/a": "from . import b\n", "core/b": "from local_fusion.core.a import x\n"},
            "modules import each other",
        ),
        ({"utils/a": ""}, "local_fusion.utils.a: utils is in no layer"),
    ],
)
def test_every_rule_is_noticed_when_broken(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    found = violations(house(tmp_path, files))
    assert any(expected in violation for violation in found), found


def error_classes() -> list[type[errors.LocalFusionError]]:
    classes = [value for value in vars(errors).values() if inspect.isclass(value)]
    return [value for value in classes if issubclass(value, errors.LocalFusionError)]


@pytest.mark.parametrize("error", error_classes(), ids=lambda error: error.__name__)
def test_every_error_is_drawn_under_its_parent_and_has_a_fault_a_status_and_a_code(
    error: type[errors.LocalFusionError],
) -> None:
    assert error.fault in get_args(errors.Fault)
    assert 400 <= error.status <= 599
    assert re.fullmatch(r"[a-z_]+", error.code)
    assert error.exit_code in (1, 2)
    assert drawn_parents()[error.__name__] == (None if error is errors.LocalFusionError else error.__mro__[1].__name__)


def test_nothing_is_drawn_that_is_not_there() -> None:
    assert drawn_parents().keys() == {error.__name__ for error in error_classes()}


def drawn_parents() -> dict[str, str | None]:
    """The tree in the docstring: each class with the one it hangs under."""
    parents: dict[str, str | None] = {}
    trail: list[tuple[int, str]] = []
    assert errors.__doc__
    tree = errors.__doc__.split("```")[1]
    for line in tree.splitlines():
        match = re.match(r"([│├└─ ]*)([A-Z]\w+)", line)
        if match is None:
            continue
        depth, name = len(match[1]), match[2]
        trail = [(above, parent) for above, parent in trail if above < depth]
        parents[name] = trail[-1][1] if trail else None
        trail.append((depth, name))
    return parents
