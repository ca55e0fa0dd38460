"""The core under all dialects: finds out who is asked, bounds what is asked, lets it in, and counts what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from fastapi import Request

from local_fusion.config.limits import refuse_too_much
from local_fusion.config.loading import override_fusion
from local_fusion.config.references import engines_of, named_by
from local_fusion.core.chat import ChatRequest
from local_fusion.errors import RequestError
from local_fusion.runtime import Runtime
from local_fusion.server.accounting import Accounting
from local_fusion.server.bodies import model_name, read_json
from local_fusion.server.context import Context, context_of
from local_fusion.server.door import Door
from local_fusion.server.exchange import Exchange
from local_fusion.server.options import Options


class Service:
    """What every dialect needs of the server."""

    def __init__(self, runtime: Runtime, door: Door) -> None:
        self.runtime = runtime
        self.door = door
        self.accounting = Accounting()

    async def read(self, request: Request) -> tuple[bytes, dict[str, Any], str]:
        """The body as sent and as JSON, and who is asked, who is there to be asked.

        Raises `TooLarge`, `RequestError` and `UnknownModel`.
        """
        context_of(request).model = ""
        raw, body = await read_json(request, self.runtime.config.server.max_body_bytes)
        return raw, body, self.name(context_of(request), model_name(body))

    def name(self, context: Context, called: str) -> str:
        """The fusion or engine that a client calls `called`; from now on the request counts as one to it.

        Raises `UnknownModel` with the nearest name.
        """
        self.runtime.model(called)
        context.model = called
        return called

    def is_engine(self, name: str) -> bool:
        """Whether `name` is an engine, and not a fusion."""
        return name in self.runtime.engines

    def exchange(
        self,
        context: Context,
        name: str,
        request: ChatRequest,
        *,
        called: str,
        options: Options | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> Exchange:
        """The request put to `name`, let in but not begun.

        Raises `RequestError` for overrides that are wrong or too much, `QueueFull` and `EngineUnavailable`.
        """
        options = options or Options()
        model, config = self.runtime.model(name), self.runtime.config
        if name in self.runtime.engines:
            if options != Options():
                raise RequestError(f"'{name}' is an engine, 'fusion' is for fusions", param="fusion")
            self.door.admit([name])
        else:
            fusion = config.fusions[name]
            if options.overrides:
                fusion = override_fusion(config, name, options.overrides)
                model = self.runtime.fusion(name, fusion)
            refuse_too_much(config, name, fusion, request.samples)
            self.door.admit({engine for _, inner in named_by(fusion) for engine in engines_of(config, inner)})
        return Exchange(
            called, model, request, options, about=about or {}, ended=partial(self.accounting.ended, context)
        )
