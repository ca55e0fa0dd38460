"""llm-consortium's orchestrator, called in its own environment: one JSON line in, one out. Imports nothing of ours."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

# It writes a log and a database into llm's folder when it is imported.
home = tempfile.TemporaryDirectory(prefix="lf-consortium-")
os.environ["LLM_USER_PATH"] = home.name
os.environ["HOME"] = home.name
pathlib.Path(home.name, ".config", "io.datasette.llm").mkdir(parents=True)
logging.disable(logging.CRITICAL)

from llm_consortium import create_consortium  # type: ignore[import-not-found]  # noqa: E402

# How it judges, and its most rounds: by itself it goes on for up to three, until the arbiter claims to be confident.
WAYS = {
    "synthesis": ("default", 3),
    "rank": ("rank", 3),
    "synthesis, one round": ("default", 1),
    "rank, one round": ("rank", 1),
}
MEMBERS = 3


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    model = {"model_id": "engine", "model_name": asked["model"], "api_base": asked["base_url"], "api_key_name": "none"}
    pathlib.Path(home.name, "extra-openai-models.yaml").write_text(json.dumps([model]))
    pathlib.Path(home.name, "keys.json").write_text(json.dumps({"none": "none"}))
    method, rounds = WAYS[asked["way"]]
    consortium = create_consortium(
        models=[f"engine:{MEMBERS}"],
        arbiter="engine",
        max_iterations=rounds,
        minimum_iterations=1,
        judging_method=method,
    )
    started = time.monotonic()
    result = consortium.orchestrate(asked["prompt"])
    return {"seconds": time.monotonic() - started, "completion_tokens": None, "text": str(result.get("synthesis"))}


print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
