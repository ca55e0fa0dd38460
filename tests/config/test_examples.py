"""The example configurations and the JSON schema are true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from local_fusion.config import json_schema
from local_fusion.config.base import Command
from local_fusion.config.judging import JUDGES
from local_fusion.config.loading import load_config
from local_fusion.config.openrouter import OpenRouterConfig
from local_fusion.config.panels import Deadlines, MemberConfig
from local_fusion.config.references import parts_of
from local_fusion.config.schema import (
    Config,
    EngineSettings,
    ModelConfig,
    PersonaFile,
    SchedulingSettings,
)
from local_fusion.config.server import ResponsesConfig, ServerConfig
from local_fusion.config.strategies import STRATEGY_CONFIGS, Adaptive, EarlyCut, Trigger

FOLDER = Path(__file__).parents[2] / "configs"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_loads_and_points_editors_to_the_schema(example: Path) -> None:
    config = load_config(example)
    assert config.fusions
    assert example.read_text().startswith("# yaml-language-server: $schema=schema.json\n")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_valid_under_the_json_schema(example: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((FOLDER / "schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(example.read_text()))


def test_the_json_schema_refuses_what_loading_refuses() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads((FOLDER / "schema.json").read_text()))
    good = {"models": {"a": {"source": "x"}}, "fusions": {"f": {"strategy": "single", "panel": ["a"]}}}
    assert validator.is_valid(good)
    for bad in (
        {"models": {"a b": {"source": "x"}}},
        {"models": {"a": {"source": "x", "zzz": 1}}},
        good | {"fusions": {"f": {"strategy": "zzz", "panel": ["a"]}}},
        good | {"fusions": {"f": {"strategy": "single", "panel": ["a"], "judge": "a"}}},
        good | {"fusions": {"f": {"strategy": "best_of", "panel": ["a"], "judge": {"kind": "zzz", "model": "a"}}}},
        good | {"fusions": {"f": {"strategy": "best_of", "panel": ["a"], "judge": {"model": "a", "criteria": ["x"]}}}},
        good | {"fusions": {"f": {"preset": "zzz"}}},
        good | {"fusions": {"f": {"preset": "fast", "strategy": "single"}}},
        good | {"personas": {"p": {"text": "x"}}},
    ):
        assert not validator.is_valid(bad), bad


@pytest.mark.parametrize(
    "judge",
    [
        "a",
        ["a", "b"],
        {"model": "a"},
        {"kind": "pointwise", "model": "a", "criteria": ["x"]},
        [{"kind": "likelihood"}, {"command": ["x"]}],
        {"judges": ["a", {"judges": ["b", {"kind": "rubric", "model": "a"}]}]},
    ],
)
def test_the_json_schema_knows_the_short_forms_that_loading_takes(judge: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    fusion = {"strategy": "best_of", "panel": ["a", {"model": "b"}], "judge": judge}
    data = {
        "models": {"a": {"source": "x"}, "b": {"source": "y"}},
        "fusions": {"f": fusion, "p": {"preset": "balanced", "judge": judge}},
        "personas": {"p": {"file": "p.txt"}, "q": "x"},
    }
    validator = jsonschema.Draft202012Validator(json.loads((FOLDER / "schema.json").read_text()))
    validator.validate(data)
    assert Config.model_validate({**data, "personas": {}}, strict=True)


def test_the_json_schema_file_is_current(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert json_schema.main(["--check"]) == 0, "run `python -m local_fusion.config.json_schema`"
    stale = tmp_path / "schema.json"
    stale.write_text("{}")
    assert json_schema.main(["--check", "--file", str(stale)]) == 1
    assert "is not current" in capsys.readouterr().err
    assert json_schema.main(["--file", str(stale)]) == 0
    assert json_schema.main(["--check", "--file", str(stale)]) == 0


def test_the_examples_show_nearly_every_option() -> None:
    text = "\n".join(example.read_text() for example in EXAMPLES)
    rare = {"quantization", "trust_remote_code", "chat_template", "extra_args", "memory_share", "allow_remote"}
    rare |= {"api_keys_file", "top_k", "presence_penalty", "frequency_penalty", "seed", "stop"}
    parts = (ModelConfig, MemberConfig, Deadlines, EngineSettings, SchedulingSettings, ServerConfig, ResponsesConfig)
    fusions = (*STRATEGY_CONFIGS.values(), *JUDGES.values(), Command, Adaptive, EarlyCut, Trigger, PersonaFile)
    for part in (*parts, *fusions, OpenRouterConfig):
        for option in part.model_fields.keys() - rare:
            assert f"{option}:" in text, f"no example shows `{option}`"


@pytest.mark.parametrize("strategy", STRATEGY_CONFIGS)
def test_there_is_an_example_of_every_strategy_called_like_it(strategy: str) -> None:
    assert load_config(FOLDER / "strategies.yaml").fusions[strategy].strategy == strategy


@pytest.mark.parametrize("kind", JUDGES)
def test_there_is_an_example_of_every_kind_of_judge(kind: str) -> None:
    parts = [
        part for example in EXAMPLES for fusion in load_config(example).fusions.values() for _, part in parts_of(fusion)
    ]
    assert any(isinstance(part, JUDGES[kind]) for part in parts)


def test_the_example_of_strategies_runs_one_engine() -> None:
    assert list(load_config(FOLDER / "strategies.yaml").models) == ["smollm2"]
