"""A workload on a rig: the real scheduler, the real policy and the real fusions over simulated engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from local_fusion.config.base import Command
from local_fusion.config.personas import PERSONAS
from local_fusion.config.references import engines_of, parts_of
from local_fusion.config.schema import SchedulingSettings
from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.concurrency import together
from local_fusion.core.metered import Metered
from local_fusion.core.model import ChatModel
from local_fusion.core.sampling import Sampling
from local_fusion.engines.devices import DeviceLocks
from local_fusion.engines.gate import Gate
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.model import FusionModel
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.memory.measured import Measurement, circumstances
from local_fusion.planner.plan import Placement, Plan
from local_fusion.scheduler.costs import Costs
from local_fusion.scheduler.managed import ManagedEngine
from local_fusion.scheduler.policy import FairPolicy, Policy
from local_fusion.scheduler.scheduler import Scheduler
from local_fusion.scheduler.situation import Footprint
from local_fusion.simulation import clock
from local_fusion.simulation.engine import Shape, SimulatedEngine
from local_fusion.simulation.model import SimulatedModel
from local_fusion.simulation.programs import accepts
from local_fusion.simulation.recording import Lane
from local_fusion.simulation.report import DeviceReport, Outcome, Report, engine_report, served
from local_fusion.simulation.rig import SimulatedRig
from local_fusion.simulation.speeds import Rates, Speed, assumptions, speed_of
from local_fusion.simulation.watching import WatchedPolicy
from local_fusion.simulation.workload import Arrival, Workload

Progress = Callable[[int], None]
"""Hears how many requests are done."""


class Turns(Protocol):
    """What a simulation needs of whoever holds calls and moves engines, as `scheduler.scheduler.Scheduler` does."""

    def gate(self, name: str) -> Gate:
        """The way to the engine `name`."""
        ...

    def start(self, names: Iterable[str]) -> None:
        """Begin to wake engines that fit together."""
        ...

    def admit(self, names: Iterable[str]) -> None:
        """Raises `QueueFull` where a request is to be turned away at the door."""
        ...

    async def aclose(self) -> None:
        """Turn away all that waits, and move nothing any more."""
        ...


Others = Callable[[Mapping[str, ManagedEngine], Mapping[str, Footprint], Mapping[int, int]], Turns]
"""Makes a stand-in for the scheduler, of the engines, what they hold, and the bytes that there are of each device."""


def simulate(
    inputs: Inputs,
    plan: Plan,
    workload: Workload,
    *,
    policy: Policy | None = None,
    settings: SchedulingSettings | None = None,
    rates: Rates | None = None,
    progress: Progress = lambda done: None,
    instead: Others | None = None,
) -> Report:
    """Have `workload` answered by the engines of `plan`, which was made of `inputs` and refuses nobody.

    `policy` decides instead of the scheduler's own, `settings` instead of the configuration's; with `instead` another
    scheduler does everything. The same arguments give the same report.
    Raises `clock.Deadlock` if requests wait that nothing will ever answer.
    """
    settings = settings or inputs.config.scheduling
    simulation = _Simulation(inputs, plan, workload, rates or Rates())
    return clock.run(simulation.run(policy, settings, progress, instead))


@dataclass(slots=True)
class _Simulation:
    inputs: Inputs
    plan: Plan
    workload: Workload
    rates: Rates

    async def run(
        self, policy: Policy | None, settings: SchedulingSettings, progress: Progress, instead: Others | None
    ) -> Report:
        loop = asyncio.get_running_loop()
        usable = {device.index: size for device, size in zip(self.plan.devices, self.plan.usable, strict=True)}
        rig, locks = SimulatedRig(usable, self.plan.host_ram_bytes, loop.time), DeviceLocks()
        speeds = {placement.model: self._speed(placement) for placement in self.plan.placements}
        capacities = {name: self.inputs.config.models[name].max_num_seqs for name in speeds}
        engines = {
            placement.model: SimulatedEngine(
                Shape(placement, speeds[placement.model], capacities[placement.model]),
                rig,
                Lane(placement.model, loop.time),
                locks,
            )
            for placement in self.plan.placements
        }
        footprints = {placement.model: Footprint.of(placement) for placement in self.plan.placements}
        deciding = policy or FairPolicy(settings.fairness_seconds, settings.idle_sleep_seconds)
        watched = WatchedPolicy(deciding, {name: engine.lane for name, engine in engines.items()})
        scheduler: Turns = (
            instead(engines, footprints, usable)
            if instead is not None
            else Scheduler(
                engines,
                footprints,
                usable,
                settings=settings,
                policy=watched,
                costs={name: _costs(speed) for name, speed in speeds.items()},
                capacities=capacities,
            )
        )
        models = self._models(engines, scheduler)
        scheduler.start(placement.model for placement in self.plan.placements if placement.resident)
        await together(
            engines[placement.model].until_awake() for placement in self.plan.placements if placement.resident
        )
        ready, done = loop.time(), 0

        async def ask(arrival: Arrival) -> Outcome:
            nonlocal done
            await asyncio.sleep(ready + arrival.at - loop.time())
            outcome = await self._ask(arrival, models, scheduler)
            done += 1
            progress(done)
            return outcome

        answering = asyncio.ensure_future(together(ask(arrival) for arrival in self.workload.arrivals))
        await _until_done(answering, [engine.lane for engine in engines.values()], settings)
        outcomes, end = answering.result(), loop.time()
        await scheduler.aclose()
        return self._report(rig, engines, speeds, +watched.reasons, tuple(outcomes), ready, end)

    async def _ask(self, arrival: Arrival, models: Mapping[str, ChatModel], scheduler: Turns) -> Outcome:
        """One request as a server would take it: looked at at the door, then answered or failed."""
        began = asyncio.get_running_loop().time()
        request = ChatRequest(
            messages=(Message("user", arrival.prompt),),
            sampling=Sampling(seed=0),  # so that members have seeds that tell their answers apart
            request_id=arrival.id,
            priority=arrival.priority,
        )
        error, partial, missing = None, False, ""
        try:
            scheduler.admit(sorted(engines_of(self.inputs.config, arrival.model)))
            reply = await models[arrival.model].answer(request)
            if reply.report is not None and reply.report.partial:
                partial, missing = True, "; ".join(failure.message for failure in reply.report.failed)
        except LocalFusionError as failure:
            error = failure
        seconds = asyncio.get_running_loop().time() - began
        if error is None:
            return Outcome(arrival.model, arrival.priority, arrival.at, seconds, message=missing, partial=partial)
        return Outcome(arrival.model, arrival.priority, arrival.at, seconds, error.code, error.message)

    def _models(self, engines: Mapping[str, SimulatedEngine], scheduler: Turns) -> dict[str, ChatModel]:
        arrivals = {arrival.id: arrival for arrival in self.workload.arrivals}
        models: dict[str, ChatModel] = {}
        for name, engine in engines.items():
            models[name] = Metered(SimulatedModel(engine, scheduler.gate(name), arrivals))
        personas = {**PERSONAS, **self.inputs.config.personas}
        for name, fusion in self.inputs.config.fusions.items():
            models[name] = FusionModel(name, fusion, models.__getitem__, personas, accepts)
        return models

    def _runs_programs(self) -> bool:
        fusions = self.inputs.config.fusions.values()
        return any(isinstance(part, Command) for fusion in fusions for _, part in parts_of(fusion))

    def _speed(self, placement: Placement) -> Speed:
        name, devices = placement.model, {device.index: device for device in self.plan.devices}
        facts = self.inputs.facts[name]
        return speed_of(placement, facts, devices, self.rates, self._measurement(placement))

    def _measurement(self, placement: Placement) -> Measurement | None:
        """What real starts on this kind of device have shown; nothing of a rig on paper but by the same card's name."""
        name = placement.model
        device = next(each for each in self.plan.devices if each.index == placement.devices[0])
        key = circumstances(
            self.inputs.config.models[name],
            self.inputs.facts[name].fingerprint,
            placement.tensor_parallel,
            device.name,
            self.inputs.vllm,
            batched_tokens=placement.batched_tokens,
        )
        return self.inputs.measurements.get(key)

    def _report(
        self,
        rig: SimulatedRig,
        engines: Mapping[str, SimulatedEngine],
        speeds: Mapping[str, Speed],
        reasons: Mapping[str, int],
        outcomes: tuple[Outcome, ...],
        ready: float,
        end: float,
    ) -> Report:
        reports = tuple(
            engine_report(engine.lane, engine.shape.placement.devices, ready, end) for engine in engines.values()
        )
        devices = {device.index: device for device in self.plan.devices}
        return Report(
            workload=self.workload.about,
            ready_seconds=ready,
            drain_seconds=end - ready,
            served=served(outcomes),
            engines=reports,
            devices=tuple(
                DeviceReport(
                    index=device.index,
                    name=device.name,
                    busy_share=rig.busy_seconds[device.index] / (end - ready) if end > ready else 0.0,
                    peak_bytes=rig.peaks[device.index],
                    usable_bytes=usable,
                    kind=device.kind,
                )
                for device, usable in zip(self.plan.devices, self.plan.usable, strict=True)
            ),
            swaps=sum(report.swaps for report in reports),
            swap_seconds=sum(report.moving_seconds for report in reports),
            reasons=dict(reasons),
            overdrafts=tuple(rig.overdrafts),
            assumptions=(
                *assumptions(self.plan.placements, self.inputs.facts, devices, self.rates, speeds),
                *_ALWAYS,
                *((_OF_PROGRAMS,) if self._runs_programs() else ()),
            ),
            outcomes=outcomes,
            lanes=tuple(engine.lane for engine in engines.values()),
        )


async def _until_done(answering: asyncio.Future[Any], lanes: Sequence[Lane], settings: SchedulingSettings) -> None:
    """Wait for the answers. Raises `Deadlock` once calls have waited for long while nothing at all happened.

    A scheduler keeps telling its callers that they wait, so the clock alone never finds that out.
    """
    patience = max(_PATIENCE, 2 * (settings.fairness_seconds or 0.0))
    before: Sequence[int] | None = None
    while not answering.done():
        await asyncio.wait({answering}, timeout=patience)
        stands = not any(lane.running.last or lane.states[-1][1] in _ON_THE_WAY for lane in lanes)
        now = [*(len(lane.waits) for lane in lanes), *(len(lane.moves) for lane in lanes)]
        waiting = [lane.name for lane in lanes if lane.queued.last]
        if stands and waiting and now == before:
            answering.cancel()
            raise clock.Deadlock(f"calls wait for {', '.join(waiting)}, and nothing happens for {patience:g} s")
        before = now


_PATIENCE = 3600.0
_ON_THE_WAY = ("starting", "waking", "falling_asleep", "stopping")

_ALWAYS = (
    "engines that compute on one device at the same time share it evenly; nothing ever fails",
    "a prompt is read once for all samples of a call, and nothing of it is found in the prefix cache later",
    "a judge's analysis is as long as an answer; 4 characters are a token",
    "no two answers agree, none is cut early, and what judges choose is drawn by lot",
)
_OF_PROGRAMS = "programs are not run: they take no time and accept every second text, by lot"


def _costs(speed: Speed) -> Costs:
    return Costs(speed.moves.start, speed.moves.wake1, speed.moves.wake2)
