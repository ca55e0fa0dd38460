"""`simulate`: how a workload would go on a rig, for people, for programs and as a picture; nothing is started."""

from __future__ import annotations

import re
import struct
from typing import Any

import pytest

from tests.cli.commands import Home, Outcome
from tests.cli.test_plan import MODELS, configure, strictly
from tests.cli.test_terminal import Terminal

FUSION = {"quality": {"strategy": "synthesize", "panel": ["llama", "qwen"], "judge": "qwen"}}
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
ONE_CARD = ("--gpus", "1x24GiB,ram=256GiB")


@pytest.fixture(scope="module")
def rig(shared_home: Home) -> Home:
    """Two models of 8 billion parameters of which one fits a GPU of 24 GiB."""
    configure(shared_home, MODELS, fusions=FUSION)
    return shared_home


def simulate(home: Home, *arguments: str) -> Outcome:
    return home.run("simulate", *arguments)


@pytest.fixture(scope="module")
def batch(rig: Home) -> dict[str, Any]:
    done = simulate(rig, *ONE_CARD, "--workload", "batch:20", "--json")
    assert (done.code, done.err) == (0, "")
    told: dict[str, Any] = strictly(done.out)
    return told


def test_programs_get_every_number(batch: dict[str, Any]) -> None:
    assert batch["served"][0] | {"latency": None} == {
        "model": "quality",
        "requests": 20,
        "answered": 20,
        "partial": 0,
        "failed": {},
        "causes": {},
        "latency": None,
    }
    assert set(batch["served"][0]["latency"]) == {"mean", "p50", "p95", "p99", "most"}
    assert [engine["model"] for engine in batch["engines"]] == ["llama", "qwen"]
    assert batch["swaps"] == sum(engine["swaps"] for engine in batch["engines"]) >= 1
    assert batch["overdrafts"] == []
    (device,) = batch["devices"]
    assert 0 < device["peak_bytes"] <= device["usable_bytes"]
    assert 0 < device["busy_share"] <= 1
    moves = [move for engine in batch["moves"].values() for move in engine if move["ended"] > batch["ready_seconds"]]
    assert sum(move["ended"] - move["began"] for move in moves) == pytest.approx(batch["swap_seconds"])


def test_people_get_tables_with_what_they_rest_on(rig: Home) -> None:
    done = simulate(rig, *ONE_CARD, "-w", "poisson:6/min,requests=30,seed=4")
    assert done.code == 0
    assert done.err == ""
    for text in (
        "30 interactive requests to quality, arriving at random, 6/min on average (seed 4)",
        "latency p50",
        "wait p50",
        "GPU 0",
        "a GPU of 24 GiB is as fast as the RTX3090",
        "✓ 30 of 30 requests answered in",
    ):
        assert text in done.out, done.out
    assert max(map(len, done.out.splitlines())) <= 200


def test_the_same_command_says_the_same(rig: Home) -> None:
    one, other = (simulate(rig, *ONE_CARD, "-w", "poisson:6/min,requests=20") for _ in range(2))
    assert one == other


def test_a_file_of_requests_is_replayed(rig: Home) -> None:
    (rig.folder / "day.jsonl").write_text('{"at": 0, "model": "llama"}\n{"at": 5, "model": "quality"}\n')
    done = simulate(rig, *ONE_CARD, "-w", "day.jsonl", "--json")
    assert [(each["model"], each["answered"]) for each in strictly(done.out)["served"]] == [
        ("llama", 1),
        ("quality", 1),
    ]


def test_a_slow_disk_shows(rig: Home, batch: dict[str, Any]) -> None:
    slow = strictly(simulate(rig, *ONE_CARD, "-w", "batch:20", "--disk-rate", "100MB", "--json").out)
    assert slow["drain_seconds"] > batch["drain_seconds"] + 60
    assert any("checkpoints are read at 0.1 GB/s" in said for said in slow["assumptions"])


@pytest.mark.parametrize("name", ["run.png", "run.svg"])
def test_it_is_drawn_into_a_file(rig: Home, name: str) -> None:
    pytest.importorskip("matplotlib")
    done = simulate(rig, *ONE_CARD, "-w", "batch:20", "--plot", name)
    assert done.code == 0
    assert f"drawn: {name}" in done.err
    drawn = (rig.folder / name).read_bytes()
    if name.endswith("png"):
        assert drawn.startswith(b"\x89PNG")
        assert struct.unpack(">I", drawn[16:20])[0] > 1000
    else:
        assert b"<svg" in drawn


def test_a_failed_request_is_told_with_its_cause_and_exit_code_1(home: Home) -> None:
    configure(home, MODELS, fusions={"quality": {**FUSION["quality"], "deadlines": {"panel": 1}}})
    done = simulate(home, *ONE_CARD, "-w", "batch:3,priority=interactive")
    assert done.code == 1
    assert "✗ 3 requests to quality failed (panel_failed), as:" in done.out
    assert "did not answer within 1 s" in done.out


def test_a_model_that_fits_nowhere_is_refused_as_by_plan(rig: Home) -> None:
    done = simulate(rig, "--gpus", "1x4GiB", "-w", "batch:1")
    assert done.code == 1
    assert done.out == ""
    assert "llama" in done.err
    assert "→" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Missing option '--workload'"),
        (("-w", "poisson:fast"), "in the workload, 'fast': expected a rate above 0, such as 0.5/s or 30/min"),
        (("-w", "batch:3,fusion=qualty"), "did you mean 'quality'?"),
        (("-w", "nowhere.jsonl"), "there is no file 'nowhere.jsonl'"),
        (("-w", "batch:3", "--gpus", "3xRTX9999"), "no known card"),
        (("-w", "batch:3", "--plot", "run.pdf"), "--plot draws a .png or a .svg"),
        (("-w", "batch:3", "--plot", "no/run.png"), "there is no folder"),
        (("-w", "batch:3", "--disk-rate", "fast"), "--disk-rate: expected a number of bytes"),
        (("-w", "batch:3", "--disk-rate", "0"), "a disk that reads nothing"),
    ],
)
def test_wrong_use_is_named_with_exit_code_2(rig: Home, arguments: tuple[str, ...], said: str) -> None:
    done = simulate(rig, *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in " ".join(done.err.replace("│", " ").split())


@pytest.mark.parametrize("workload", ["poisson:1/s,requests=20000", "batch:20000"])
def test_on_a_terminal_progress_is_shown_and_ctrl_c_ends_it_at_once(rig: Home, workload: str) -> None:
    terminal = Terminal(rig, "simulate", *ONE_CARD, "-w", workload)
    try:
        terminal.wait_for("/20000")
        if workload.startswith("poisson"):
            while not re.search(r"[1-9]\d*/20000", terminal.sent):
                assert terminal.read(0.1), terminal.sent
        terminal.press(b"\x03")
        assert terminal.code() == 130, terminal.sent
        assert "interrupted" in terminal.sent
        assert terminal.sent.rindex(SHOW_CURSOR) > terminal.sent.rindex(HIDE_CURSOR)
        assert "Traceback" not in terminal.sent
        assert terminal.settings() == terminal.before
    finally:
        terminal.close()
