"""What `serve` says: where it listens, what it serves, and how its engines are."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from local_fusion.cli.plan_view import joined, turns_with
from local_fusion.config.problems import printable
from local_fusion.config.references import named_by
from local_fusion.config.strategies import FusionConfig, RelayConfig
from local_fusion.engines.engine import EngineSnapshot, State
from local_fusion.planner.plan import Placement, Plan
from local_fusion.runtime import Runtime


def announce(runtime: Runtime, address: str, console: Console) -> None:
    """The address, the fusions, and the engines with those that they take turns with."""
    console.print(f"[bold]listening on {address}[/bold]  (OpenAI base URL: {address}/v1)", highlight=False)
    table = Table("model", "kind", "is", box=None, header_style="bold", padding=(0, 2))
    for name, fusion in runtime.config.fusions.items():
        table.add_row(name, fusion.strategy, Text(made_of(fusion)))
    for placement in runtime.plan.placements:
        where = "CPU" if placement.kind == "cpu" else f"GPU {', '.join(map(str, placement.devices))}"
        turns = _turns(runtime.plan, placement)
        table.add_row(placement.model, "engine", Text(f"{placement.checkpoint.name} on the {where}{turns}"))
    console.print(table)


def made_of(fusion: FusionConfig) -> str:
    """The models and fusions that a fusion calls, by what they are to it."""
    parts: dict[str, dict[str, None]] = {}
    for path, name in named_by(fusion):
        parts.setdefault(str(path[0]), {})[name] = None
    told = "; ".join(f"{'panel of' if part == 'panel' else part} {', '.join(names)}" for part, names in parts.items())
    return f"{told} (experimental)" if isinstance(fusion, RelayConfig) else told


def _turns(plan: Plan, placement: Placement) -> str:
    """Whom an engine takes turns with; empty for one that is awake all the time."""
    others = turns_with(plan, placement)
    if not others:
        return ""
    return f", in turns with {joined(others)}: {'awake first' if placement.resident else 'started when it is called'}"


class States:
    """Tells each change of an engine's state in one line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._before: dict[str, State] = {}

    def hear(self, snapshot: EngineSnapshot) -> None:
        """An engine has changed; not always its state."""
        before = self._before.get(snapshot.name)
        if snapshot.state == before:
            return
        self._before[snapshot.name] = snapshot.state
        told = f"engine {snapshot.name}: {snapshot.state.replace('_', ' ')} {_detail(snapshot, before)}"
        self._console.print(printable(told.rstrip()), markup=False, highlight=False, soft_wrap=True)


def _detail(snapshot: EngineSnapshot, before: State | None) -> str:
    level = f"at level {snapshot.level}"
    match snapshot.state:
        case "awake" if before == "waking":
            return f"again after {snapshot.seconds_to_wake or 0:.1f} s"
        case "awake":
            return f"ready after {snapshot.seconds_to_ready or 0:.1f} s"
        case "falling_asleep":
            return level
        case "asleep" if before == "falling_asleep":
            return f"{level} after {snapshot.seconds_to_sleep or 0:.1f} s"
        case "waking":
            return f"from level {snapshot.level}"
        case "backing_off":
            return f"{snapshot.last_error}; trying again"
        case "broken" | "stopped":
            return snapshot.trouble or ""
        case _:
            return ""
