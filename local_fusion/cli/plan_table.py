"""A plan for people: each device with its bar and its models, what to know, what does not fit, and how it was found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from local_fusion.cli.plan_bar import Bar, Mark, legend, marks_of, words_of
from local_fusion.cli.plan_view import DeviceView, Part, asleep_words, device_views, joined
from local_fusion.config.quantities import format_bytes
from local_fusion.planner.explain import Reason
from local_fusion.planner.plan import Placement, Plan, Solver

NARROWEST = 76
"""Columns that a plan takes at least: a narrower terminal wraps its lines, but no number is cut off."""

_HEADS = ("", "model", "part", "weights", "KV cache", "overhead", "together", "context", "at once")
_NAME = 1
_SMALL, _SMALL_GAP = 1024**2, 0.0005  # not worth a word
_IN_TURNS, _OTHERS = "in turns", "others that take turns"
_IN_PRACTICE = "how that goes: local-fusion simulate"
_GAP = 2
_REST: tuple[Part, ...] = ("free", "asleep", "reserve", "others")


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the tables of all devices share, so that their columns stand below each other."""

    marks: Mapping[str, Mark]
    widths: tuple[int, ...]

    @classmethod
    def of(cls, plan: Plan, marks: Mapping[str, Mark], width: int) -> _Layout:
        rows = [_cells(placement, 0, marks) for placement in plan.placements]
        widths = [max(len(cell) for cell in column) for column in zip(_HEADS, *rows, strict=True)]
        if all(placement.tensor_parallel == 1 for placement in plan.placements):
            widths[2] = 0
        if not all(placement.resident for placement in plan.placements):
            widths[_NAME] = max(widths[_NAME], len(_IN_TURNS))
        others = sum(each + _GAP for column, each in enumerate(widths) if each and column != _NAME)
        widths[_NAME] = min(widths[_NAME], max(len(_IN_TURNS), width - others))
        return cls(marks, tuple(widths))


def print_plan(plan: Plan, console: Console, *, on_paper: bool, reasons: Sequence[Reason] = ()) -> None:
    """Print a plan, and with `reasons` why it is so."""
    if console.width < NARROWEST:
        console.width = NARROWEST
    for part in _parts(plan, console, reasons, on_paper=on_paper):
        console.print(part, highlight=False)


def _parts(plan: Plan, console: Console, reasons: Sequence[Reason], *, on_paper: bool) -> Iterator[RenderableType]:
    views, marks, words = device_views(plan), marks_of(plan), words_of(plan, on_paper=on_paper)
    layout = _Layout.of(plan, marks, console.width)
    for view in views:
        yield _title(view)
        yield Bar(view, marks)
        if view.residents or view.in_turns:
            yield _models(view, layout)
        yield Text(" · ".join(_rest(view, words)), style="dim")
        yield from _turns(view)
        yield ""
    yield legend(views, words, width=console.width, ascii_only=console.options.ascii_only)
    if any(placement.measured for placement in plan.placements):
        yield Text("* measured when the engine was started here before; all else is computed", style="dim")
    yield from _notes(plan)
    yield from _refusals(plan)
    yield from _explanation(reasons)
    yield ""
    yield _summary(plan, on_paper=on_paper)
    yield Text(_found(plan.solver), style="dim")


def _title(view: DeviceView) -> RenderableType:
    device = view.device
    usable = device.free_bytes - view.bytes_of("reserve")
    name = f"{device.name}, a share of its RAM" if device.kind == "cpu" else device.name
    line = Table.grid(expand=True)
    line.add_column(ratio=1, overflow="fold")
    line.add_column(justify="right", no_wrap=True)
    line.add_row(
        Text.assemble((view.title, "bold"), "  ", name),
        Text(f"{format_bytes(device.total_bytes)}, {format_bytes(usable)} to use"),
    )
    return line


def _models(view: DeviceView, layout: _Layout) -> RenderableType:
    table = Table.grid(padding=(0, _GAP, 0, 0))
    for column, width in enumerate(layout.widths):
        if width:
            side: Literal["left", "right"] = "left" if column <= _NAME else "right"
            table.add_column(justify=side, width=width, no_wrap=column != _NAME, overflow="fold")

    def add(cells: Sequence[str], *styles: str) -> None:
        style = dict(enumerate(styles))
        shown = [(cell, style.get(column, styles[-1])) for column, cell in enumerate(cells) if layout.widths[column]]
        table.add_row(*(Text(cell, style=styled) for cell, styled in shown))

    add(_HEADS, "dim")
    for placements, heading in ((view.residents, ""), (view.in_turns, _IN_TURNS)):
        if placements and heading:
            add(("", heading, *[""] * (len(_HEADS) - 2)), "italic")
        for placement in placements:
            hue = layout.marks[placement.model].hue
            add(_cells(placement, view.device.index, layout.marks), hue, hue, "italic" if heading else "")
    return table


def _cells(placement: Placement, device: int, marks: Mapping[str, Mark]) -> tuple[str, ...]:
    ranks, measured = placement.tensor_parallel, placement.measured
    rank = 1 + placement.devices.index(device) if device in placement.devices else 1
    return (
        marks[placement.model].letter,
        placement.model + (" !" if placement.warnings else ""),
        f"{rank} of {ranks}" if ranks > 1 else "",
        format_bytes(placement.weights_bytes) + "*" * ("weights" in measured),
        format_bytes(placement.kv_cache_bytes),
        format_bytes(placement.overhead_bytes) + "*" * ("overhead" in measured),
        format_bytes(placement.awake_bytes),
        f"{placement.max_model_len:,}",
        f"{placement.max_concurrent_requests:.1f}" + "*" * ("kv" in measured),
    )


def _rest(view: DeviceView, words: Mapping[Part, str]) -> Iterator[str]:
    for part in _REST:
        if (size := view.bytes_of(part)) >= _SMALL:
            yield f"{format_bytes(size)} {words[part]}"


def _turns(view: DeviceView) -> Iterator[RenderableType]:
    """On the first of a model's devices: instead of whom it is awake and why, and what it does while it is not."""
    lines = Table.grid()
    for placement in (*view.in_turns, *view.residents):
        if placement.devices[0] != view.device.index:
            continue
        name = Text(placement.model, style="bold")
        if turns := placement.turns:
            lines.add_row(
                Text.assemble(name, f" takes turns with {joined(turns.instead_of) or _OTHERS}: {turns.reason}")
            )
            for line in _ways("to be awake all the time:", turns.suggestions):
                lines.add_row(line)
        if placement.asleep is not None:
            marked = " (measured)" if "asleep" in placement.measured else ""
            lines.add_row(Text.assemble(name, f" while it waits: {asleep_words(placement)}{marked}"))
    if lines.row_count:
        yield lines


def _refusals(plan: Plan) -> Iterator[RenderableType]:
    for refusal in plan.refusals:
        yield ""
        yield Text.assemble(("✗ ", "red"), (refusal.model, "bold red"), f" fits nowhere: {refusal.reason}")
        none = "no single change makes it fit: use a smaller or quantized model, or take others out"
        yield from _ways("to make it fit:", refusal.suggestions or (none,))


def _ways(heading: str, ways: Sequence[str]) -> Iterator[RenderableType]:
    if ways:
        yield _indented(heading)
    for way in ways:
        yield _indented(f"→ {way}")


def _explanation(reasons: Sequence[Reason]) -> Iterator[RenderableType]:
    for reason in reasons:
        yield ""
        yield Text.assemble((reason.model, "bold"), f" {reason.chosen}")
        for alternative in reason.alternatives:
            yield _indented(f"{alternative.what} instead: {alternative.worse}")


def _notes(plan: Plan) -> Iterator[RenderableType]:
    """Warnings, which plans may repeat among their notes, then what else is to be known."""
    told: dict[str, list[str]] = {}
    for placement in plan.placements:
        for said in placement.warnings:
            told.setdefault(said, []).append(placement.model)
    warnings = [f"{joined(models)}: {said}" for said, models in told.items()]
    repeated = {f"{model}: {said}" for said, models in told.items() for model in models}
    notes = [note for note in plan.notes if note not in repeated]
    held = sum(placement.host_bytes * placement.tensor_parallel for placement in plan.placements)
    if held and plan.host_ram_bytes is not None:
        notes.append(f"models asleep hold {format_bytes(held)} of {format_bytes(plan.host_ram_bytes)} of free host RAM")
    lines = Table.grid()
    for mark, style, texts in (("! ", "yellow", warnings), ("- ", "dim", notes)):
        for text in texts:
            lines.add_row(Text(mark, style=style), Text(text))
    if lines.row_count:
        yield lines


def _summary(plan: Plan, *, on_paper: bool) -> Text:
    count, refused = len(plan.placements) + len(plan.refusals), len(plan.refusals)
    in_turns = sum(not placement.resident for placement in plan.placements)
    devices = len(plan.devices)
    where = "the CPU" if plan.devices[0].kind == "cpu" else f"{devices} GPU{'s' if devices > 1 else ''}"
    awake = count - refused - in_turns
    told = ["all awake together" if awake == count > 1 else f"{awake} awake{' together' if awake > 1 else ''}"]
    told += [f"{in_turns} in turns ({_IN_PRACTICE})"] if in_turns else []
    told += [f"{refused} refused"] if refused else []
    mark, style = ("✗", "red") if refused else ("!", "yellow") if in_turns else ("✓", "green")
    rig = f"{where}{' on paper' if on_paper else ''}"
    return Text.assemble((mark, style), f" {count} model{'s' if count > 1 else ''} on {rig}: {', '.join(told)}")


def _found(solver: Solver) -> str:
    gap = "no bound" if solver.gap is None else f"gap {100 * solver.gap:.1f} %"
    if solver.status == "greedy":
        meaning = "no solver ran"
    elif solver.gap is None:
        meaning = "how much better there could be is not known"
    elif solver.gap >= _SMALL_GAP:
        meaning = "the weakest fusion's requests at once may be so far below what is possible"
    else:
        meaning = "nothing better exists"
    return f"{solver.status}, {gap}, {solver.seconds:.2f} s: {meaning}"


def _indented(text: str) -> RenderableType:
    return Padding(Text(text), (0, 0, 0, 4))
