"""The `llm` command with models of its `extra-openai-models.yaml`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conformance.conftest import Endpoint


@pytest.fixture
def home(endpoint: Endpoint, tmp_path: Path) -> Path:
    """The command's folder, which knows the server's models."""
    models = [
        {"model_id": f"local-{name}", "model_name": name, "api_base": endpoint.v1, "supports_tools": True}
        for name in ("a", "quality", "best")
    ]
    (tmp_path / "extra-openai-models.yaml").write_text(yaml.safe_dump(models))
    return tmp_path


def run(home: Path, *arguments: str) -> str:
    # Plugins that are installed beside it are not what is tested.
    environment = {**os.environ, "LLM_USER_PATH": str(home), "LLM_LOAD_PLUGINS": "", "OPENAI_API_KEY": "none"}
    command = [sys.executable, "-m", "llm", *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.client("llm", "prompt, streamed")
def test_an_answer(home: Path, either: str) -> None:
    assert "42" in run(home, "-m", f"local-{either}", "What is 6 times 7?")


@pytest.mark.client("llm", "prompt, whole")
def test_an_answer_that_is_not_streamed(home: Path, either: str) -> None:
    assert "42" in run(home, "-m", f"local-{either}", "--no-stream", "What is 6 times 7?")


@pytest.mark.client("llm", "conversations")
def test_a_conversation_goes_on(home: Path) -> None:
    run(home, "-m", "local-quality", "What is 6 times 7?")
    assert run(home, "-c", "And how is the weather?").strip()


@pytest.mark.client("llm", "tools")
def test_a_tool_is_called_and_its_result_used(home: Path) -> None:
    tool = "def weather(city: str) -> str:\n    'How the weather is.'\n    return '12 °C in ' + city\n"
    said = run(home, "-m", "local-best", "--functions", tool, "How is the weather in Bonn?")
    assert "It is 12 °C in Bonn." in said
