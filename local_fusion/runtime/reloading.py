"""Another configuration for a runtime that goes on: engines that did not change are kept, and nobody is interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from local_fusion.config.schema import Config
from local_fusion.engines.checkpoints.facts import read_facts
from local_fusion.engines.measurements import load_measurements
from local_fusion.planner.explain import refusal_error
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.plan import Placement, Plan
from local_fusion.planner.replanning import Standing, replan, with_share
from local_fusion.planner.words import where
from local_fusion.runtime.changes import (
    FusionChanges,
    Reloaded,
    changed_options,
    changed_settings,
    effective,
)
from local_fusion.runtime.gathering import Tell, fetched, served_by
from local_fusion.runtime.runtime import Load, Runtime
from local_fusion.runtime.scheduling import pooling_of, seeing_of, terms_of, usable_of
from local_fusion.runtime.workshop import Workshop


@dataclass(frozen=True, slots=True)
class _Planned:
    """What is to become of everything."""

    inputs: Inputs
    plan: Plan
    let_go: tuple[str, ...] = ()


class Reloading:
    """Reloads one runtime, one time after the other. `inputs` are those of its present plan."""

    def __init__(self, runtime: Runtime, workshop: Workshop, inputs: Inputs, only: Iterable[str] | None) -> None:
        self._runtime = runtime
        self._workshop = workshop
        self._inputs = inputs
        self._only = only
        self._turn = asyncio.Lock()
        self._at_work: set[asyncio.Task[Reloaded]] = set()

    async def reload(self, load: Load, tell: Tell = lambda _: None) -> Reloaded:
        """Read another configuration with `load`, in a thread, and go by it; returns when all that left has gone.

        Requests in flight end with what they began with. Those for engines that change wait; engines that go are
        stopped once nobody needs them, at the latest after `server.drain_seconds`. Whoever waits for this may go away.
        Raises, with nothing changed, what `load` raises and what `open_runtime` does.
        """
        task = asyncio.create_task(self._reload(load, tell), name="reload")
        self._at_work.add(task)
        task.add_done_callback(self._over)
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Give up what is under way."""
        tasks = set(self._at_work)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _over(self, task: asyncio.Task[Reloaded]) -> None:
        self._at_work.discard(task)
        if not task.cancelled():
            task.exception()  # heard, even where nobody waits for it any longer

    async def _reload(self, load: Load, tell: Tell) -> Reloaded:
        async with self._turn:
            config = await asyncio.to_thread(load)
            before = self._runtime.config
            wanted, config = config, effective(before, config)
            planned = await self._planned(config, tell)
            changes = self._changes(before, planned)
            settings = changed_settings(before, wanted)
            at_once = changed_settings(before, config)
            await self._become(planned, changes, tell)
            return replace(
                changes,
                settings=settings,
                needs_restart=tuple(key for key in settings if key not in at_once),
            )

    async def _planned(self, config: Config, tell: Tell) -> _Planned:
        """What `config` asks for, on the rig as it was before any engine ran.

        Raises `CallerError`, `SetupError` and `Refused`.
        """
        before = self._runtime.config
        served = served_by(config, self._only)
        names = [name for name in config.models if name in served]
        same = [name for name in names if name in self._inputs.facts and config.models[name] == before.models[name]]
        checkpoints = {
            name: self._inputs.checkpoints[name] if name in same else await fetched(config.models[name].source, tell)
            for name in names
        }
        rig = with_share(self._inputs.rig, before.engines.memory_share, config.engines.memory_share)
        memory = rig == self._inputs.rig and config.engines.gpu_reserve == before.engines.gpu_reserve
        if memory and same == names and len(names) == len(self._inputs.facts):
            return _Planned(replace(self._inputs, config=config), self._runtime.plan)

        def facts_and_plan() -> _Planned:
            facts = {
                name: self._inputs.facts[name] if name in same else read_facts(checkpoints[name], config.models[name])
                for name in names
            }
            learned = load_measurements() if self._workshop.for_real else {}
            inputs = replace(
                self._inputs, config=config, facts=facts, checkpoints=checkpoints, rig=rig, measurements=learned
            )
            standing = {
                name: Standing(self._runtime.placement(name), self._workshop.made[name].command.sleeps) for name in same
            }
            plan, let_go = replan(inputs, standing)
            if plan.refusals:
                raise refusal_error(plan)
            return _Planned(inputs, plan, let_go)

        return await asyncio.to_thread(facts_and_plan)

    def _changes(self, before: Config, planned: _Planned) -> Reloaded:
        inputs, plan = planned.inputs, planned.plan
        made, engines = self._workshop.made, self._runtime.engines
        there = [each for each in plan.placements if each.model in made]
        kept = {each.model for each in there if self._workshop.is_made_for(inputs, each)}
        restarted = {each.model: self._why(before, planned, each) for each in there if each.model not in kept}
        names = [name for name in inputs.config.models if name in inputs.facts]
        notes = [note for note in plan.notes if plan is not self._runtime.plan]
        if plan is not self._runtime.plan and kept:
            notes.append("engines that were kept have the memory and cores they had; a restart shares all out anew")
        notes += [
            f"{name} is broken as before: {engines[name].snapshot.trouble}; POST /admin/engines/{name}/restart tries "
            "once more"
            for name in names
            if name in kept and engines[name].snapshot.state == "broken"
        ]
        return Reloaded(
            plan,
            kept=tuple(name for name in names if name in kept),
            started=tuple(name for name in names if name not in made),
            stopped=tuple(name for name in made if name not in names),
            restarted={name: restarted[name] for name in names if name in restarted},
            fusions=FusionChanges.between(before, inputs.config),
            notes=tuple(notes),
        )

    def _why(self, before: Config, planned: _Planned, placement: Placement) -> str:
        """Why an engine cannot be kept."""
        name, config = placement.model, planned.inputs.config
        if name in before.models and (options := changed_options(before.models[name], config.models[name])):
            return f"changed: {options}"
        if name in planned.let_go:
            here, there = self._runtime.placement(name).devices, placement.devices
            devices = planned.inputs.rig.devices
            moved = f"moved from {where(here, devices)} to {where(there, devices)}" if here != there else "placed anew"
            return f"{moved}, because otherwise not all models would fit"
        return "changed: server.media_domains"

    async def _become(self, planned: _Planned, changes: Reloaded, tell: Tell) -> None:
        """Go by the plan from this moment on; then see off whoever leaves, and start whoever comes."""
        inputs, plan = planned.inputs, planned.plan
        runtime, scheduler, workshop = self._runtime, self._runtime.scheduler, self._workshop
        placements = {placement.model: placement for placement in plan.placements}
        made: list[str] = []
        try:
            for name in changes.started:
                workshop.make(inputs, placements[name])
                made.append(name)
        except BaseException:
            for name in made:
                await workshop.dispose(name)
            raise
        holds = {name: ExitStack() for name in changes.restarted}
        for name, hold in holds.items():
            hold.enter_context(scheduler.holding.held(name))
        for name in changes.started:
            scheduler.add(workshop.made[name].engine, terms_of(inputs, placements[name]))
        for name in changes.kept:
            scheduler.place(name, terms_of(inputs, placements[name]))
            workshop.made[name].engine.adopt(inputs.config.engines)
        scheduler.adopt(inputs.config.scheduling, usable_of(plan), [*placements])
        engines = {name: workshop.made[name].engine for name in inputs.config.models if name in placements}
        served = served_by(inputs.config, self._only)
        runtime.become(inputs.config, plan, engines, served, seeing_of(inputs), pooling_of(inputs))
        runtime.joined = (runtime.joined | {*changes.started, *changes.restarted}) & engines.keys()
        self._inputs = inputs
        residents = {name for name, placement in placements.items() if placement.resident}
        coming = [name for name in (*changes.started, *changes.restarted) if name in residents]

        def start() -> None:
            scheduler.start_beside(coming, residents)

        start()
        work = [self._take_away(name, tell) for name in changes.stopped]
        work += [self._change(inputs, placements[name], hold, tell) for name, hold in holds.items()]
        outcomes = await asyncio.gather(*(_then(each, start) for each in work), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _take_away(self, name: str, tell: Tell) -> None:
        """Stop an engine that is not in the configuration any more, once nobody needs it."""
        seconds, scheduler = self._runtime.config.server.drain_seconds, self._runtime.scheduler
        if not await scheduler.holding.unused(name, seconds):
            tell(f"{name} goes, and takes with it what still needed it after {seconds:g} s (server.drain_seconds)")
        engine = self._workshop.made[name].engine
        with scheduler.holding.held(name):
            await self._workshop.dispose(name, because="was taken out of the configuration")
            await scheduler.holding.left_alone(name)
        scheduler.remove(name)
        self._runtime.gone(engine)

    async def _change(self, inputs: Inputs, placement: Placement, hold: ExitStack, tell: Tell) -> None:
        """Have an engine that is held run as `placement` says, once what it was doing has ended."""
        name, seconds = placement.model, self._runtime.config.server.drain_seconds
        scheduler = self._runtime.scheduler
        with hold:
            if not await scheduler.holding.drained(name, seconds):
                tell(f"{name} is restarted, with calls in flight after {seconds:g} s (server.drain_seconds)")
            await self._workshop.made[name].engine.stop("was restarted for another configuration")
            await scheduler.holding.left_alone(name)
            await self._workshop.remake(inputs, placement)
            scheduler.place(name, terms_of(inputs, placement))


async def _then(work: Coroutine[Any, Any, None], go_on: Callable[[], None]) -> None:
    await work
    go_on()
