"""optillm's own functions, called in its own environment: one JSON line in, one out. Imports nothing of ours."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

logging.disable(logging.CRITICAL)

from openai import OpenAI  # noqa: E402
from optillm.bon import best_of_n_sampling  # type: ignore[import-not-found]  # noqa: E402
from optillm.moa import mixture_of_agents  # type: ignore[import-not-found]  # noqa: E402
from optillm.self_consistency import advanced_self_consistency_approach  # type: ignore[import-not-found]  # noqa: E402

WAYS = {
    "moa": mixture_of_agents,
    "bon": best_of_n_sampling,
    "self_consistency": advanced_self_consistency_approach,
}


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    client = OpenAI(base_url=asked["base_url"], api_key="none", max_retries=0)
    started = time.monotonic()
    text, tokens = WAYS[asked["way"]](
        "You are a helpful assistant.",
        asked["prompt"],
        client,
        asked["model"],
        request_config={"max_tokens": asked["max_tokens"]},
    )
    return {"seconds": time.monotonic() - started, "completion_tokens": tokens, "text": text}


print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
