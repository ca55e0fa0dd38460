"""`ask` with engines of its own: what it prints where, and how it fails."""

from __future__ import annotations

import json
import re

import pytest

from tests.cli.commands import Home
from tests.cli.turns import take_turns
from tests.fake_engine import Script

FUSIONS = {
    "vote": {"strategy": "vote", "extract": "number", "panel": [{"model": "a", "samples": 2}, "b"]},
    "best": {"strategy": "best_of", "panel": [{"model": "a", "samples": 2}], "judge": "a"},
    "one": {"strategy": "single", "panel": ["a"]},
}
ANSWERS = {
    "a": Script(rules=[("6 times 7", ["It is 41.", "It is 42."])]),
    "b": Script(rules=[("6 times 7", "I say 42.")]),
}


@pytest.fixture
def asked(home: Home) -> Home:
    home.configure("a", "b", fusions=FUSIONS)
    home.script(**ANSWERS)
    return home


def test_stdout_is_the_answer_and_stderr_tells_how_it_came_about(asked: Home) -> None:
    done = asked.run("ask", "What is 6 times 7?")
    assert (done.code, done.out) == (0, "It is 42.\n"), done.err
    for told in ("engine a", "member a", "member b", "I say 42.", "It is 41.", "42  (c2, c3)", "winner: c2", "2 calls"):
        assert told in done.err
    assert "\x1b" not in done.out + done.err
    assert asked.left_behind() == []


def test_json_is_one_document_with_usage_calls_candidates_and_verdict(asked: Home) -> None:
    done = asked.run("ask", "--json", "-f", "vote", "What is 6 times 7?")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["prompt"] == "What is 6 times 7?"
    assert (told["answer"], told["finish_reason"]) == ("It is 42.", "stop")
    assert told["usage"]["completion_tokens"] == sum(call["usage"]["completion_tokens"] for call in told["calls"]) == 9
    assert told["usage"]["total_tokens"] == told["usage"]["prompt_tokens"] + 9
    assert [candidate["text"] for candidate in told["fusion"]["candidates"]] == ["It is 41.", "It is 42.", "I say 42."]
    assert told["fusion"]["verdict"]["winner"] == "c2"
    assert told["fusion"]["partial"] is False


def test_a_dash_reads_the_question_and_options_reach_the_engine(asked: Home) -> None:
    record = asked.folder / "record.jsonl"
    asked.script(a=Script(record=str(record)))
    done = asked.run(
        "ask", "-f", "one", "--system", "Be brief.", "--max-tokens", "3", "--seed", "5", "-", stdin="a b c d e\n"
    )
    assert (done.code, done.out) == (0, "echo: a b\n"), done.err
    body = json.loads(record.read_text().splitlines()[0])["body"]
    assert [(message["role"], message["content"]) for message in body["messages"]] == [
        ("system", "Be brief."),
        ("user", "a b c d e\n"),
    ]
    assert (body["max_tokens"], body["seed"]) == (3, 5)


def test_only_the_engines_that_a_question_needs_are_started(asked: Home) -> None:
    done = asked.run("ask", "-f", "a", "What is 6 times 7?")
    assert (done.code, done.out) == (0, "It is 41.\n"), done.err
    assert (asked.folder / "a.starts").exists()
    assert not (asked.folder / "b.starts").exists()


def test_a_part_of_the_panel_that_fails_is_told_with_its_cause(asked: Home) -> None:
    asked.script(a=Script(reject=[500, "out of luck"]), b=ANSWERS["b"])
    done = asked.run("ask", "-f", "vote", "What is 6 times 7?")
    assert (done.code, done.out) == (0, "I say 42.\n"), done.err
    assert "PARTIAL: a (panel)" in done.err
    assert "out of luck" in done.err


def test_an_engine_that_cannot_start_is_an_error_with_its_cause_and_nothing_is_left(asked: Home) -> None:
    asked.script(b=Script(crash_log="ValueError: Model architectures ['Foo'] are not supported for now."))
    done = asked.run("ask", "-f", "vote", "What is 6 times 7?")
    assert (done.code, done.out) == (1, ""), done.err
    assert "local-fusion: b did not start" in done.err
    assert "Foo" in done.err
    assert "Traceback" not in done.err
    assert asked.left_behind() == []


def test_members_that_do_not_fit_together_answer_in_turns_and_it_is_told_who_waits_for_what(home: Home) -> None:
    take_turns(home)
    home.script(**ANSWERS)
    done = home.run("ask", "-f", "both", "What is 6 times 7?")
    assert (done.code, done.out) == (0, "It is 41.\n"), done.err
    assert re.search("engine (a takes turns with b|b takes turns with a): it starts when it is called", done.err)
    assert re.search("… member (a: waiting for a|b: waiting for b): ", done.err)
    assert "PARTIAL" not in done.err
    assert [(home.folder / f"{name}.starts").read_text() for name in ("a", "b")] == ["x", "x"]
    assert home.left_behind() == []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["-f", "vot", "x"], 2, "there is no model 'vot'.*did you mean 'vote'"),
        (["-c", "wrong.yaml", "x"], 2, "wrong.yaml: there is no such file"),
        (["-c", "wrong.yaml", "--url", "http://127.0.0.1:1", "x"], 2, "exclude each other"),
        ([""], 2, "the question is empty"),
        (["--temperature", "9", "x"], 2, "temperature"),
        ([], 2, "Missing argument"),
    ],
)
def test_wrong_use_is_told_before_anything_starts(asked: Home, arguments: list[str], code: int, says: str) -> None:
    done = asked.run("ask", *arguments)
    assert (done.code, done.out) == (code, ""), done.err
    assert [part for part in says.split(".*") if part not in done.err] == [], done.err
    assert asked.left_behind() == []
