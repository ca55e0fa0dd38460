"""The core under all dialects: finds out who is asked, bounds what is asked, lets it in, and counts what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from fastapi import Request

from local_fusion.config.aliases import meant_by
from local_fusion.config.limits import refuse_too_much
from local_fusion.config.loading import override_fusion
from local_fusion.config.openrouter import SLUG
from local_fusion.config.references import engines_of, named_by
from local_fusion.config.strategies import FusionConfig
from local_fusion.core.budget import Budget
from local_fusion.core.chat import ChatRequest
from local_fusion.core.model import ChatModel
from local_fusion.errors import RequestError
from local_fusion.fusion.bounded import Bounded
from local_fusion.runtime import Runtime, unknown
from local_fusion.server.accounting import Accounting
from local_fusion.server.bodies import model_name, read_json
from local_fusion.server.context import Context, context_of
from local_fusion.server.door import Door
from local_fusion.server.exchange import Exchange
from local_fusion.server.guard.access import Access
from local_fusion.server.guard.bounds import bounded, refuse_long_members, refuse_many_messages, visible
from local_fusion.server.options import Options

_LONGEST_SHOWN = 128  # of a name that is looked up, and told: it may be as long as a request


class Service:
    """What every dialect needs of the server. What has to be closed when the server ends goes on `closing`."""

    def __init__(self, runtime: Runtime, door: Door) -> None:
        self.runtime = runtime
        self.door = door
        self.accounting = Accounting()
        self.access = Access(runtime)
        self.accounting.subscribe(self.access.limits.hear)
        self.closing = AsyncExitStack()

    async def read(self, request: Request) -> tuple[bytes, dict[str, Any], str]:
        """The body as sent and as JSON, and who is asked, who is there to be asked.

        Raises `TooLarge`, `RequestError` and `UnknownModel`.
        """
        context_of(request).model = ""
        settings = self.runtime.config.server
        raw, body = await read_json(request, settings.max_body_bytes)
        if isinstance(messages := body.get("messages"), list):
            refuse_many_messages(len(messages), settings)  # before each of them is looked at
        return raw, body, self.name(context_of(request), model_name(body))

    def name(self, context: Context, called: str) -> str:
        """The fusion or engine that a client calls `called`; from now on the request counts as one to it.

        Raises `UnknownModel` with the nearest name.
        """
        context.model = self.meant(context, called)
        return context.model

    def meant(self, context: Context, called: str) -> str:
        """The name of the fusion or engine that `called` stands for: its own, an alias of it, or OpenRouter's.

        Raises `UnknownModel` with the nearest name.
        """
        config, served = self.runtime.config, self.runtime.served
        may = context.caller.may_ask
        if called in served and may(called):
            return called
        ours = config.openrouter.meant(config.fusions) if called == SLUG else None
        name = config.aliases.get(called) or ours or meant_by(called, config.aliases)
        if name is None or name not in served or not may(name):
            # What a key may not ask is not there for it: neither its name nor that it has one is told.
            exact = [alias for alias, target in config.aliases.items() if "*" not in alias and may(target)]
            known = [*(each for each in (*config.fusions, *config.models) if each in served and may(each)), *exact]
            error = unknown(called[:_LONGEST_SHOWN], known)
            error.hint = "ask for one that GET /v1/models lists, or give the name a meaning: add it to `aliases`"
            raise error
        return name

    def is_engine(self, name: str) -> bool:
        """Whether `name` is an engine, and not a fusion."""
        return name in self.runtime.engines

    def engines(self, context: Context) -> str:
        """The engines that the caller may ask, for a hint."""
        return ", ".join(filter(context.caller.may_ask, self.runtime.engines)) or "the engines (this key may ask none)"

    def exchange(
        self,
        context: Context,
        name: str,
        request: ChatRequest,
        *,
        called: str,
        options: Options | None = None,
        about: Mapping[str, Any] | None = None,
        made: FusionConfig | None = None,
    ) -> Exchange:
        """The request put to `name`, let in but not begun; to `made`, a fusion that the request itself describes, in
        place of the one of that name.

        Raises `RequestError` for overrides that are wrong or too much, `QueueFull` and `EngineUnavailable`.
        """
        options = options or Options()
        model, config, needs = self.runtime.model(name), self.runtime.config, {name}
        progress = False
        if name in self.runtime.engines:
            if options != Options():
                raise RequestError(f"'{name}' is an engine, 'fusion' is for fusions", param="fusion")
        else:
            fusion = made or config.fusions[name]
            if made is not None:
                model = self.runtime.fusion(name, made)
            elif options.overrides:
                fusion = override_fusion(visible(config, context.caller, name), name, options.overrides)
                model = self.runtime.fusion(name, fusion)
            self.refuse_others(context, fusion, config.fusions.get(name))
            refuse_long_members(fusion, config.fusions.get(name, fusion), config.server)
            refuse_too_much(config, name, fusion, request.samples)
            least = Budget.least(fusion.budget, config.server.request_budget)
            if least != fusion.budget:
                model = self.runtime.fusion(name, fusion.model_copy(update={"budget": least}))
            progress = fusion.progress == "reasoning"
            needs = {engine for _, inner in named_by(fusion) for engine in engines_of(config, inner)}
        if name in self.runtime.engines:
            model = _within(model, config.server.request_budget)
        return self._converse(context, model, request, called, needs, options, about or {}, progress=progress)

    def refuse_others(self, context: Context, fusion: FusionConfig, own: FusionConfig | None) -> None:
        """Raises `UnknownModel` where a request's own `fusion` names whom the caller may not ask, who was not in it."""
        known = set() if own is None else {inner for _, inner in named_by(own)}
        for _, inner in named_by(fusion):
            if inner not in known and not context.caller.may_ask(inner):
                raise unknown(inner, filter(context.caller.may_ask, self.runtime.served))

    def converse(
        self,
        context: Context,
        model: ChatModel,
        request: ChatRequest,
        *,
        called: str,
        needs: Iterable[str],
        options: Options | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> Exchange:
        """The request put to any model over the engines that it `needs`, let in but not begun; `server.request_budget`
        binds it, and so do its limits of messages and tokens.

        Raises `TooLarge` and `RequestError` for those, `QueueFull` and `EngineUnavailable`.
        """
        model = _within(model, self.runtime.config.server.request_budget)
        return self._converse(context, model, request, called, needs, options or Options(), about or {})

    def _converse(
        self,
        context: Context,
        model: ChatModel,
        request: ChatRequest,
        called: str,
        needs: Iterable[str],
        options: Options,
        about: Mapping[str, Any],
        *,
        progress: bool = False,
    ) -> Exchange:
        request = bounded(request, self.runtime.config.server).but(depth=context.depth)
        self.door.admit(needs)
        ended = partial(self.accounting.ended, context)
        return Exchange(called, model, request, options, about=about, ended=ended, progress=progress)


def _within(model: ChatModel, budget: Budget | None) -> ChatModel:
    """The model as it answers within `budget`."""
    return model if budget is None or budget == Budget() else Bounded(model, budget)
