"""Workloads: made up by a rule and a seed, or read from a file, and every mistake is named."""

from __future__ import annotations

import json
import math
import random
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pytest

from local_fusion.config.loading import load_config
from local_fusion.config.schema import Config
from local_fusion.core.chat import Message
from local_fusion.errors import ConfigError
from local_fusion.simulation.texts import tokens_of
from local_fusion.simulation.workload import Workload, parse_workload, spread_about

EXAMPLES = Path(__file__).parents[2] / "configs"
CONFIG = Config.model_validate(
    {
        "models": {"qwen": {"source": "x"}, "gemma": {"source": "y"}},
        "fusions": {"quality": {"strategy": "vote", "panel": ["qwen", "gemma"]}},
    }
)


def made(spec: str) -> Workload:
    return parse_workload(spec, CONFIG)


def problems(spec: str) -> str:
    with pytest.raises(ConfigError) as caught:
        made(spec)
    assert caught.value.hint
    return "\n".join(caught.value.problems)


def test_poisson_arrives_at_random_at_its_rate() -> None:
    arrivals = made("poisson:30/min,requests=4000,seed=3").arrivals
    gaps = [later.at - sooner.at for sooner, later in pairwise(arrivals)]
    assert fmean(gaps) == pytest.approx(2, rel=0.05)
    assert sum(gap > 2 for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), abs=0.03)
    assert {(each.model, each.priority) for each in arrivals} == {("quality", "interactive")}
    assert len({each.id for each in arrivals}) == 4000


def test_a_batch_comes_all_at_once_and_nobody_waits_for_it() -> None:
    arrivals = made("batch:50, fusion=gemma").arrivals
    assert {(each.at, each.model, each.priority) for each in arrivals} == {(0.0, "gemma", "batch")}
    assert len(arrivals) == 50


def test_options_say_how_long_and_how_urgent() -> None:
    arrivals = made("batch:2000,prompt=500,answer=80,priority=interactive").arrivals
    assert fmean(tokens_of([Message("user", each.prompt)]) for each in arrivals) == pytest.approx(504, rel=0.05)
    assert fmean(each.answer_length("qwen/0") for each in arrivals) == pytest.approx(80, rel=0.05)
    assert {each.priority for each in arrivals} == {"interactive"}


def test_the_same_seed_makes_the_same_workload_and_another_one_another() -> None:
    assert made("poisson:1/s,seed=4") == made("poisson:1/s,seed=4")
    assert made("poisson:1/s,seed=4").arrivals != made("poisson:1/s,seed=5").arrivals
    one, other = made("batch:1").arrivals[0], made("batch:1,seed=1").arrivals[0]
    assert one.answer_length("a") == one.answer_length("a") != other.answer_length("a")


def test_lengths_have_the_mean_asked_for_and_are_never_nothing() -> None:
    source = random.Random(1)
    lengths = [spread_about(300, source) for _ in range(20_000)]
    assert fmean(lengths) == pytest.approx(300, rel=0.02)
    assert min(spread_about(1, source) for _ in range(1000)) == 1


def test_what_a_workload_is_is_said_in_words() -> None:
    assert (
        "200 interactive requests to quality, arriving at random, 0.5/s on average (seed 0)"
        in made("poisson:0.5/s").about
    )
    assert "log-normal" in made("batch:3").about


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("poisson:", "'': expected a rate above 0, such as 0.5/s or 30/min"),
        ("poisson:0/s", "expected a rate"),
        ("poisson:3", "expected a rate"),
        ("poisson:1/s,requests", "'requests': expected NAME=VALUE"),
        ("poisson:1/s,request=3", "did you mean 'requests'?"),
        ("poisson:1/s,requests=0", "'requests': expected a number greater than or equal to 1, not the text '0'"),
        ("poisson:1/s,requests=x", "'requests': expected a whole number, not the text 'x'"),
        ("poisson:1/s,seed=1,seed=2", "names seed again"),
        ("poisson:1/s,priority=high", "'priority': expected 'interactive' or 'batch', not the text 'high'"),
        ("poisson:1/s,fusion=qality", "did you mean 'quality'?"),
        ("batch:", "'requests': expected a whole number, not the text ''"),
        ("batch:5,requests=6", "says again how many"),
        ("batch:100001", "'requests': expected a number less than or equal to 100000, not the text '100001'"),
        ("batch:1000,prompt=1000000", "'prompt': expected at most 250000000 tokens of all requests together"),
        ("/no/such/file.jsonl", "in the workload, there is no file '/no/such/file.jsonl'"),
        ("poison:1/s", "there is no file 'poison:1/s'; did you mean 'poisson'?"),
        ("/", "'/' cannot be read (Is a directory)"),
    ],
)
def test_a_part_that_is_wrong_is_named(spec: str, said: str) -> None:
    assert said in problems(spec)


def test_a_file_has_one_request_a_line_in_any_order(tmp_path: Path) -> None:
    file = tmp_path / "morning.jsonl"
    lines = [
        {"at": 9.5, "model": "gemma", "prompt_tokens": 300, "answer_tokens": 70, "priority": "batch"},
        {"at": 1, "prompt": "What is the time?"},
    ]
    file.write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    first, second = made(str(file)).arrivals
    assert (first.at, first.model, first.prompt, first.priority) == (1, "quality", "What is the time?", "interactive")
    assert (second.at, second.model, second.answer_length("anybody"), second.priority) == (9.5, "gemma", 70, "batch")
    assert len(second.prompt) == 1200
    assert made(str(file)).about == "2 requests of morning.jsonl"


def test_the_example_is_for_the_rig_of_four_cards() -> None:
    example = EXAMPLES / "workload.jsonl"
    arrivals = parse_workload(str(example), load_config(EXAMPLES / "rig-4x24.yaml")).arrivals
    assert {each.priority for each in arrivals} == {"interactive", "batch"}
    assert {each.model for each in arrivals} > {"quality", "qwen"}
    shown = {key for line in example.read_text().splitlines() for key in json.loads(line)}
    assert shown == {"at", "model", "prompt", "prompt_tokens", "answer_tokens", "priority"}


def test_every_line_that_is_wrong_is_named_with_its_number(tmp_path: Path) -> None:
    file = tmp_path / "w.jsonl"
    file.write_text(
        '{"at": 1}\n{"at": -1}\n{"at": 2, "modle": "qwen"}\nno\n{"at": 3, "model": "gema"}\n'
        '{"at": 1, "prompt": "a", "prompt_tokens": 2}\n{"at": true}\n[1]\n{"at": 1e999}\n'
    )
    said = problems(str(file)).splitlines()
    for line, what in {
        2: "at: expected a number greater than or equal to 0",
        3: "modle: there is no such key; did you mean 'model'?",
        4: "expected one JSON object a line",
        5: "there is no 'gema'; did you mean 'gemma'?",
        6: "expected prompt or prompt_tokens, not both",
        7: "at: expected a number",
        8: "the line: expected a JSON object",
        9: "at: expected",
    }.items():
        assert any(each.startswith(f"{file}:{line}: ") and what in each for each in said), (line, said)
    assert not any(each.startswith(f"{file}:1: ") for each in said)


@pytest.mark.parametrize("line", ["[" * 100_000, f'{{"at": {"1" * 5000}}}', '"at"'])
def test_a_line_that_no_parser_likes_is_a_problem_and_never_a_crash(tmp_path: Path, line: str) -> None:
    file = tmp_path / "w.jsonl"
    file.write_text(line)
    assert problems(str(file)).startswith(f"{file}:1: ")


def test_of_very_many_wrong_lines_the_first_are_named_and_the_others_counted(tmp_path: Path) -> None:
    file = tmp_path / "w.jsonl"
    file.write_text('{"at": -1}\n' * 1000)
    said = problems(str(file)).splitlines()
    assert said[19].startswith(f"{file}:20: ")
    assert said[20] == f"{file}: 980 more are wrong"


def test_a_text_may_hold_any_character_and_the_file_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "w.jsonl"
    file.write_text('{"at": 1, "prompt": "one\u2028two"}\r\n', encoding="utf-8-sig")
    (only,) = made(str(file)).arrivals
    assert only.prompt == "one\u2028two"


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe"])
def test_a_file_without_requests_is_no_workload(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "w.jsonl"
    file.write_bytes(content)
    assert str(file) in problems(str(file))
