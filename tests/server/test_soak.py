"""A short soak: clients of every kind, also of the worst, and nothing stays behind. See `scripts/bench soak`."""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
SECONDS = 4.0
GROWTH = 1.25  # of a process that is still warming up; a leak of a few kilobytes a request would show


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark's module."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("benchmarks.soak")


async def test_a_server_among_all_kinds_of_clients_answers_all_and_keeps_nothing(soak: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="lf-") as folder:  # of a short path, for Unix sockets
        done = await soak.soaked(Path(folder), SECONDS, lambda _: None, at_once=6, seed=1)
    assert done.faults == []
    assert done.unanswered == 0
    assert done.requests > 100
    assert set(done.outcomes) == {kind.name for kind in sys.modules["benchmarks.soak_clients"].KINDS}
    assert done.left_over() == {"descriptors": 0, "tasks": 0, "child processes": 0}
    assert done.growth < GROWTH


class TestFigures:
    def soaked(self, soak: Any, *, grows: float = 0.0, left: int = 0) -> Any:
        """A made-up soak of a hundred samples, that grows by so many bytes a second and leaves descriptors behind."""
        samples = [soak.Sample(float(at), round(1e8 + grows * at), 40, 60, 3, 4) for at in range(100)]
        rest = soak.Sample(0.0, 10**8, 20, 30, 3, 4)
        after = soak.Sample(0.0, 10**8, 20 + left, 30, 3, 4)
        done = soak.Soak(samples=samples, before=rest, after=after, seconds=100.0)
        done.note("engine", "answered")
        return done

    def test_a_flat_one_meets_all_targets(self, soak: Any) -> None:
        assert all(figure.met for figure in soak.figures(self.soaked(soak)))

    def test_each_way_to_fail_misses_its_own(self, soak: Any) -> None:
        growing = soak.figures(self.soaked(soak, grows=1e6))
        leaving = soak.figures(self.soaked(soak, left=1))
        silent, wrong = self.soaked(soak), self.soaked(soak)
        silent.unanswered = 1
        wrong.faults.append("engine: status 500")
        missed = [
            [figure.met for figure in figures]
            for figures in (soak.figures(silent), soak.figures(wrong), growing, leaving)
        ]
        assert missed == [[number != place for number in range(4)] for place in range(4)]

    def test_memory_counts_after_the_warm_up(self, soak: Any) -> None:
        done = self.soaked(soak)
        early = [soak.Sample(at / 10, 10**6 * at, 40, 60, 3, 4) for at in range(100)]
        done.samples = early + done.samples[20:]
        assert done.growth == pytest.approx(1.0)

    def test_fewer_than_before_is_no_leak(self, soak: Any) -> None:
        assert soak.figures(self.soaked(soak, left=-3))[3].met

    @pytest.mark.parametrize("suffix", ["png", "svg"])
    def test_it_can_be_drawn(self, soak: Any, tmp_path: Path, suffix: str) -> None:
        plot = importlib.import_module("benchmarks.soak_plot")
        plot.save_plot(self.soaked(soak), tmp_path / f"soak.{suffix}")
        assert (tmp_path / f"soak.{suffix}").stat().st_size > 1000
