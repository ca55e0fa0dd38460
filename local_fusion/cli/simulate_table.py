"""A simulation for people: who was answered how fast, which engines were swapped, what was busy, what that rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from local_fusion.config.quantities import format_bytes
from local_fusion.simulation.report import EngineReport, Report, Spread

_LONGEST_NAME = 40
_BOUNDLESS = 1000
_OF_A_LIST = 2  # columns: its mark and its text
_SHOWN = 3  # overdrafts


def print_report(report: Report, console: Console) -> None:
    """Print a report. A terminal that is too narrow for its tables wraps their lines, but no number is cut off."""
    parts = list(_parts(report))
    boundless = console.options.update(max_width=_BOUNDLESS)
    tables = (part for part in parts if isinstance(part, Table) and len(part.columns) > _OF_A_LIST)
    console.width = max(console.width, *(console.measure(table, options=boundless).maximum for table in tables))
    for part in parts:
        console.print(part, highlight=False)


def counted(number: int, noun: str) -> str:
    """`1 swap`, `2 swaps`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def seconds(value: float) -> str:
    """Seconds for people: three digits at most."""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min")):
        if value < limit:
            return f"{value / size:.{0 if value / size >= 10 else 1}f} {unit}"
    return f"{value / 3600:.1f} h"


def _parts(report: Report) -> Iterator[RenderableType]:
    yield Text(report.workload)
    yield Text(f"residents awake after {seconds(report.ready_seconds)}; then requests begin, and times count")
    yield ""
    yield _served(report)
    yield ""
    yield _engines(report)
    yield ""
    yield _devices(report)
    if report.reasons:
        why = ", ".join(f"{reason} ({count})" for reason, count in report.reasons.items())
        yield ""
        yield Text(f"why engines were woken: {why}")
    yield from _problems(report)
    yield ""
    yield Text("assumed", style="dim")
    lines = Table.grid()
    for text in report.assumptions:
        lines.add_row(Text("- ", style="dim"), Text(text, style="dim"))
    yield lines
    yield ""
    yield _summary(report)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for column, _ in enumerate(heads):
        justify: Literal["left", "right"] = "left" if column < left else "right"
        table.add_column(justify=justify, no_wrap=column >= left, max_width=_LONGEST_NAME, overflow="fold")
    table.add_row(*(Text(head, style="dim") for head in heads))
    for row in rows:
        table.add_row(*(Text(cell, style="bold" if column == 0 else "") for column, cell in enumerate(row)))
    return table


def _spread(spread: Spread | None) -> tuple[str, str, str, str]:
    if spread is None:
        return ("-", "-", "-", "-")
    return seconds(spread.p50), seconds(spread.p95), seconds(spread.p99), seconds(spread.most)


def _served(report: Report) -> Table:
    heads = ("requests to", "asked", "answered", "partial", "latency p50", "p95", "p99", "most")
    rows = [
        (each.model, str(each.requests), str(each.answered), str(each.partial or "-"), *_spread(each.latency))
        for each in report.served
    ]
    return _table(heads, rows)


def _engines(report: Report) -> Table:
    heads = ("engine", "on", "calls", "wait p50", "p95", "p99", "most", "swaps", "moving", "awake", "busy")
    rows = [
        (
            each.model,
            _where(report, each),
            str(each.calls),
            *_spread(each.waits),
            str(each.swaps or "-"),
            seconds(each.moving_seconds) if each.moving_seconds else "-",
            f"{each.awake_share:.0%}",
            f"{each.busy_share:.0%}",
        )
        for each in report.engines
    ]
    return _table(heads, rows, left=2)


def _where(report: Report, engine: EngineReport) -> str:
    return "CPU" if report.on_cpu else ",".join(map(str, engine.devices))


def _devices(report: Report) -> Table:
    heads = ("device", "", "busy", "fullest", "to use")
    rows = [
        (
            "CPU" if report.on_cpu else f"GPU {each.index}",
            each.name,
            f"{each.busy_share:.0%}",
            format_bytes(each.peak_bytes),
            format_bytes(each.usable_bytes),
        )
        for each in report.devices
    ]
    return _table(heads, rows, left=2)


def _problems(report: Report) -> Iterator[RenderableType]:
    for served in report.served:
        for code, count in served.failed.items():
            yield ""
            yield Text.assemble(("✗ ", "red"), f"{counted(count, 'request')} to {served.model} failed ({code}), as:")
            yield Text(f"  {served.causes[code]}")
        if served.partial:
            yield ""
            yield Text.assemble(
                ("! ", "yellow"), f"{counted(served.partial, 'request')} to {served.model} partly failed, as:"
            )
            yield Text(f"  {served.causes['partial']}")
    if report.overdrafts:
        yield ""
        yield Text(
            f"✗ memory was overdrawn {counted(len(report.overdrafts), 'time')}, a defect of local-fusion:", style="red"
        )
        yield from (Text(f"  {each}") for each in report.overdrafts[:_SHOWN])


def _summary(report: Report) -> Text:
    asked = sum(each.requests for each in report.served)
    answered = sum(each.answered for each in report.served)
    mark, style = ("✓", "green") if report.flawless else ("✗", "red")
    time, moved = seconds(report.drain_seconds), counted(report.swaps, "swap")
    return Text.assemble((mark, style), f" {answered} of {asked} requests answered in {time}, with {moved}")
