"""OpenAI's own client, synchronous and asynchronous, on chat completions of an engine and of a fusion."""

from __future__ import annotations

import openai
import pytest

from tests.conformance.conftest import Endpoint


@pytest.fixture
def client(endpoint: Endpoint) -> openai.OpenAI:
    return openai.OpenAI(base_url=endpoint.v1, api_key="none", max_retries=0)


def test_an_answer(client: openai.OpenAI, either: str) -> None:
    answer = client.chat.completions.create(model=either, messages=[{"role": "user", "content": "What is 6 times 7?"}])
    assert "42" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0
