"""The example configurations and the JSON schema are true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from local_fusion.config import json_schema
from local_fusion.config.loading import load_config
from local_fusion.config.schema import (
    Deadlines,
    EngineSettings,
    MemberConfig,
    ModelConfig,
    SchedulingSettings,
    ServerConfig,
)

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
    ):
        assert not validator.is_valid(bad), bad


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
    for part in (ModelConfig, MemberConfig, Deadlines, EngineSettings, SchedulingSettings, ServerConfig):
        for option in part.model_fields.keys() - rare:
            assert f"{option}:" in text, f"no example shows `{option}`"
