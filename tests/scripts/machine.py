"""A machine on which everything that the scripts call is made up and written down."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

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
