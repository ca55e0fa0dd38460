"""The README says what is tested of which client, and nothing else."""

from __future__ import annotations

from tests.conformance.table import README, features, in_readme, table


def test_the_readme_has_the_table_that_the_tests_make() -> None:
    assert in_readme(README.read_text(encoding="utf-8")) == table(), "run python -m tests.conformance.table --write"


def test_every_client_of_the_suite_is_in_it() -> None:
    assert {"LangChain", "LiteLLM", "llm", "openai"} <= features().keys()
