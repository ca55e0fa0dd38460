"""A runtime: running engines, and the models over them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from local_fusion.config.schema import Config
from local_fusion.config.strategies import FusionConfig
from local_fusion.core.metered import Metered
from local_fusion.core.model import ChatModel
from local_fusion.engines.engine import Engine, EngineSnapshot
from local_fusion.engines.model import EngineModel
from local_fusion.errors import SetupError
from local_fusion.planner.plan import Placement, Plan
from local_fusion.runtime.changes import Reloaded
from local_fusion.runtime.gathering import Tell
from local_fusion.runtime.models import Asked, Models
from local_fusion.scheduler.scheduler import Scheduler

Listener = Callable[[EngineSnapshot], None]
Load = Callable[[], Config]
"""Reads a configuration again; it may block, and raises what is wrong with it."""
Reload = Callable[[Load, Tell], Awaitable[Reloaded]]


async def _cannot_reload(load: Load, tell: Tell) -> Reloaded:
    raise SetupError("these engines were not started from a configuration that could be loaded again")


@dataclass
class Runtime:
    """Running engines and the models over them. `served` names every model and fusion that can be asked.

    `seeing` names the engines that take images, `pooling` those that give embeddings in place of text. A reload changes
    all of these, in one moment, but the scheduler, which goes on: who needs one of them looks here when it does.
    `joined` names engines that did not start with the server, but came or were started anew with a reload.
    """

    config: Config
    plan: Plan
    engines: Mapping[str, Engine]
    scheduler: Scheduler
    served: frozenset[str]
    seeing: frozenset[str] = frozenset()
    pooling: frozenset[str] = frozenset()
    joined: frozenset[str] = frozenset()
    started_at: int = field(default_factory=lambda: int(time.time()))
    reload: Reload = _cannot_reload
    _models: Models = field(init=False)
    _watching: dict[Listener, dict[str, Callable[[], None]]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._models = self._as_configured()

    def model(self, name: str) -> ChatModel:
        """The fusion or engine of that name.

        Raises `UnknownModel` with the nearest name.
        """
        found = self._models.model(name)
        return found if name in self.engines else Asked(name, self._current, self.scheduler.using)

    def fusion(self, name: str, config: FusionConfig) -> Asked:
        """A fusion as `config` says, over the same models; it need not be in the configuration."""
        return Asked(name, self._current, self.scheduler.using, config)

    def takes_images(self, name: str) -> bool:
        """Whether the fusion or engine of that name answers conversations with images. Raises `UnknownModel`."""
        return self.model(name).takes_images

    def placement(self, name: str) -> Placement:
        """Where the model `name` runs."""
        return next(placement for placement in self.plan.placements if placement.model == name)

    def become(
        self,
        config: Config,
        plan: Plan,
        engines: Mapping[str, Engine],
        served: frozenset[str],
        seeing: frozenset[str],
        pooling: frozenset[str],
    ) -> None:
        """From this moment on requests begin with these; those in flight end with what they began with."""
        self.config, self.plan, self.engines = config, plan, engines
        self.served, self.seeing, self.pooling = served, seeing, pooling
        self._models = self._as_configured()
        for listener, hearing in self._watching.items():
            for name in engines.keys() - hearing.keys():
                hearing[name] = engines[name].subscribe(listener)

    @contextmanager
    def watched(self, listener: Listener) -> Iterator[None]:
        """While in this block, `listener` hears every change of every engine, of those that come later, too.

        An engine that goes is told to have stopped.
        """
        hearing = self._watching[listener] = {name: each.subscribe(listener) for name, each in self.engines.items()}
        try:
            yield
        finally:
            del self._watching[listener]
            for end in hearing.values():
                end()

    def gone(self, engine: Engine) -> None:
        """Nobody needs to hear of that engine any more."""
        for listener, hearing in self._watching.items():
            if (end := hearing.pop(engine.name, None)) is not None:
                end()
                if engine.snapshot.state != "stopped":  # a broken one stays so, but it is nobody's trouble now
                    listener(replace(engine.snapshot, state="stopped", last_error=None, hint=""))

    def _current(self) -> Models:
        return self._models

    def _as_configured(self) -> Models:
        engines: dict[str, ChatModel] = {
            name: Metered(EngineModel(engine, self.scheduler.gate(name), takes_images=name in self.seeing))
            for name, engine in self.engines.items()
        }
        return Models(self.config, engines, self.served)
