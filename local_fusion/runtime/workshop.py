"""Where engines are made, with everything that those of one server share; none is left when it closes."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from local_fusion.core.concurrency import together
from local_fusion.engines.command import EngineCommand, engine_command, with_smaller_cache
from local_fusion.engines.devices import Claim, DeviceLocks
from local_fusion.engines.engine import Engine
from local_fusion.engines.host import EngineHost
from local_fusion.engines.lessons import Lessons
from local_fusion.engines.probes import NvmlProbe, RamProbe
from local_fusion.engines.runtime_folder import RuntimeFolder
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.plan import Placement
from local_fusion.scheduler.costs import longest_step


@dataclass(frozen=True, slots=True)
class Made:
    """An engine, and how its process is started; `lessons` are drawn from it where that is of use."""

    engine: Engine
    command: EngineCommand
    lessons: Lessons | None = None


class Workshop:
    """Makes engines and knows all that are not disposed of. `for_real`: over vLLM, not over something like it."""

    def __init__(self, folder: RuntimeFolder, host: EngineHost, inputs: Inputs, *, for_real: bool) -> None:
        self.for_real = for_real
        self.made: dict[str, Made] = {}
        self._folder = folder
        self._host = host
        self._environ = dict(os.environ)  # as it was at the start: what changes later is no reason to start anew
        self._locks = DeviceLocks()
        on_gpus = any(device.kind == "cuda" for device in inputs.rig.devices)
        self._probe = (NvmlProbe() if on_gpus else RamProbe()) if for_real else None

    def make(self, inputs: Inputs, placement: Placement) -> Engine:
        """An engine for `placement`, not started.

        Raises `SetupError` where there is no room for its socket.
        """
        how = self._how(inputs, placement)
        name = placement.model
        engine = Engine(name, socket=self._folder.socket(name), log=self._folder.log(name), host=self._host, **how)
        self.made[name] = Made(engine, how["command"], self._learning(engine, inputs, placement))
        return engine

    async def remake(self, inputs: Inputs, placement: Placement) -> None:
        """Have an engine that is stopped run as `placement` says from its next start on."""
        before, how = self.made[placement.model], self._how(inputs, placement)
        if before.lessons is not None:
            await before.lessons.aclose()
        before.engine.become(**how)
        learning = self._learning(before.engine, inputs, placement)
        self.made[placement.model] = Made(before.engine, how["command"], learning)

    def is_made_for(self, inputs: Inputs, placement: Placement) -> bool:
        """Whether the engine that is there would be started in just that way: then it can be kept."""
        made = self.made.get(placement.model)
        if made is None:
            return False
        return made.command == self._command(inputs, placement, sleeps=made.command.sleeps)

    async def dispose(self, name: str, *, because: str | None = None) -> None:
        """Stop an engine for good, with all that was kept of it. `because` is what calls in flight are told."""
        made = self.made[name]
        await made.engine.stop(because)
        if made.lessons is not None:
            await made.lessons.aclose()
        del self.made[name]
        for file in (self._folder.log(name), self._folder.socket(name)):
            with suppress(OSError):
                file.unlink()

    async def aclose(self) -> None:
        """Stop all engines."""
        await together(made.lessons.aclose() for made in self.made.values() if made.lessons is not None)
        await together(made.engine.stop() for made in self.made.values())

    def _how(self, inputs: Inputs, placement: Placement) -> dict[str, Any]:
        return {
            "command": self._command(inputs, placement),
            "settings": inputs.config.engines,
            "claim": Claim.of(placement, self._locks, self._probe),
            "smaller": with_smaller_cache(**self._options(inputs, placement)),
            "step_seconds": longest_step(placement, inputs.facts[placement.model].parameters),
        }

    def _command(self, inputs: Inputs, placement: Placement, *, sleeps: bool | None = None) -> EngineCommand:
        return engine_command(**self._options(inputs, placement), sleeps=sleeps)

    def _options(self, inputs: Inputs, placement: Placement) -> dict[str, Any]:
        return {
            "placement": placement,
            "model": inputs.config.models[placement.model],
            "socket": self._folder.socket(placement.model),
            "python": sys.executable,
            "environ": self._environ,
            "media_domains": inputs.config.server.media_domains,
        }

    def _learning(self, engine: Engine, inputs: Inputs, placement: Placement) -> Lessons | None:
        if not self.for_real:
            return None
        lessons = Lessons(inputs)
        lessons.learn_from(engine, placement, self._folder.log(engine.name))
        return lessons
