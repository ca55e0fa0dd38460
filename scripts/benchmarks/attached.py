"""An engine that somebody else runs, as a `ChatModel`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from local_fusion.core.model import ChatModel
from local_fusion.engines.client import EngineClient
from local_fusion.engines.engine import Engine
from local_fusion.engines.model import EngineModel


@dataclass(frozen=True, slots=True)
class _Attached:
    """All that a model wants of its engine: a name and a client."""

    name: str
    client: EngineClient

    async def ensure_awake(self) -> EngineClient:
        return self.client


def attached(client: EngineClient) -> ChatModel:
    """The engine that `client` talks to."""
    return EngineModel(cast(Engine, _Attached(client.name, client)))
