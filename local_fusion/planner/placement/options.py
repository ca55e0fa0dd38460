"""From a configuration, facts and a rig to the placement problem: who may run where, and who is asked with whom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from local_fusion.config.references import engines_of, named_by
from local_fusion.config.schema import Config, ModelConfig
from local_fusion.hardware.devices import Device, Rig
from local_fusion.planner.facts.model import ModelFacts
from local_fusion.planner.facts.sharding import admissible_sizes
from local_fusion.planner.memory.measured import Measurement, Measurements, circumstances
from local_fusion.planner.memory.need import Impossible, Need
from local_fusion.planner.memory.needs import need, step_tokens
from local_fusion.planner.placement.problem import EngineChoice, FusionNeeds, Option, Problem

# NVML's free bytes come in pieces, and allocators waste some: a share left alone, chosen and not measured.
_GPU_RESERVE = 0.02
# Free RAM changes from one look to the next; the plan need not.
_RAM_STEP = 256 * 1024**2
_FEW = 4
"""GPUs of one kind up to which every combination of them is tried; of more, neighbours and those with most room."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What real starts have shown, and the version of vLLM that this plan is for."""

    measurements: Measurements
    vllm: str

    def of(self, model: ModelConfig, facts: ModelFacts, ranks: int, device: Device) -> Measurement | None:
        """What a start of this model on such devices has shown, if there was one."""
        tokens = step_tokens(model, facts)
        key = circumstances(model, facts.fingerprint, ranks, device.name, self.vllm, batched_tokens=tokens)
        return self.measurements.get(key)


def usable_bytes(device: Device, reserve: int | None) -> int:
    """What may be planned of a device's free bytes; `reserve` is left alone on a GPU, by default a share of it."""
    if device.kind == "cpu":
        return device.free_bytes // _RAM_STEP * _RAM_STEP
    return max(0, device.free_bytes - (int(device.total_bytes * _GPU_RESERVE) if reserve is None else reserve))


def build_problem(config: Config, options: Mapping[str, Sequence[Option]], rig: Rig) -> Problem:
    """The problem of placing the models that have `options`, and of serving the fusions that are made of them."""
    room = tuple(usable_bytes(device, config.engines.gpu_reserve) for device in rig.devices)
    names = [name for name in config.models if name in options]
    position = {name: index for index, name in enumerate(names)}
    fusions = []
    for name, fusion in config.fusions.items():
        engines = engines_of(config, name)
        if engines <= position.keys():
            panel = set().union(*(engines_of(config, member.model) for member in fusion.panel))
            fusions.append(
                FusionNeeds(
                    name, frozenset(position[each] for each in engines), frozenset(position[each] for each in panel)
                )
            )
    return Problem(
        room,
        tuple(
            EngineChoice(
                name,
                tuple(
                    option
                    for option in options[name]
                    if all(option.need.least_bytes <= room[device] for device in option.devices)
                ),
                _load(config, name),
            )
            for name in names
        ),
        tuple(fusions),
    )


def ways_to_run(model: ModelConfig, facts: ModelFacts, rig: Rig, known: Knowledge) -> tuple[Option, ...]:
    """Every way to run a model on a rig that its configuration and its shape allow, whether there is room or not.

    Raises `Impossible` if there is none.
    """
    found: list[Option] = []
    impossible: Impossible | None = None
    needs: dict[tuple[int, str], Need] = {}
    for block in _blocks(model, facts, rig.devices):
        first = rig.devices[block[0]]
        key = (len(block), first.name)
        try:
            if key not in needs:
                needs[key] = need(model, facts, len(block), first.kind, known.of(model, facts, len(block), first))
        except Impossible as error:
            impossible = impossible or error
            continue
        found.append(Option(block, needs[key]))
    if not found:
        raise impossible or Impossible(_no_block(model, facts, rig.devices))
    return tuple(found)


def without_sleep(options: Sequence[Option]) -> tuple[Option, ...]:
    """The same for an engine that is stopped where it would sleep, and so leaves nothing behind."""
    return tuple(replace(option, need=replace(option.need, sleeping_bytes=0, host_bytes=0)) for option in options)


def _blocks(model: ModelConfig, facts: ModelFacts, devices: Sequence[Device]) -> Iterator[tuple[int, ...]]:
    """Positions of devices that one engine may be split over, the fewest first."""
    candidates = _candidates(model, devices)
    if model.gpus is not None:
        if len(model.gpus) not in _sizes(model, facts, len(model.gpus)):
            raise Impossible(_indivisible(facts, len(model.gpus)))
        by_index = {devices[position].index: position for position in candidates}
        yield tuple(by_index[index] for index in model.gpus)
        return
    alike: dict[tuple[str, str, int, int], list[int]] = {}
    for position in candidates:
        device = devices[position]
        alike.setdefault((device.node, device.name, device.total_bytes, device.island), []).append(position)
    sizes = _sizes(model, facts, max(len(group) for group in alike.values()))
    if model.tensor_parallel is not None and not sizes:
        raise Impossible(_indivisible(facts, model.tensor_parallel))
    for size in sizes:
        for group in alike.values():
            if size <= len(group):
                yield from _within(group, size, devices)


def _within(group: Sequence[int], size: int, devices: Sequence[Device]) -> Iterator[tuple[int, ...]]:
    if len(group) <= _FEW:
        yield from combinations(group, size)
        return
    neighbours = (
        tuple(group[start : start + size]) for start in (*range(0, len(group) - size, size), len(group) - size)
    )
    emptiest = sorted(group, key=lambda position: (-devices[position].free_bytes, position))[:size]
    yield from dict.fromkeys([*neighbours, tuple(sorted(emptiest))])


def _sizes(model: ModelConfig, facts: ModelFacts, most: int) -> list[int]:
    """The tensor-parallel sizes to try, smallest first: the configured one, else all that the model's shape allows."""
    wanted = model.tensor_parallel if model.gpus is None else len(model.gpus)
    return [size for size in admissible_sizes(facts, max(most, wanted or 1)) if wanted in (None, size)]


def _candidates(model: ModelConfig, devices: Sequence[Device]) -> list[int]:
    """Positions of the devices that the configuration allows."""
    if not devices:
        raise Impossible("there is no device to run on")
    gpus = [position for position, device in enumerate(devices) if device.kind == "cuda"]
    if not gpus and model.gpus is not None:
        raise Impossible(f"it is pinned to GPU {listed(model.gpus)}, but there is no GPU")
    if not gpus and model.tensor_parallel not in (None, 1):
        raise Impossible(f"it is to be split over {model.tensor_parallel} GPUs, but there is no GPU")
    if model.gpus is None:
        return gpus or list(range(len(devices)))
    there = [devices[position].index for position in gpus]
    if missing := [index for index in model.gpus if index not in there]:
        raise Impossible(f"it is pinned to GPU {listed(missing)}, but the GPUs that may be used are {listed(there)}")
    return [position for position in gpus if devices[position].index in model.gpus]


def _no_block(model: ModelConfig, facts: ModelFacts, devices: Sequence[Device]) -> str:
    if model.tensor_parallel is None:
        return "there is no device that it can run on"
    return (
        f"it is to be split over {model.tensor_parallel} GPUs of one kind, near each other: among the {len(devices)} "
        "devices there are fewer (`gpus` may name any)"
    )


def _indivisible(facts: ModelFacts, size: int) -> str:
    heads = f"{facts.attention_heads} attention heads and {facts.kv_heads} KV heads"
    allowed = listed(admissible_sizes(facts, 64))
    return f"the model cannot be split over {size} GPUs: it has {heads}; possible are {allowed}"


def listed(numbers: Sequence[int]) -> str:
    """Numbers for people."""
    return ", ".join(str(number) for number in numbers)


def _load(config: Config, model: str) -> int:
    """Sequences that one request of the fusion that asks most of the model has it run at once."""
    busiest = max((_sequences(config, fusion, model) for fusion in config.fusions), default=1)
    return max(1, min(busiest, config.models[model].max_num_seqs))


def _sequences(config: Config, name: str, model: str) -> int:
    """Sequences that one request of `name` puts on `model` at once: the stage counts that has most."""
    if name in config.models:
        return int(name == model)
    fusion = config.fusions[name]
    panel = sum(member.samples * _sequences(config, member.model, model) for member in fusion.panel)
    others = (_sequences(config, called, model) for path, called in named_by(fusion) if path[0] != "panel")
    return max([panel, *others])
