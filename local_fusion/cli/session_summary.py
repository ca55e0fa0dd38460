"""What a session used, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from local_fusion.hardware.energy import Energy


@dataclass(frozen=True, slots=True)
class Summary:
    """A command that has ended: how, where it asked whom, how many seconds it ran, and what it used.

    `used` is what the server tells of the session (see `server/sessions.py`).
    """

    command: Sequence[str]
    exit_code: int
    url: str
    model: str
    seconds: float
    used: dict[str, Any]
    energy: Energy


def print_session(summary: Summary, console: Console, *, as_json: bool) -> None:
    """Tell it: as a table, or as one line of JSON."""
    if as_json:
        console.print(json.dumps(_as_json(summary)), markup=False, highlight=False, soft_wrap=True)
        return
    used = summary.used
    asked = f"{_counted(used['requests'], 'request')}, {_counted(used['calls'], 'call')} to models"
    failed = f" ({used['failed']} failed)" if used["failed"] else ""
    console.print(f"local-fusion: {asked}{failed} in {summary.seconds:.1f} s", markup=False, highlight=False)
    if used["models"]:
        console.print(_table(used))
    console.print(f"energy: {energy_told(summary.energy)}", markup=False, highlight=False, soft_wrap=True)


def energy_told(energy: Energy) -> str:
    """The energy in one line: joules by device, or why there are none."""
    missing = f"not measured: {'; '.join(energy.not_measured)}" if energy.not_measured else ""
    if not energy.joules:
        return missing or "not measured"
    total = sum(energy.joules.values())
    each = ", ".join(f"{name} {joules:,.0f} J" for name, joules in energy.joules.items())
    told = f"{total:,.0f} J ({total / 3600:.3g} Wh): {each}; whole devices', with whatever else ran on them"
    return f"{told}; {missing}" if missing else told


def _table(used: dict[str, Any]) -> Table:
    table = Table("model", box=None, header_style="bold", padding=(0, 2))
    for name in ("calls", "tokens read", "written", "seconds"):
        table.add_column(name, justify="right")
    rows = list(used["models"].items())
    for name, model in rows + ([("all", used)] if len(rows) > 1 else []):
        tokens = f"{model['prompt_tokens']:,}", f"{model['completion_tokens']:,}"
        table.add_row(name, str(model["calls"]), *tokens, f"{model['seconds']:.1f}")
    return table


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _as_json(summary: Summary) -> dict[str, Any]:
    measured = summary.energy.joules
    return {
        "command": list(summary.command),
        "exit_code": summary.exit_code,
        "url": summary.url,
        "model": summary.model,
        "seconds": round(summary.seconds, 3),
        "used": summary.used,
        "energy": {
            "joules": round(sum(measured.values()), 3) if measured else None,
            "devices": {name: round(joules, 3) for name, joules in measured.items()},
            "not_measured": list(summary.energy.not_measured),
        },
    }
