"""Write configs/schema.json for editors, or check it: `python -m local_fusion.config.json_schema [--check]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from local_fusion.config.judging import JUDGES
from local_fusion.config.personas import PERSONAS
from local_fusion.config.presets import PRESETS
from local_fusion.config.schema import Config
from local_fusion.config.strategies import STRATEGY_CONFIGS

_NAME = {"type": "string", "description": "Name of a model or of another fusion."}
_TOLD_BY_THEIR_KEYS = ("pairwise", "command", "joint")  # kinds of judges that need not be told: see `default_kind`
SCHEMA_FILE = Path(__file__).parents[2] / "configs" / "schema.json"


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a configuration file."""
    generated: dict[str, Any] = _tidy(Config.model_json_schema())
    definitions = generated["$defs"]
    definitions["MemberConfig"]["properties"]["persona"]["examples"] = list(PERSONAS)
    for kind, judge in JUDGES.items():
        if kind not in _TOLD_BY_THEIR_KEYS:
            definitions[judge.__name__]["required"] = [*definitions[judge.__name__].get("required", ()), "kind"]
    definitions["Preset"] = _preset(definitions)
    (values,) = generated["properties"]["fusions"]["patternProperties"].values()
    values["oneOf"].append({"$ref": "#/$defs/Preset"})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **generated,
        "title": "local-fusion configuration",
        "description": "Models, the fusions made of them, and how both are served.",
    }


def _preset(definitions: dict[str, Any]) -> dict[str, Any]:
    """A fusion by its preset; what may stand beside it depends on the strategy, which only loading knows."""
    options: dict[str, list[Any]] = {}
    for strategy in STRATEGY_CONFIGS.values():
        for option, described in definitions[strategy.__name__]["properties"].items():
            if option != "strategy" and described not in options.setdefault(option, []):
                options[option].append(described)
    return {
        "additionalProperties": False,
        "description": "A ready-made fusion of all models, the best first; other options replace the preset's.",
        "properties": {
            "preset": {
                "description": " ".join(f"`{name}`: {preset.explanation}" for name, preset in PRESETS.items()),
                "enum": list(PRESETS),
            },
            **{name: each[0] if len(each) == 1 else {"anyOf": each} for name, each in options.items()},
        },
        "required": ["preset"],
        "type": "object",
    }


def _tidy(node: Any) -> Any:
    """Say what pydantic cannot: a bare name is short for `{model: name}`, a judge need not tell its kind where its keys
    do, and names off the pattern are refused.
    """
    if isinstance(node, list):
        return [_tidy(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    tidy = {key: _tidy(value) for key, value in node.items() if key != "title" or not isinstance(value, str)}
    if tidy.get("$ref") in ("#/$defs/MemberConfig", "#/$defs/Reference"):
        return {"anyOf": [_NAME, {"$ref": tidy.pop("$ref")}], **tidy}
    if tidy.get("discriminator", {}).get("propertyName") == "kind":
        return {"anyOf": [_NAME, *tidy["oneOf"]]}
    if "patternProperties" in tidy:
        tidy["additionalProperties"] = False
    return tidy


def main(arguments: list[str] | None = None) -> int:
    """Write the file, or with `--check` compare it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m local_fusion.config.json_schema", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only check that the file is current")
    parser.add_argument("--file", type=Path, default=SCHEMA_FILE, help="the file to write or check")
    options = parser.parse_args(arguments)
    text = json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
    if not options.check:
        options.file.write_text(text, encoding="utf-8")
        return 0
    if options.file.is_file() and options.file.read_text(encoding="utf-8") == text:
        return 0
    print(f"{options.file} is not current: run `python -m local_fusion.config.json_schema`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
