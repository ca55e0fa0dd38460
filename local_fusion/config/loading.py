"""From a YAML file to a frozen, cross-checked `Config`; all problems are reported at once, in line order."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from local_fusion.config.checks import Parts, check_config, check_parts
from local_fusion.config.document import Document, YamlSyntaxError, read_document
from local_fusion.config.openrouter import OpenRouterConfig
from local_fusion.config.overrides import override_fusion
from local_fusion.config.paths import resolve_model, resolve_server
from local_fusion.config.persona_files import read_personas
from local_fusion.config.presets import expanded
from local_fusion.config.problems import Problem, nearest, shown
from local_fusion.config.schema import Config, ModelConfig
from local_fusion.config.strategies import FusionConfig
from local_fusion.config.validation import problems_of
from local_fusion.errors import ConfigError, SetupError

__all__ = ["CONFIG_NAME", "check_config", "find_config", "load_config", "override_fusion"]

CONFIG_NAME = "local-fusion.yaml"
_MOST_BYTES = 4 * 1024**2
_fusion: TypeAdapter[FusionConfig] = TypeAdapter(FusionConfig)


def find_config(explicit: Path | None = None) -> Path:
    """The configuration to use: `explicit`, else `local-fusion.yaml` in the working directory, else the demo.

    Raises `SetupError` if this installation has lost the demo.
    """
    if explicit is not None:
        return explicit
    here = Path(CONFIG_NAME)
    if here.exists():
        return here
    package = Path(__file__).parent
    for demo in (package / "demo.yaml", package.parents[1] / "configs" / "demo.yaml"):
        if demo.is_file():
            return demo
    raise SetupError(
        "the embedded demo configuration is missing from this installation",
        hint=f"install local-fusion again, or write a {CONFIG_NAME} in the working directory",
    )


def load_config(path: Path) -> Config:
    """Read, validate and cross-check a configuration file; local paths in it become absolute.

    Raises `ConfigError` with every problem as `file:line: key: what was expected, got what`.
    """
    text = _read(path)
    try:
        document = read_document(text)
    except YamlSyntaxError as error:
        raise ConfigError([f"{path}:{error.line}: {error.message}"], file=path) from None
    _must_be_a_mapping(document, path)
    folder = path.resolve().parent
    data, problems = read_personas(document.data, folder, os.environ)
    data = expanded(data)
    problems += document.problems
    config: Config | None = None
    try:
        config = Config.model_validate(data, strict=True)
        parts = Parts.of(config)
    except ValidationError as error:
        problems += problems_of(error, data)
        parts = _valid_parts(data)
    problems += check_parts(parts)
    models: dict[str, ModelConfig] = {}
    for name, model in parts.models.items():
        if model is not None:
            models[name], wrong = resolve_model(("models", name), model, folder, os.environ)
            problems += wrong
    server = None
    if config is not None:
        server, wrong = resolve_server(("server",), config.server, folder, os.environ)
        problems += wrong
    if config is None or problems:
        raise ConfigError(_in_line_order(problems, document, path), file=path)
    return config.model_copy(update={"models": models, "server": server})


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError([f"{path}: there is no such file{_near_file(path)}"], file=path) from None
    except IsADirectoryError:
        raise ConfigError([f"{path}: this is a folder, not a configuration file"], file=path) from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError([f"{path}: cannot be read: {reason}"], file=path) from None
    if len(raw) > _MOST_BYTES:
        raise ConfigError([f"{path}: larger than {_MOST_BYTES} bytes: this is no configuration file"], file=path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        message = f"{path}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x}); save the file as UTF-8"
        raise ConfigError([message], file=path) from None


def _near_file(path: Path) -> str:
    try:
        others = [other.name for other in path.parent.iterdir() if other.suffix in (".yaml", ".yml")]
    except OSError:
        return f"; the folder {path.parent} cannot be listed either"
    near = nearest(path.name, others)
    return f"; did you mean '{path.parent / near}'?" if near else ""


def _must_be_a_mapping(document: Document, path: Path) -> None:
    if isinstance(document.data, dict):
        return
    got = "but the file is empty" if document.root is None else f"got {shown(document.data)}"
    message = f"{path}:1: expected a mapping with `models:` and `fusions:` at the top, {got}"
    raise ConfigError([message], file=path, hint="configs/demo.yaml is an example to start from")


def _valid_parts(data: dict[str, Any]) -> Parts:
    """The models and fusions that are valid in themselves, and the names of those that are not."""

    def entries(key: str) -> dict[str, Any]:
        found = data.get(key)
        return found if isinstance(found, dict) else {}

    def model(value: Any) -> ModelConfig | None:
        try:
            return ModelConfig.model_validate(value, strict=True)
        except ValidationError:
            return None

    def fusion(value: Any) -> FusionConfig | None:
        try:
            return _fusion.validate_python(value, strict=True)
        except ValidationError:
            return None

    def openrouter() -> OpenRouterConfig:
        try:
            return OpenRouterConfig.model_validate(entries("openrouter"), strict=True)
        except ValidationError:
            return OpenRouterConfig()

    return Parts(
        models={name: model(value) for name, value in entries("models").items()},
        fusions={name: fusion(value) for name, value in entries("fusions").items()},
        personas=entries("personas").keys(),
        aliases={name: target for name, target in entries("aliases").items() if isinstance(target, str)},
        openrouter=openrouter(),
    )


def _in_line_order(problems: Iterable[Problem], document: Document, path: Path) -> list[str]:
    lined = sorted(
        ((problem.line or document.line(problem.path), problem) for problem in problems), key=lambda pair: pair[0]
    )
    texts = [
        f"{path}:{line}: {problem.key}: {problem.message}" if problem.path else f"{path}:{line}: {problem.message}"
        for line, problem in lined
    ]
    return list(dict.fromkeys(texts))
