"""Figures for people (a table) and for programs (JSON)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure


def print_json(before: float, after: float, figures: Sequence[Figure]) -> None:
    """Everything measured, on stdout, with the machine's load before and after."""
    machine = {"cores": _cores(), "load_before": before, "load_after": after}
    print(json.dumps({"machine": machine, "figures": [figure.to_json() for figure in figures]}, indent=2))


def print_table(before: float, after: float, figures: Sequence[Figure]) -> None:
    """Medians with their range next to the targets, then what explains them, on stdout.

    Details that are mappings of mappings are tables: a row each, with a column for every key.
    """
    console = Console(highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("figure", overflow="fold")
    for heading in ("median", "min..max", "target"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for figure in figures:
        low, high = _shown(figure, min(figure.values)), _shown(figure, max(figure.values))
        target = f"{'≥' if figure.at_least else '≤'} {figure.target:g} {figure.unit}"
        verdict = "[green]met[/green]" if figure.met else "[red]MISSED[/red]"
        verdict += "" if figure.clear else " (range spans it)"
        table.add_row(figure.name, f"{_shown(figure, figure.value)} {figure.unit}", f"{low}..{high}", target, verdict)
    console.print(table)
    for figure in figures:
        told = ", ".join(f"{name} {value}" for name, value in figure.details.items() if isinstance(value, int | float))
        if told:
            console.print(f"[dim]{figure.name}: {told}[/dim]", soft_wrap=True)
    for figure in figures:
        for title, rows in figure.details.items():
            if isinstance(rows, Mapping):
                console.print(f"\n[bold]{title}[/bold]", soft_wrap=True)
                console.print(_side_by_side(rows))
    console.print(f"{_cores()} cores; load {before} before, {after} after", soft_wrap=True)


def _side_by_side(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for heading in next(iter(rows.values()), ()):
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(str(value) for value in row.values()))
    return table


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _shown(figure: Figure, value: float) -> str:
    return f"{value:.3f}" if figure.unit == "×" else f"{value:.2f}"
