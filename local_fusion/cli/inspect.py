"""`models inspect`: one model's bytes line by line, at each tensor-parallel size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from local_fusion.config.loading import find_config, load_config
from local_fusion.config.paths import looks_like_path
from local_fusion.config.problems import nearest
from local_fusion.config.quantities import format_bytes
from local_fusion.config.schema import Config, ModelConfig
from local_fusion.errors import ConfigError, LocalFusionError
from local_fusion.hardware.devices import Device
from local_fusion.hardware.rigs import parse_rig
from local_fusion.planner.facts.model import ModelFacts, WeightsFrom
from local_fusion.planner.facts.sharding import admissible_sizes, rank_groups
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.memory.need import Impossible, Need
from local_fusion.planner.memory.needs import block_size_of, need
from local_fusion.planner.memory.pages import pages
from local_fusion.planner.placement.options import Knowledge
from local_fusion.runtime import gather, this_rig

_GIB = 1024**3
_MOST_RANKS = 8
_COLUMN, _GAP = 9, 2

_FROM: dict[WeightsFrom, str] = {
    "headers": "read from the headers of its safetensors files",
    "files": "sizes of its files, which tell no more",
    "gguf": "counted in its GGUF file, as 16-bit weights",
    "config": "computed from config.json, as there are none yet",
}
_LAYERS = {
    "full": "full attention, a token",
    "sliding": "window of {window:,}, a token",
    "latent": "latent attention, a token",
    "state": "state, a request",
}
_OVERHEAD = {
    "process": ("CUDA context and libraries", "processes"),
    "collectives": ("collectives (NCCL)", "collectives"),
    "activations": ("activations", "activations"),
    "graphs": ("CUDA graphs", "graphs"),
    "buffers": ("tables of vLLM's own", "tables of vLLM's own"),
    "measured": ("all of it", "all of it"),
}


@dataclass(frozen=True, slots=True)
class CacheRow:
    """All layers that cache alike on one rank: bytes for a token, or for a request where it is a state."""

    kind: Literal["full", "sliding", "latent", "state"]
    layers: int
    window: int
    bytes: int

    @property
    def label(self) -> str:
        """What they are, for people."""
        return f"{self.layers} × {_LAYERS[self.kind].format(window=self.window)}"


@dataclass(frozen=True, slots=True)
class Split:
    """The model at one tensor-parallel size: bytes on each rank."""

    need: Need
    weights: tuple[tuple[str, int], ...]
    cache: tuple[CacheRow, ...]

    @property
    def total_bytes(self) -> int:
        """All that an engine takes with room for one request of the context wanted."""
        return self.need.fixed_bytes + self.need.kv_wanted


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model, where it would run, and its bytes at each size."""

    name: str
    options: ModelConfig
    facts: ModelFacts
    device: Device
    splits: tuple[Split, ...]


def run_inspect(
    model: str, config_path: Path | None, *, gpus: str | None, tensor_parallel: int | None, as_json: bool
) -> None:
    """Print one model's bytes.

    Raises `ConfigError` or `SetupError` where the model, the rig or the tensor-parallel size is not to be had.
    """
    config = load_config(find_config(config_path))
    share = config.engines.memory_share
    rig = this_rig(config) if gpus is None else parse_rig(gpus, share=share)
    options = config.models.get(model) or ModelConfig(source=model)
    alone = config.model_copy(update={"models": {model: options}, "fusions": {}})
    try:
        inputs = gather(alone, rig)
    except LocalFusionError as error:
        _suggest(model, config, error)
        raise
    found = inspect(model, inputs, tensor_parallel)
    if as_json:
        print(json.dumps(inspection_json(found), indent=2, allow_nan=False))
        return
    console = Console()
    for part in _parts(found, console.width):
        console.print(part, highlight=False)


def _suggest(model: str, config: Config, error: LocalFusionError) -> None:
    """Add the configured model that was perhaps meant."""
    if model not in config.models and not looks_like_path(model) and (near := nearest(model, config.models)):
        error.hint = f"Did you mean the configured model '{near}'? {error.hint}".rstrip()


def inspect(name: str, inputs: Inputs, tensor_parallel: int | None) -> Inspection:
    """The bytes of the model `name` on the first kind of device of a rig, at `tensor_parallel` or every possible size.

    Raises `ConfigError` where it cannot be split so, or its configuration contradicts itself.
    """
    options, facts, device = inputs.config.models[name], inputs.facts[name], inputs.rig.devices[0]
    sizes = (1,) if device.kind == "cpu" else admissible_sizes(facts, max(_MOST_RANKS, tensor_parallel or 1))
    if tensor_parallel is not None and tensor_parallel not in sizes:
        possible = ", ".join(map(str, sizes))
        where = "on the CPU" if device.kind == "cpu" else f"over {tensor_parallel} GPUs"
        raise ConfigError([f"{name} cannot be split {where}: possible sizes are {possible}"])
    splits, why, known = [], "", Knowledge(inputs.measurements, inputs.vllm)
    for size in sizes if tensor_parallel is None else (tensor_parallel,):
        try:
            needed = need(options, facts, size, device.kind, known.of(options, facts, size, device))
        except Impossible as error:
            why = str(error)
            continue
        splits.append(Split(needed, rank_groups(facts, size), _cache_rows(options, facts, size, device)))
    if not splits:
        raise ConfigError([f"{name}: {why}"])
    return Inspection(name, options, facts, device, tuple(splits))


def _cache_rows(options: ModelConfig, facts: ModelFacts, size: int, device: Device) -> tuple[CacheRow, ...]:
    found = pages(
        facts.cache,
        tensor_parallel=size,
        kind=device.kind,
        element_bytes=1 if options.kv_cache_dtype.startswith("fp8") else 0,
        activation_bytes=facts.dtype_bytes,
        block_size=block_size_of(options),
    )
    rows: dict[tuple[str, int], CacheRow] = {}
    for page, count in found.items():
        size_of_all = count * (page.bytes * page.slots if page.kind == "state" else page.bytes // page.block_tokens)
        before = rows.get((page.kind, page.window), CacheRow(page.kind, 0, page.window, 0))
        after = CacheRow(page.kind, before.layers + count, page.window, before.bytes + size_of_all)
        rows[page.kind, page.window] = after
    return tuple(rows.values())


def inspection_json(found: Inspection) -> dict[str, Any]:
    """The inspection for programs: bytes on each rank, `kv_layers` a token (a `state`: a request)."""
    facts = found.facts
    return {
        "model": found.name,
        "source": found.options.source,
        "architecture": facts.architecture,
        "runner": facts.runner,
        "parameters": facts.parameters,
        "weights_from": facts.weights_from,
        "weights_bytes": facts.weights_bytes,
        "layers": facts.layers,
        "max_model_len": facts.max_model_len,
        "kind": found.device.kind,
        "device": found.device.name,
        "splits": [_split_json(split) for split in found.splits],
        "warnings": facts.warnings,
    }


def _split_json(split: Split) -> dict[str, Any]:
    needed = split.need
    return {
        "tensor_parallel": needed.tensor_parallel,
        "weights_bytes": needed.weights_bytes,
        "weights": dict(split.weights),
        "kv_bytes_per_token": needed.pool.bytes_per_token,
        "kv_layers": [asdict(row) for row in split.cache],
        "context": needed.context,
        "kv_request_bytes": needed.kv_wanted,
        "kv_tokens_per_gib": needed.pool.tokens(_GIB, needed.context) or None,
        "overhead_bytes": needed.overhead.total,
        "overhead": asdict(needed.overhead),
        "least_bytes": needed.least_bytes,
        "total_bytes": split.total_bytes,
        "sleeping_bytes": needed.sleeping_bytes,
        "host_bytes": needed.host_bytes,
        "measured": sorted(needed.measured),
    }


_Row = tuple[str, list[str]]


def _parts(found: Inspection, width: int) -> Iterator[RenderableType]:
    facts, on_cpu = found.facts, found.device.kind == "cpu"
    use = "" if facts.runner == "generate" else ", for embeddings and scores"
    yield Text.assemble((found.name, "bold"), f"  {facts.architecture}{use}")
    yield Text(f"{_count(facts.parameters)} parameters, {facts.layers} layers, made for {facts.max_model_len:,} tokens")
    yield Text(f"weights: {_FROM[facts.weights_from]}")
    yield Text(f"bytes {'on the CPU' if on_cpu else 'on each GPU'} ({found.device.name})", style="dim")
    yield ""
    label = _GAP + max(len(label) for _, rows in _sections(found, found.splits) for label, _ in rows)
    at_once = max(1, (width - label - _GAP) // (_COLUMN + _GAP))
    for first in range(0, len(found.splits), at_once):
        yield _table(found, found.splits[first : first + at_once], label)
    if any(split.need.measured for split in found.splits):
        yield Text("* measured when the engine was started here before; all else is computed", style="dim")
    for warning in facts.warnings:
        yield Text.assemble(("! ", "yellow"), warning)


def _table(found: Inspection, splits: Sequence[Split], label: int) -> RenderableType:
    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_column(width=label, no_wrap=True)
    for _ in splits:
        table.add_column(justify="right", width=_COLUMN, no_wrap=True)
    heads = [f"{split.need.tensor_parallel} GPU{'s' * (split.need.tensor_parallel > 1)}" for split in splits]
    table.add_row("", *(Text("CPU" if found.device.kind == "cpu" else head, style="bold") for head in heads))
    for title, rows in _sections(found, splits):
        if title:
            table.add_row(Text(title, style="bold cyan"))
        for text, cells in rows:
            style = "bold" if text.startswith("=") else ""
            table.add_row(Text(f"  {text}", style=style), *(Text(cell, style=style) for cell in cells))
    table.add_row("")
    return table


def _sections(found: Inspection, splits: Sequence[Split]) -> Iterator[tuple[str, list[_Row]]]:
    """The titles and rows of the table; the same rows for every choice of splits."""
    needs = [split.need for split in splits]

    def row(label: str, sizes: Sequence[int], number: str = "") -> _Row:
        marks = ["*" if number in each.measured else "" for each in needs]
        return label, [(format_bytes(size) if size else "-") + mark for size, mark in zip(sizes, marks, strict=True)]

    groups = [dict(split.weights) for split in splits]
    weights = [row(name, [each[name] for each in groups]) for name, _ in found.splits[0].weights]
    yield "weights", [*weights, row("= weights", [each.weights_bytes for each in needs], "weights")]

    tokens = [each.pool.tokens(_GIB, each.context) for each in needs]
    contexts = sorted({each.context for each in needs})
    context = f"{contexts[0]:,}" if len(contexts) == 1 else f"{contexts[0]:,} to {contexts[-1]:,}"
    if found.splits[0].cache:
        cache = [
            row(each.label, [split.cache[i].bytes for split in splits]) for i, each in enumerate(found.splits[0].cache)
        ]
        yield (
            "KV cache",
            [
                *cache,
                row("each further token", [each.pool.bytes_per_token for each in needs], "kv"),
                ("tokens in 1 GiB", [f"{count:,}" for count in tokens]),
                row(f"= a request of {context} tokens", [each.kv_wanted for each in needs], "kv"),
            ],
        )
    on_cpu = found.device.kind == "cpu"
    parts = [(label[on_cpu], [int(asdict(each.overhead)[name]) for each in needs]) for name, label in _OVERHEAD.items()]
    overhead = [row(label, sizes, "overhead") for label, sizes in parts if any(sizes)]
    yield "overhead", [*overhead, row("= overhead", [each.overhead.total for each in needs], "overhead")]
    yield "", [row("= together, with one request", [split.total_bytes for split in splits])]
    if not on_cpu:
        left = row("left on each GPU", [each.sleeping_bytes for each in needs], "asleep")
        yield "asleep at level 1", [left, row("host RAM, for each GPU", [each.host_bytes for each in needs])]


def _count(parameters: int) -> str:
    """A number of parameters, as people say it."""
    for size, word in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million")):
        if parameters >= size:
            return f"{parameters / size:.3g} {word}"
    return f"{parameters:,}"
