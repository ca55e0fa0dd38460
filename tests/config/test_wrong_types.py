"""Every option of every strategy, wrongly typed, is an error that names its line and its key."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as some

from local_fusion.config.loading import load_config, override_fusion
from local_fusion.config.problems import KeyPath, render_path
from local_fusion.config.strategies import STRATEGY_CONFIGS
from local_fusion.errors import ConfigError, RequestError

FILE = Path(__file__).parents[2] / "configs" / "strategies.yaml"
EXAMPLE = yaml.safe_load(FILE.read_text())
FUSIONS: dict[str, dict[str, Any]] = EXAMPLE["fusions"]
WRONG = {"wrong": "type"}  # no option takes it
CONFIG = load_config(FILE)
KEYS = sorted(
    {"preset", "kind", "command", "model", *(key for each in STRATEGY_CONFIGS.values() for key in each.model_fields)}
)


def places(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """The path of everything within a value."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        yield (*path, step)
        yield from places(inner, (*path, step))


def put(fusion: dict[str, Any], path: KeyPath, value: Any) -> dict[str, Any]:
    """A copy of the fusion with another value at `path`."""
    changed = copy.deepcopy(fusion)
    part: Any = changed
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    return changed


def problems(folder: Path, name: str, fusion: dict[str, Any]) -> tuple[int, list[str]]:
    """The line of what is wrong, and the problems as `line: key: message`."""
    data = {"fusions": {name: fusion, **({"vote": FUSIONS["vote"]} if name != "vote" else {})}}
    head = yaml.safe_dump({"models": EXAMPLE["models"], "personas": EXAMPLE["personas"]})
    text = head + yaml.safe_dump(data, default_flow_style=None, sort_keys=False, width=10**6)
    (line,) = (number for number, line in enumerate(text.splitlines(), 1) if "{wrong: type}" in line)
    file = folder / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    return line, [problem.removeprefix(f"{file}:") for problem in caught.value.problems]


@pytest.mark.parametrize("name", FUSIONS)
def test_every_option_of_the_examples(tmp_path: Path, name: str) -> None:
    for path in places(FUSIONS[name]):
        line, found = problems(tmp_path, name, put(FUSIONS[name], path, WRONG))
        key = render_path(("fusions", name, *path))
        assert any(problem.startswith(f"{line}: {key}") for problem in found), (key, line, found)


@pytest.mark.parametrize("strategy", STRATEGY_CONFIGS)
def test_every_option_there_is(tmp_path: Path, strategy: str) -> None:
    for option in STRATEGY_CONFIGS[strategy].model_fields:
        line, found = problems(tmp_path, strategy, put(FUSIONS[strategy], (option,), WRONG))
        key = f"fusions.{strategy}.{option}"
        assert any(problem.startswith(f"{line}: {key}") for problem in found), (key, line, found)


ANYTHING = some.recursive(
    some.none() | some.booleans() | some.integers(-2, 300) | some.floats(allow_nan=False) | some.text(max_size=5),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.sampled_from(KEYS) | some.text(), inner),
    max_leaves=6,
)


@given(some.data())
def test_whatever_stands_anywhere_in_a_fusion_it_loads_or_each_problem_has_its_line(
    tmp_path_factory: pytest.TempPathFactory, data: some.DataObject
) -> None:
    name = data.draw(some.sampled_from(sorted(FUSIONS)))
    path = data.draw(some.sampled_from(list(places(FUSIONS[name]))))
    changed = {"vote": FUSIONS["vote"], name: put(FUSIONS[name], path, data.draw(ANYTHING))}
    file = tmp_path_factory.getbasetemp() / "anything.yaml"
    file.write_text(yaml.safe_dump({**EXAMPLE, "fusions": changed}))
    found: tuple[str, ...] = ()
    try:
        load_config(file)
    except ConfigError as error:
        found = tuple(error.problems)
    assert all(re.match(rf"{re.escape(str(file))}:\d+: ", problem) for problem in found)


@given(some.dictionaries(some.sampled_from(KEYS), ANYTHING, max_size=4), some.sampled_from(sorted(FUSIONS)))
def test_whatever_a_request_overrides_it_is_a_fusion_or_a_refusal_with_its_param(
    overrides: dict[str, Any], name: str
) -> None:
    param: str | None = "fusion."
    try:
        override_fusion(CONFIG, name, overrides)
    except RequestError as error:
        param = error.param
    assert param is not None
    assert param.startswith("fusion.")
