"""A request in OpenRouter's shape, put to the panel that it wishes for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from local_fusion.config.limits import refuse_too_much
from local_fusion.config.references import engines_of, named_by
from local_fusion.core.chat import ChatRequest
from local_fusion.core.model import ChatModel, Reply
from local_fusion.errors import RequestError
from local_fusion.fusion.bounded import Bounded
from local_fusion.server.context import Context
from local_fusion.server.exchange import Exchange
from local_fusion.server.guard.bounds import refuse_long_members
from local_fusion.server.openrouter.making import Made, changed, made_of, writer_of
from local_fusion.server.openrouter.result import result_of
from local_fusion.server.openrouter.schema import TOOL, Wish
from local_fusion.server.openrouter.tool import NAME, Consulting
from local_fusion.server.options import Options
from local_fusion.server.service import Service

Result = Callable[[Reply], dict[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Asked:
    """An exchange, and what tells `result`: how the panel's answers compare; None where no panel was asked.

    `called`: what the client calls each member, by its label. `panel`: under which source the events of a panel come
    that is asked only where the model wants to.
    """

    exchange: Exchange
    result: Result = lambda _: None
    called: Mapping[str, str] = field(default_factory=dict)
    panel: str | None = None

    def report(self, reply: Reply) -> dict[str, Any]:
        """The exchange's report, with the result in it if there is one."""
        result = self.result(reply)
        return {**self.exchange.report(reply), **({} if result is None else {"result": result})}


def ask(
    service: Service,
    context: Context,
    name: str,
    request: ChatRequest,
    wish: Wish | None,
    *,
    called: str,
    options: Options,
    about: Mapping[str, Any] | None = None,
) -> Asked:
    """`request` to `name`, which a client calls `called`, with what it wishes of a panel; let in but not begun.

    Raises what `Service.exchange` raises, `UnknownModel` for models of the panel, and `RequestError` for what does not
    go together.
    """
    exchange = partial(service.exchange, context, called=called, about=about)
    if wish is None:
        return Asked(exchange(name, request, options=options))
    config, meant, caller = service.runtime.config, partial(service.meant, context), context.caller
    request = _thinking(request, wish)
    if not wish.enabled:
        return Asked(exchange(writer_of(config, meant, wish, caller) if wish.slug else name, request, options=options))
    panel = made_of(config, meant, wish, None if wish.slug else name, caller)
    made = changed(config, panel, options.overrides, wish.at, caller)
    if wish.optional:
        return _consulting(service, context, name, request, made, called, options, about)

    def result(reply: Reply) -> dict[str, Any] | None:
        return None if reply.report is None else result_of(reply.report, made.called)

    fusion = None if made.untouched else made.fusion
    return Asked(exchange(made.name, request, options=options, made=fusion), result, made.called)


def _consulting(
    service: Service,
    context: Context,
    name: str,
    request: ChatRequest,
    made: Made,
    called: str,
    options: Options,
    about: Mapping[str, Any] | None,
) -> Asked:
    """The model `name`, which may consult the panel and decides by itself."""
    for param, refused in (("n", request.samples > 1), ("response_format", request.response_format is not None)):
        if refused:
            raise RequestError(
                f"'{param}' does not go with a tool that the server runs",
                param=param,
                hint=f'have the panel asked in any case, with tool_choice: {{"type": "{TOOL}"}}',
            )
    if any(tool["function"]["name"] == NAME for tool in request.tools):
        raise RequestError(f"'{NAME}' is what the server calls the panel: name the function otherwise", param="tools")
    config, runtime = service.runtime.config, service.runtime
    service.refuse_others(context, made.fusion, config.fusions[made.name])
    refuse_long_members(made.fusion, config.fusions[made.name], config.server)
    refuse_too_much(config, made.name, made.fusion, 1)
    panel = runtime.fusion(made.name, made.fusion)
    most, writes = config.server.max_tokens, service.is_engine(name)
    model = Consulting(runtime.model(name), panel, made.called, writes=writes, most_tokens=most)
    budget = made.fusion.budget  # of all that is done for the request: the panel is only a part of that
    asked: ChatModel = model if budget is None else Bounded(model, budget)
    needs = engines_of(config, name).union(*(engines_of(config, each) for _, each in named_by(made.fusion)))
    exchange = service.converse(context, asked, request, called=called, needs=needs, options=options, about=about)
    exchange.progress = made.fusion.progress == "reasoning"
    return Asked(exchange, lambda _: model.result, made.called, panel.name)


def _thinking(request: ChatRequest, wish: Wish) -> ChatRequest:
    """The request with the effort that is wished for: panel, analyst and writer think alike."""
    reasoning = wish.parameters.reasoning
    if reasoning is None or reasoning.effort is None:
        return request
    if request.reasoning_effort not in (None, reasoning.effort):
        param = f"{wish.at}.reasoning.effort"
        raise RequestError("the panel thinks as hard as who writes: the two efforts differ, give one", param=param)
    return request.but(reasoning_effort=reasoning.effort)
