"""`models`: checkpoints on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from local_fusion.config.loading import find_config, load_config
from local_fusion.config.quantities import format_bytes
from local_fusion.engines.checkpoints import cached, locate, resolve
from local_fusion.errors import LocalFusionError


def run_list(config_path: Path | None, *, as_json: bool) -> None:
    """The configured models with the folders of their checkpoints, and imported checkpoints that nobody configured."""
    config = load_config(find_config(config_path))
    entries = []
    for name, model in config.models.items():
        try:
            folder, missing = resolve(model.source, make=False), None
        except LocalFusionError as error:
            folder, missing = None, error.message
        entries.append({"model": name, "source": model.source, "folder": _text(folder), "missing": missing})
    used = {entry["folder"] for entry in entries}
    imported = [
        {"name": entry.name, "folder": str(entry.path), "bytes": entry.bytes, "source": entry.source}
        for entry in cached()
    ]
    if as_json:
        print(json.dumps({"models": entries, "imported": imported}, indent=2))
        return
    table = Table("model", "source", "checkpoint", box=None, header_style="bold")
    for told in entries:
        table.add_row(told["model"], told["source"], told["folder"] or f"[yellow]{told['missing']}[/yellow]")
    for extra in imported:
        if extra["folder"] not in used:
            table.add_row(
                "[dim]not configured[/dim]",
                str(extra["source"]),
                f"{extra['folder']} ({format_bytes(int(str(extra['bytes'])))})",
            )
    Console().print(table)


def run_import(source: str) -> None:
    """Import one GGUF file and print the checkpoint's folder."""
    with _progress() as tell:
        folder = resolve(source, progress=tell)
    print(folder)


def run_pull(names: list[str], config_path: Path | None, *, config_only: bool = False) -> None:
    """Make the checkpoints of `names` (configured models or sources; none: all configured) available.

    With `config_only` no weights are downloaded and no file is imported: enough to plan.
    """
    config = load_config(find_config(config_path))
    for name in names or list(config.models):
        source = config.models[name].source if name in config.models else name
        with _progress() as tell:
            found = locate(source, fetch=True, progress=tell) if config_only else resolve(source, progress=tell)
        print(found)


def _text(folder: Path | None) -> str | None:
    return None if folder is None else str(folder)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    console = Console(stderr=True)
    with console.status("looking for the checkpoint") as status:

        def tell(text: str) -> None:
            status.update(text)
            if not console.is_terminal:
                console.print(text, highlight=False, soft_wrap=True)

        yield tell
