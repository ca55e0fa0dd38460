"""`/v1/models`: what is served, in a shape that OpenAI's and Anthropic's clients both read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request

from local_fusion.config.references import engines_of, named_by
from local_fusion.config.strategies import FusionConfig
from local_fusion.errors import RequestError
from local_fusion.runtime import Runtime
from local_fusion.server.context import Dialect, context_of
from local_fusion.server.service import Service

_MOST = 1000  # of one page, as Anthropic has it


def model_routes(service: Service) -> APIRouter:
    """The list, and its entries one by one."""
    routes = APIRouter()

    @routes.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        context = context_of(request)
        entries = [each for each in listed(service.runtime, context.dialect) if context.caller.may_ask(each["id"])]
        shown, more = page(entries, request.query_params)
        first, last = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
        return {"object": "list", "data": shown, "has_more": more, "first_id": first, "last_id": last}

    @routes.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> dict[str, Any]:
        context = context_of(request)
        found = service.meant(context, name)  # raises UnknownModel with the nearest name
        return next(entry for entry in listed(service.runtime, context.dialect) if entry["id"] == found)

    return routes


def listed(runtime: Runtime, dialect: Dialect = "openai") -> list[dict[str, Any]]:
    """Fusions first, then engines, each with what a client may want to know.

    Where the dialects disagree, over what `capabilities` looks like, it is told as `dialect` has it.
    """
    fusions = [
        {
            **_entry(runtime, name, dialect),
            "kind": "fusion",
            "description": fusion.description,
            "strategy": fusion.strategy,
            "members": [member.model for member in fusion.panel],
            "judge": list(dict.fromkeys(judge for path, judge in named_by(fusion) if path[0] == "judge")),
        }
        for name, fusion in runtime.config.fusions.items()
        if name in runtime.served
    ]
    return [*fusions, *({**_entry(runtime, name, dialect), "kind": "engine"} for name in runtime.engines)]


def page(entries: list[dict[str, Any]], query: Mapping[str, str]) -> tuple[list[dict[str, Any]], bool]:
    """The entries that Anthropic's `limit`, `after_id` and `before_id` ask for, and whether there are more that way.

    OpenAI's clients ask for no pages and get all. Raises `RequestError`.
    """
    after, before = query.get("after_id"), query.get("before_id")
    if after is not None and before is not None:
        raise RequestError("after_id and before_id: give one of them", param="before_id")
    limit = query.get("limit")
    most = len(entries) if limit is None else int(limit) if limit.isdecimal() and len(limit) < 10 else 0
    if limit is not None and not 1 <= most <= _MOST:
        raise RequestError(f"'limit' is a number from 1 to {_MOST}, not '{limit[:20]}'", param="limit")
    places = {entry["id"]: place for place, entry in enumerate(entries)}
    for field, name in (("after_id", after), ("before_id", before)):
        if name is not None and name not in places:
            raise RequestError(f"'{field}': no model '{name[:128]}' is listed", param=field)
    if before is not None:
        end = places[before]
        return entries[max(0, end - most) : end], end > most
    begin = 0 if after is None else places[after] + 1
    return entries[begin : begin + most], begin + most < len(entries)


def _entry(runtime: Runtime, name: str, dialect: Dialect) -> dict[str, Any]:
    context, able = context_length(runtime, name), _capabilities(runtime, name)
    return {
        "id": name,
        "object": "model",
        "type": "model",
        "created": runtime.started_at,
        "created_at": datetime.fromtimestamp(runtime.started_at, UTC).isoformat().replace("+00:00", "Z"),
        "owned_by": "local-fusion",
        "display_name": name,
        "lifecycle": "active",
        "max_model_len": context,
        "max_input_tokens": context,
        "max_tokens": context,
        "capabilities": _as_anthropic(able) if dialect == "anthropic" else able,
    }


def context_length(runtime: Runtime, name: str) -> int:
    """How many tokens a conversation and its answer may have together; of a fusion, for each member to have a part."""
    config = runtime.config
    engines = engines_of(config, name)
    if name in config.fusions:
        engines = {engine for member in config.fusions[name].panel for engine in _readers(runtime, member.model)}
    return min(runtime.placement(engine).max_model_len for engine in engines)


def _readers(runtime: Runtime, name: str) -> set[str]:
    """The engines that read a conversation with the model `name`: judges may be shown less of it."""
    fusion = runtime.config.fusions.get(name)
    return {name} if fusion is None else {each for member in fusion.panel for each in _readers(runtime, member.model)}


def _capabilities(runtime: Runtime, name: str) -> dict[str, bool]:
    """What the configuration and the checkpoints say that it can.

    A fusion calls tools where a member does, and thinks aloud where anybody does who may write its answer.
    """
    config = runtime.config
    fusion: FusionConfig | None = config.fusions.get(name)
    readers = _readers(runtime, name)
    writes = fusion is not None or name not in runtime.pooling
    return {
        "tools": any(config.models[each].tool_call_parser is not None for each in readers),
        "reasoning": any(config.models[each].reasoning_parser is not None for each in engines_of(config, name)),
        "images": runtime.takes_images(name),
        "completions": fusion is None and writes,
        "embeddings": fusion is None and not writes,
    }


def _as_anthropic(able: Mapping[str, bool]) -> dict[str, Any]:
    """The same in Anthropic's words, with ours beside them."""
    yes, no, thinks = {"supported": True}, {"supported": False}, {"supported": able["reasoning"]}
    efforts = dict.fromkeys(("low", "medium", "high", "xhigh", "max"), thinks)
    thinking = {"adaptive": thinks, "between_tools": no, "disabled": yes, "enabled": thinks}
    return {
        **able,
        "batch": no,
        "citations": no,
        "code_execution": no,
        "context_management": no,
        "effort": {**thinks, **efforts},
        "image_input": {"supported": able["images"]},
        "pdf_input": no,
        "server_tools": {**no, "code_execution": no, "web_search": no},
        "structured_outputs": {"supported": not able["embeddings"]},
        "thinking": {**thinks, "types": thinking},
    }
