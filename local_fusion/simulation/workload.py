"""Who asks what when: `poisson:0.5/s`, `batch:200`, or a file with one request a line."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from local_fusion.config.problems import shown, suggestion
from local_fusion.config.schema import Config
from local_fusion.core.chat import Priority
from local_fusion.errors import ConfigError
from local_fusion.simulation.texts import text_of

_REQUESTS, _PROMPT, _ANSWER = 200, 256, 256
_MOST_REQUESTS, _MOST_TOKENS = 100_000, 1_000_000
_MOST_PROMPTS = 250_000_000
"""Tokens of all prompts together: they are texts, of about 1 GB."""
_NAMED = 20  # lines of a file that are wrong
_SPREAD = 0.6  # standard deviation of the logarithm of a length
_KINDS = ("poisson", "batch")
_PER = {"s": 1.0, "min": 60.0, "h": 3600.0}
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(s|min|h)")
_HINT = (
    "Write poisson:0.5/s or batch:200, then perhaps ,requests=N,fusion=NAME,prompt=TOKENS,answer=TOKENS,seed=N,"
    "priority=batch; or name a file with lines such as "
    '{"at": 1.5, "model": "quality", "prompt_tokens": 300, "answer_tokens": 200}'
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request: `at` seconds after the rig is ready, to a model or fusion; `id` is unique.

    Answers to it, of every member and judge, have `answer_tokens` tokens, or, `spread`, that many on average.
    """

    id: str
    at: float
    model: str
    prompt: str
    answer_tokens: int
    spread: bool
    priority: Priority

    def answer_length(self, key: str) -> int:
        """Tokens of the answer that `key` tells apart: always the same for the same request and key."""
        return (
            spread_about(self.answer_tokens, random.Random(f"{self.id}/{key}")) if self.spread else self.answer_tokens
        )


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in the order in which they arrive; `about` says in words where they come from."""

    arrivals: tuple[Arrival, ...]
    about: str


def spread_about(mean: int, source: random.Random) -> int:
    """A length in tokens, at least 1, from a log-normal distribution with this mean."""
    return max(1, round(mean * math.exp(source.gauss(-(_SPREAD**2) / 2, _SPREAD))))


def parse_workload(spec: str, config: Config) -> Workload:
    """The requests that `spec` describes, for models and fusions of `config`.

    Raises `ConfigError` that names the part, or the file's line, at fault.
    """
    kind, colon, rest = spec.partition(":")
    if colon and kind in _KINDS:
        return _made_up(kind, rest, config)
    return _from_file(Path(spec), config)


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: Annotated[int, Field(ge=1, le=_MOST_REQUESTS)] = _REQUESTS
    fusion: str | None = None
    prompt: Annotated[int, Field(ge=1, le=_MOST_TOKENS)] = _PROMPT
    answer: Annotated[int, Field(ge=1, le=_MOST_TOKENS)] = _ANSWER
    seed: int = 0
    priority: Priority | None = None


def _made_up(kind: str, rest: str, config: Config) -> Workload:
    first, *others = (part.strip() for part in rest.split(","))
    written: dict[str, str] = {}
    for part in others:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in _Options.model_fields or not equals:
            raise _wrong(f"'{part}'", f"expected NAME=VALUE{suggestion(name, _Options.model_fields, plural='names')}")
        if name in written or (kind == "batch" and name == "requests"):
            raise _wrong(f"'{part}'", "says again how many" if name == "requests" else f"names {name} again")
        written[name] = value
    rate = 0.0
    if kind == "poisson":
        rate = _rate(first)
    else:
        written["requests"] = first
    options = _options(written)
    model = options.fusion or config.default_fusion()
    _known(model, config, "'fusion'")
    if options.requests * options.prompt > _MOST_PROMPTS:
        raise _wrong("'prompt'", f"expected at most {_MOST_PROMPTS} tokens of all requests together")
    priority = options.priority or ("interactive" if kind == "poisson" else "batch")
    source = random.Random(f"{options.seed}")
    arrivals, at = [], 0.0
    for number in range(options.requests):
        at += source.expovariate(rate) if rate else 0.0
        prompt = text_of(spread_about(options.prompt, source), f"question {number}: ")
        name = f"w{options.seed}-{number}"
        arrivals.append(Arrival(name, at, model, prompt, options.answer, True, priority))
    when = f"arriving at random, {first} on average" if rate else "all at once"
    about = (
        f"{options.requests} {priority} requests to {model}, {when} (seed {options.seed}); prompts and answers of "
        f"{options.prompt} and {options.answer} tokens on average, log-normal with σ = {_SPREAD:g}"
    )
    return Workload(tuple(arrivals), about)


def _rate(text: str) -> float:
    match = _RATE.fullmatch(text)
    rate = float(match[1]) / _PER[match[2]] if match else 0.0
    if not rate:
        raise _wrong(f"'{text}'", "expected a rate above 0, such as 0.5/s or 30/min")
    return rate


def _options(written: Mapping[str, str]) -> _Options:
    try:
        return _Options.model_validate(dict(written))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise _wrong(f"'{name}'", f"{_expected(first)}, not {shown(written[name])}") from None


def _known(model: str, config: Config, where: str) -> None:
    names = [*config.fusions, *config.models]
    if model not in names:
        raise _wrong(where, f"there is no fusion or model '{model}'{suggestion(model, names, plural='names')}")


def _expected(error: Any) -> str:
    """Pydantic's message in the house's words."""
    if error["type"] == "extra_forbidden":
        return f"there is no such key{suggestion(str(error['loc'][-1]), _Line.model_fields, plural='keys')}"
    if error["type"] == "model_type":
        return "expected a JSON object"
    message = str(error["msg"]).removeprefix("Value error, ")
    message = re.sub(r", unable to parse.*", "", re.sub(r"^Input should be (a valid )?", "expected ", message))
    for theirs, ours in _OUR_WORDS.items():
        message = message.replace(f"expected {theirs}", f"expected {ours}")
    return message


_OUR_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "greater": "a number greater",
    "less": "a number less",
}


def _wrong(where: str, why: str) -> ConfigError:
    return ConfigError([f"in the workload, {where}: {why}"], hint=_HINT)


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    at: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    model: str | None = None
    prompt_tokens: Annotated[int, Field(ge=1, le=_MOST_TOKENS)] | None = None
    prompt: str | None = None
    answer_tokens: Annotated[int, Field(ge=1, le=_MOST_TOKENS)] = _ANSWER
    priority: Priority = "interactive"

    @model_validator(mode="after")
    def _one_prompt(self) -> _Line:
        if self.prompt is not None and self.prompt_tokens is not None:
            raise ValueError("expected prompt or prompt_tokens, not both")
        return self


def _from_file(path: Path, config: Config) -> Workload:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # `splitlines` would split texts, too
    except FileNotFoundError:
        kind, colon, _ = str(path).partition(":")
        near = suggestion(kind, _KINDS, plural="kinds") if colon else ""
        raise ConfigError([f"in the workload, there is no file '{path}'{near}"], hint=_HINT) from None
    except OSError as error:
        raise ConfigError([f"in the workload, '{path}' cannot be read ({error.strerror})"], hint=_HINT) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: the workload is not UTF-8"], hint=_HINT) from None
    arrivals, problems = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                arrivals.append(_arrival(number, line, config))
            except ConfigError as error:
                problems += [f"{path}:{number}: {problem}" for problem in error.problems]
    if not arrivals and not problems:
        problems = [f"{path}: the workload has no requests"]
    if problems:
        more = [f"{path}: {len(problems) - _NAMED} more are wrong"] if len(problems) > _NAMED else []
        raise ConfigError([*problems[:_NAMED], *more], file=path, hint=_HINT)
    return Workload(tuple(sorted(arrivals, key=lambda each: each.at)), f"{len(arrivals)} requests of {path.name}")


def _arrival(number: int, text: str, config: Config) -> Arrival:
    try:
        line = _Line.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise ConfigError([f"expected one JSON object a line ({error.msg} in column {error.colno})"]) from None
    except ValidationError as error:
        found = error.errors()
        raise ConfigError(
            [f"{'.'.join(map(str, each['loc'])) or 'the line'}: {_expected(each)}" for each in found]
        ) from None
    except (ValueError, RecursionError):  # numbers of thousands of digits, thousands of brackets
        raise ConfigError(["expected one JSON object a line, of numbers and texts"]) from None
    model = line.model or config.default_fusion()
    names = [*config.fusions, *config.models]
    if model not in names:
        raise ConfigError([f"model: there is no '{model}'{suggestion(model, names, plural='names')}"])
    prompt = line.prompt
    if prompt is None:
        prompt = text_of(line.prompt_tokens or _PROMPT, f"question {number}: ")
    return Arrival(f"line{number}", line.at, model, prompt, line.answer_tokens, False, line.priority)
