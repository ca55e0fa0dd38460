"""What OpenRouter's clients may send beside OpenAI's fields, and what of it asks for a panel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from local_fusion.config.openrouter import SLUG
from local_fusion.errors import RequestError

TOOL = "openrouter:fusion"
MOST_MODELS = 8  # of a panel, as the original has it

_SEARCH = "nothing here searches the web"
_ROUTER = "models are chosen by name here, and their names are mapped by `aliases` in the configuration"
_PLUGINS = {
    "web": _SEARCH,
    "web-fetch": "nothing here fetches pages",
    "file-parser": "files are not read here: send their text",
    "context-compression": "a client's conversation is never cut: shorten it, or ask a model with a larger context",
    "moderation": "nothing is moderated here",
    "auto-router": _ROUTER,
    "auto-beta-router": _ROUTER,
    "pareto-router": _ROUTER,
}
# Its work is done here for every request: an engine holds the answer to its format, so there is nothing to repair.
_HARMLESS = ("response-healing",)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Usage(_Part):
    include: bool = False


class OpenRouterFields(BaseModel):
    """OpenRouter's fields of a request, beside `plugins`.

    Which of several providers answers, at what price, is not asked here, where there is one; so `provider` and `route`
    are accepted, like what is told for statistics only (`session_id`, `trace`) and hints to caches (`cache_control`).
    """

    plugins: list[Any] | None = None  # see `wished`
    provider: dict[str, Any] | None = None
    route: Literal["fallback", "sort"] | None = None
    session_id: str | None = None
    trace: dict[str, Any] | None = None
    cache_control: dict[str, Any] | None = None
    usage: _Usage | None = None
    structured_outputs: bool | None = None  # that a `response_format` is to be held to, as it always is
    models: list[Any] | None = Field(None, max_length=0)
    transforms: list[Any] | None = Field(None, max_length=0)
    debug: None = None
    image_config: None = None
    top_a: Literal[0] | None = None
    stop_server_tools_when: list[Any] | None = Field(None, max_length=0)


class _Reasoning(_Part):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    max_tokens: None = None  # its share differs from model to model of a panel


class Parameters(_Part):
    """How a panel is to be made; what is left out is as the configured fusion has it.

    `max_tool_calls` bounds a search of the web that never takes place here, so that any bound is kept.
    """

    analysis_models: list[str] | None = Field(None, min_length=1, max_length=MOST_MODELS)
    model: str | None = Field(None, min_length=1)
    preset: str | None = None
    max_tool_calls: int | None = Field(None, ge=1, le=16)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    reasoning: _Reasoning | None = None
    tools: list[Any] | None = Field(None, max_length=0)
    web_search: Literal[False] | None = None


class _Plugin(Parameters):
    id: Literal["fusion"]
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Wish:
    """A request for a panel: `at` is the field that describes it.

    `slug`: the model asked is `openrouter/fusion` itself. `optional`: the model decides whether to consult the panel.
    `enabled` false: there is a plugin or a tool, and it is not to be used.
    """

    parameters: Parameters = field(default_factory=Parameters)
    at: str = "model"
    slug: bool = False
    optional: bool = False
    enabled: bool = True


def wished(body: Mapping[str, Any]) -> Wish | None:
    """What the request wishes of OpenRouter's Fusion, if anything: told by its model, plugins and tools.

    Raises `RequestError` for a plugin that is unknown here, or a bad value in the one that is known.
    """
    slug = body.get("model") == SLUG
    plugin_at, plugin = _plugin(body.get("plugins"))
    tool_at, tool = _tool(body.get("tools"))
    if not (slug or plugin_at or tool_at):
        return None
    if tool_at and body.get("tool_choice") != "none":
        given = {**_set(plugin), **_set(tool)}
        wish = Wish(Parameters(**given), tool_at if tool is not None else plugin_at or tool_at, slug)
        return wish if slug or _forced(body) else Wish(wish.parameters, wish.at, optional=True)
    if plugin is not None and plugin.enabled:
        return Wish(Parameters(**_set(plugin)), plugin_at, slug)
    if plugin is None and slug:
        return Wish(slug=True)
    return Wish(Parameters(**_set(plugin)), plugin_at or tool_at, slug, enabled=False)


def _set(given: Parameters | None) -> dict[str, Any]:
    if given is None:
        return {}
    return {name: value for name in Parameters.model_fields if (value := getattr(given, name)) is not None}


def _plugin(plugins: Any) -> tuple[str, _Plugin | None]:
    """Where the fusion plugin is, and what it says."""
    if plugins is None:
        return "", None
    if not isinstance(plugins, list):
        raise RequestError("'plugins' must be a list", param="plugins")
    found: tuple[str, _Plugin | None] = "", None
    for number, each in enumerate(plugins):
        at = f"plugins[{number}]"
        name = each.get("id") if isinstance(each, Mapping) else None
        if not isinstance(name, str):
            raise RequestError(f"'{at}.id' is missing", param=f"{at}.id")
        if name == "fusion":
            if found[1] is not None:
                raise RequestError("the fusion plugin is there twice", param=at)
            found = at, _checked(_Plugin, each, at)
        elif name not in _HARMLESS and each.get("enabled") is not False:
            reason = _PLUGINS.get(name, "there is no such plugin here; there is 'fusion'")
            raise RequestError(f"plugin '{name[:80]}': {reason}", param=f"{at}.id")
    return found


def _tool(tools: Any) -> tuple[str, Parameters | None]:
    """Where the fusion tool is, and its parameters if it has some."""
    found: tuple[str, Parameters | None] = "", None
    for number, each in enumerate(tools if isinstance(tools, list) else ()):
        if not isinstance(each, Mapping) or each.get("type") != TOOL:
            continue
        if found[0]:
            raise RequestError(f"the tool {TOOL} is there twice", param=f"tools[{number}]")
        given = each.get("parameters")
        at = f"tools[{number}].parameters"
        found = at, None if given is None else _checked(Parameters, given, at)
    return found


def _forced(body: Mapping[str, Any]) -> bool:
    """Whether the panel must be consulted: it is the tool that was chosen, or the only one of which one must be."""
    choice = body.get("tool_choice")
    if isinstance(choice, Mapping):
        return choice.get("type") == TOOL
    alone = all(isinstance(each, Mapping) and each.get("type") == TOOL for each in body["tools"])
    return choice == "required" and alone


def _checked(kind: type[_Plugin] | type[Parameters], given: Any, at: str) -> Any:
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = at + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        raise RequestError(f"'{path}': {_told(first['loc'], first['type'], first['msg'])}", param=path) from None


def _told(location: tuple[int | str, ...], kind: str, message: str) -> str:
    option = location[0] if location else ""
    if option in ("tools", "web_search"):
        return "the panel's web tools do not exist here: leave them out, or switch them off (tools: [])"
    if location == ("reasoning", "max_tokens"):
        return "no model here bounds its thinking by tokens: use reasoning.effort, or max_completion_tokens"
    return "unknown field" if kind == "extra_forbidden" else message
