"""Write configs/schema.json for editors, or check it: `python -m local_fusion.config.json_schema [--check]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from local_fusion.config.personas import PERSONAS
from local_fusion.config.schema import Config

SCHEMA_FILE = Path(__file__).parents[2] / "configs" / "schema.json"


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a configuration file."""
    generated: dict[str, Any] = _tidy(Config.model_json_schema())
    definitions = generated["$defs"]
    definitions["MemberConfig"]["properties"]["persona"]["examples"] = list(PERSONAS)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **generated,
        "title": "local-fusion configuration",
        "description": "Models, the fusions made of them, and how both are served.",
    }


def _tidy(node: Any) -> Any:
    """Say what pydantic cannot: a bare name is short for `{model: name}`, and names off the pattern are refused."""
    if isinstance(node, list):
        return [_tidy(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    tidy = {key: _tidy(value) for key, value in node.items() if key != "title" or not isinstance(value, str)}
    if tidy.get("$ref") in ("#/$defs/MemberConfig", "#/$defs/Reference"):
        name = {"type": "string", "description": "Name of a model or of another fusion."}
        return {"anyOf": [name, {"$ref": tidy.pop("$ref")}], **tidy}
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
