"""What can be asked: the models as one configuration has them, and whoever answers to a name at the moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from local_fusion.config.personas import PERSONAS
from local_fusion.config.references import engines_of, named_by
from local_fusion.config.schema import Config
from local_fusion.config.strategies import FusionConfig
from local_fusion.core.chat import ChatRequest
from local_fusion.core.model import ChatModel, Emit, FusionReport, Reply, Room, Score, unheard
from local_fusion.fusion.model import FusionModel
from local_fusion.runtime.gathering import unknown


class Models:
    """Engines and fusions of one configuration. A request keeps to those with which it began."""

    def __init__(self, config: Config, engines: Mapping[str, ChatModel], served: Iterable[str]) -> None:
        self._config = config
        self._personas = {**PERSONAS, **config.personas}
        self._models: dict[str, ChatModel] = dict(engines)
        self._models |= {name: self.fusion(name, config.fusions[name]) for name in set(served) - engines.keys()}
        self._needs = {name: engines_of(config, name) for name in self._models}

    def model(self, name: str) -> ChatModel:
        """The fusion or engine of that name.

        Raises `UnknownModel` with the nearest name.
        """
        if name in self._models:
            return self._models[name]
        raise unknown(name, self._models)

    def fusion(self, name: str, config: FusionConfig) -> ChatModel:
        """A fusion as `config` says, over the same models; it need not be in the configuration."""
        return FusionModel(name, config, self.model, self._personas)

    def engines_of(self, name: str, config: FusionConfig | None) -> set[str]:
        """The engines that the model `name` may call, or a fusion as `config` says."""
        if config is None:
            return self._needs[name]
        return {engine for _, inner in named_by(config) for engine in engines_of(self._config, inner)}


Using = Callable[[Iterable[str]], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Asked:
    """The fusion of that name as it is when it is asked, which may be later than when it was found.

    Its engines are kept while it answers, also where the configuration drops them meanwhile. `config`: a fusion that
    is not in the configuration.
    """

    name: str
    current: Callable[[], Models]
    using: Using
    config: FusionConfig | None = None

    @property
    def takes_images(self) -> bool:
        """See `ChatModel.takes_images`."""
        return self._found(self.current()).takes_images

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        """See `ChatModel.answer`. Raises `UnknownModel` where it is not there any more."""
        with self._begun() as model:
            return await model.answer(request, emit)

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> Mapping[str, float]:
        """See `ChatModel.weigh`."""
        with self._begun() as model:
            return await model.weigh(request, labels, emit)

    async def score(self, request: ChatRequest, answers: tuple[str, ...], emit: Emit = unheard) -> tuple[Score, ...]:
        """See `ChatModel.score`."""
        with self._begun() as model:
            return await model.score(request, answers, emit)

    async def compare(self, request: ChatRequest, emit: Emit = unheard) -> FusionReport:
        """See `FusionModel.compare`; for a fusion."""
        with self._begun() as model:
            assert isinstance(model, FusionModel)
            return await model.compare(request, emit)

    async def measure(self, request: ChatRequest) -> Room:
        """See `ChatModel.measure`."""
        with self._begun() as model:
            return await model.measure(request)

    @contextmanager
    def expecting(self, request: ChatRequest) -> Iterator[None]:
        """See `ChatModel.expecting`."""
        with self._begun() as model, model.expecting(request):
            yield

    @contextmanager
    def _begun(self) -> Iterator[ChatModel]:
        models = self.current()
        model = self._found(models)
        with self.using(models.engines_of(self.name, self.config)):
            yield model

    def _found(self, models: Models) -> ChatModel:
        return models.model(self.name) if self.config is None else models.fusion(self.name, self.config)
