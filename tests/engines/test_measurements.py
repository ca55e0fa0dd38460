"""The store of measurements: what it keeps, and what it makes of files that are not as they should be."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from local_fusion.config.schema import ModelConfig
from local_fusion.engines import measurements
from local_fusion.engines.measurements import (
    STEP_BYTES,
    forget,
    load_measurements,
    measurements_file,
    merged,
    remember,
)
from local_fusion.planner.memory.measured import Circumstances, Measurement, circumstances

CARD = "NVIDIA GeForce RTX 3090"
KEY = circumstances(ModelConfig(source="x"), "llama-1", 2, CARD, "0.32.0", batched_tokens=2048)
CACHE = Measurement(kv_cache_bytes=2**30, kv_tokens=46592, max_model_len=2048)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, which does not exist yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LOCAL_FUSION_CACHE", str(folder))
    return folder


def entry(**changes: Any) -> dict[str, Any]:
    """An entry as the file holds it."""
    key = {"fingerprint": "f", "tensor_parallel": 1, "device": CARD, "vllm": "0.32.0", "options": "o"}
    return {**key, "residual_bytes": 5, "at": "2026-11-24T06:00:00Z", **changes}


def write(*entries: Any) -> None:
    measurements_file().parent.mkdir(parents=True, exist_ok=True)
    measurements_file().write_text(json.dumps({"format": 1, "measurements": entries}))


def set_aside() -> list[Path]:
    return sorted(measurements_file().parent.glob("*.damaged.json"))


def test_what_was_remembered_is_known_from_then_on(cache: Path) -> None:
    assert load_measurements() == {}
    remember(KEY, replace(CACHE, residual_bytes=3 * STEP_BYTES))
    assert load_measurements() == {KEY: replace(CACHE, residual_bytes=3 * STEP_BYTES)}
    assert measurements_file() == cache / "measurements.json"


def test_an_entry_is_an_object_in_which_a_reader_finds_all_of_its_key_and_the_time() -> None:
    remember(KEY, CACHE)
    (found,) = json.loads(measurements_file().read_text())["measurements"]
    assert (found["fingerprint"], found["tensor_parallel"], found["device"]) == ("llama-1", 2, CARD)
    assert (found["vllm"], found["kv_tokens"], found["residual_bytes"]) == ("0.32.0", 46592, None)
    assert found["at"].endswith("Z")


@pytest.mark.parametrize(
    "other",
    [
        circumstances(ModelConfig(source="x"), "llama-2", 2, CARD, "0.32.0", batched_tokens=2048),
        circumstances(ModelConfig(source="x"), "llama-1", 1, CARD, "0.32.0", batched_tokens=2048),
        circumstances(ModelConfig(source="x"), "llama-1", 2, "NVIDIA H100", "0.32.0", batched_tokens=2048),
        circumstances(ModelConfig(source="x"), "llama-1", 2, CARD, "0.33.0", batched_tokens=2048),
        circumstances(ModelConfig(source="x", max_num_seqs=7), "llama-1", 2, CARD, "0.32.0", batched_tokens=2048),
        circumstances(ModelConfig(source="x"), "llama-1", 2, CARD, "0.32.0", batched_tokens=8192),
    ],
    ids=["checkpoint", "tensor parallel", "device", "vLLM", "options", "tokens of a step"],
)
def test_another_circumstance_is_another_measurement(other: Circumstances) -> None:
    remember(KEY, CACHE)
    remember(other, Measurement(weights_bytes=1))
    assert load_measurements() == {KEY: CACHE, other: Measurement(weights_bytes=1)}


def test_files_from_before_swaps_were_timed_are_still_read() -> None:
    write(entry())
    assert list(load_measurements().values()) == [Measurement(residual_bytes=5)]


def test_the_seconds_of_the_last_swap_replace_those_before() -> None:
    known = Measurement(start_ms=30_000, wake1_ms=900)
    assert merged(known, Measurement(wake1_ms=700, sleep1_ms=2_000)) == Measurement(
        start_ms=30_000, wake1_ms=700, sleep1_ms=2_000
    )


def test_a_later_start_replaces_what_it_saw_and_leaves_the_rest() -> None:
    known = replace(CACHE, weights_bytes=10, residual_bytes=STEP_BYTES, sleeping_bytes=7)
    assert merged(known, Measurement(weights_bytes=11)) == replace(known, weights_bytes=11)
    assert merged(known, Measurement()) == known


def test_tokens_are_known_only_with_the_bytes_and_the_context_that_they_hold_for() -> None:
    other = Measurement(kv_cache_bytes=2**29, kv_tokens=23296, max_model_len=4096)
    assert merged(CACHE, other) == other
    assert merged(CACHE, Measurement(kv_cache_bytes=2**29, max_model_len=4096)) == CACHE


@pytest.mark.parametrize(
    ("known", "new", "kept"),
    [
        (None, 1, STEP_BYTES),
        (None, STEP_BYTES, STEP_BYTES),
        (4 * STEP_BYTES, 4 * STEP_BYTES - 100, 4 * STEP_BYTES),
        (4 * STEP_BYTES, 3 * STEP_BYTES - 100, 4 * STEP_BYTES),
        (4 * STEP_BYTES, 4 * STEP_BYTES + 1, 5 * STEP_BYTES),
        (4 * STEP_BYTES, STEP_BYTES, STEP_BYTES),
    ],
    ids=["rounded up", "whole", "the same", "noise", "more", "much less"],
)
def test_a_residual_moves_in_steps_never_below_what_was_seen_and_not_for_noise(
    known: int | None, new: int, kept: int
) -> None:
    assert merged(Measurement(residual_bytes=known), Measurement(residual_bytes=new)).residual_bytes == kept


def test_only_the_newest_are_kept_and_one_that_is_seen_again_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "_KEPT", 3)
    first, second, third, fourth = (replace(KEY, fingerprint=name) for name in "abcd")
    for key in (first, second, third, first, fourth):
        remember(key, CACHE)
    assert list(load_measurements()) == [third, first, fourth]


def test_servers_that_write_at_the_same_time_lose_nothing() -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=remember_ten, args=(name,)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
        assert writer.exitcode == 0
    assert len(load_measurements()) == 30
    assert [path.name for path in measurements_file().parent.iterdir() if path.suffix != ".lock"] == [
        "measurements.json"
    ]


def remember_ten(name: str) -> None:
    for number in range(10):
        remember(replace(KEY, fingerprint=f"{name}{number}"), CACHE)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b"[" * 100_000,
        b"1" * 5000,
        b'{"format": 2, "measurements": []}',
        b'{"format": 1, "measurements": {}}',
    ],
    ids=["empty", "cut", "not text", "null", "a list", "deep", "a huge number", "another format", "no list"],
)
def test_a_file_that_is_damaged_or_not_ours_is_ignored_with_a_warning_and_kept_when_we_write(
    content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    measurements_file().parent.mkdir(parents=True)
    measurements_file().write_bytes(content)
    assert load_measurements() == {}
    assert "measurements.json" in caplog.text
    assert measurements_file().read_bytes() == content

    remember(KEY, CACHE)
    assert load_measurements() == {KEY: CACHE}
    (aside,) = set_aside()
    assert aside.read_bytes() == content
    assert aside.name in caplog.text


@pytest.mark.parametrize(
    "damaged",
    [
        7,
        {},
        entry(fingerprint=None),
        entry(at=None),
        entry(tensor_parallel="1"),
        entry(tensor_parallel=True),
        entry(residual_bytes=-1),
        entry(residual_bytes=1.5),
        entry(residual_bytes=2**63),
        entry(kv_tokens=100),
    ],
)
def test_an_entry_that_cannot_be_understood_does_not_take_the_others_with_it(
    damaged: Any, caplog: pytest.LogCaptureFixture
) -> None:
    write(entry(fingerprint="good"), damaged)
    (key,) = load_measurements()
    assert key.fingerprint == "good"
    assert "1 of its entries" in caplog.text

    remember(KEY, CACHE)
    assert [key.fingerprint for key in load_measurements()] == ["good", "llama-1"]
    assert len(set_aside()) == 1


def test_a_file_far_too_big_to_be_ours_is_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    write(entry(), entry(fingerprint="g"))
    assert len(load_measurements()) == 2
    monkeypatch.setattr(measurements, "_MOST_BYTES", 100)
    assert load_measurements() == {}


def test_a_folder_in_the_place_of_the_file_is_set_aside() -> None:
    measurements_file().mkdir(parents=True)
    assert load_measurements() == {}
    remember(KEY, CACHE)
    assert load_measurements() == {KEY: CACHE}


def no_home(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("LOCAL_FUSION_CACHE", "~nobody-of-that-name/cache")


def a_file_where_the_folder_should_be(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    cache.write_text("")


@pytest.mark.parametrize("broken", [no_home, a_file_where_the_folder_should_be])
def test_without_a_usable_cache_nothing_is_known_and_nothing_fails(
    broken: Callable[[pytest.MonkeyPatch, Path], None],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken(monkeypatch, cache)
    assert load_measurements() == {}
    remember(KEY, CACHE)
    assert "cannot be remembered" in caplog.text


def test_a_full_disk_leaves_the_old_file_whole_and_no_half_of_a_new_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    remember(KEY, CACHE)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("json.dump", full)
    remember(replace(KEY, fingerprint="other"), CACHE)
    assert "No space left" in caplog.text
    assert load_measurements() == {KEY: CACHE}
    assert not list(measurements_file().parent.glob(".measurements.json.*"))


def test_a_writer_that_hangs_does_not_hang_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    remember(KEY, CACHE)
    monkeypatch.setattr(measurements, "_LOCK_SECONDS", 0.0)
    with (measurements_file().parent / ".measurements.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        remember(replace(KEY, fingerprint="other"), CACHE)
    assert "another process holds" in caplog.text
    assert load_measurements() == {KEY: CACHE}


def test_what_is_forgotten_is_no_longer_known() -> None:
    forget()
    remember(KEY, CACHE)
    forget()
    assert load_measurements() == {}
