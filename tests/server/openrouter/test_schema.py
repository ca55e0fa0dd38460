"""What of a request wishes for a panel, and what of OpenRouter's own is not taken."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.errors import RequestError
from local_fusion.server.openrouter.schema import Parameters, Wish, wished

PLUGIN = {"id": "fusion", "analysis_models": ["x", "y"]}
TOOL = {"type": "openrouter:fusion"}
OURS = {"type": "function", "function": {"name": "weather"}}


def test_who_asks_for_nothing_of_the_kind_gets_nothing() -> None:
    assert wished({"model": "a"}) is None
    assert wished({"model": "a", "tools": [OURS], "plugins": [{"id": "response-healing"}]}) is None
    assert wished({"model": "a", "plugins": [{"id": "web", "enabled": False}]}) is None


def test_the_slug_alone_is_the_configured_panel() -> None:
    assert wished({"model": "openrouter/fusion"}) == Wish(slug=True)


def test_a_plugin_asks_for_a_panel_whatever_the_model() -> None:
    parameters = Parameters(analysis_models=["x", "y"])
    assert wished({"model": "a", "plugins": [PLUGIN]}) == Wish(parameters, "plugins[0]")
    assert wished({"model": "openrouter/fusion", "plugins": [PLUGIN]}) == Wish(parameters, "plugins[0]", slug=True)


def test_a_plugin_may_be_switched_off() -> None:
    off = {"id": "fusion", "enabled": False}
    assert wished({"model": "a", "plugins": [off]}) == Wish(at="plugins[0]", enabled=False)
    assert wished({"model": "openrouter/fusion", "plugins": [off]}) == Wish(at="plugins[0]", slug=True, enabled=False)


def test_a_tool_leaves_it_to_the_model() -> None:
    asked = {"model": "a", "tools": [OURS, {**TOOL, "parameters": {"model": "x"}}]}
    assert wished(asked) == Wish(Parameters(model="x"), "tools[1].parameters", optional=True)


def test_a_tools_parameters_go_before_the_plugins() -> None:
    tool = {**TOOL, "parameters": {"analysis_models": ["z"]}}
    asked = {"model": "a", "tools": [tool], "plugins": [{**PLUGIN, "model": "judge"}]}
    assert wished(asked) == Wish(Parameters(analysis_models=["z"], model="judge"), "tools[0].parameters", optional=True)


@pytest.mark.parametrize(
    "asked",
    [
        {"tools": [TOOL, OURS], "tool_choice": {"type": "openrouter:fusion"}},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL], "model": "openrouter/fusion"},
    ],
)
def test_a_tool_that_must_be_called_is_a_panel_in_any_case(asked: dict[str, Any]) -> None:
    wish = wished({"model": "a", **asked})
    assert wish is not None
    assert (wish.optional, wish.enabled) == (False, True)


def test_of_several_tools_one_of_which_must_be_called_the_model_chooses() -> None:
    wish = wished({"model": "a", "tools": [TOOL, OURS], "tool_choice": "required"})
    assert wish is not None
    assert wish.optional


def test_where_no_tool_may_be_called_there_is_no_panel() -> None:
    wish = wished({"model": "a", "tools": [TOOL], "tool_choice": "none"})
    assert wish is not None
    assert not wish.enabled


def test_bounds_of_a_search_that_never_takes_place_are_kept() -> None:
    asked = {"model": "a", "plugins": [{**PLUGIN, "max_tool_calls": 8, "tools": [], "web_search": False}]}
    wish = wished(asked)
    assert wish is not None
    assert wish.parameters.analysis_models == ["x", "y"]


@pytest.mark.parametrize(
    ("asked", "param", "says"),
    [
        ({"plugins": "fusion"}, "plugins", "list"),
        ({"plugins": ["fusion"]}, "plugins[0].id", "missing"),
        ({"plugins": [{"id": "web"}]}, "plugins[0].id", "searches the web"),
        ({"plugins": [{"id": "file-parser", "pdf": {}}]}, "plugins[0].id", "send their text"),
        ({"plugins": [{"id": "auto-router"}]}, "plugins[0].id", "aliases"),
        ({"plugins": [{"id": "fussion"}]}, "plugins[0].id", "there is 'fusion'"),
        ({"plugins": [PLUGIN, PLUGIN]}, "plugins[1]", "twice"),
        ({"tools": [TOOL, TOOL]}, "tools[1]", "twice"),
        ({"plugins": [{**PLUGIN, "analysis_models": []}]}, "plugins[0].analysis_models", "at least 1"),
        ({"plugins": [{**PLUGIN, "analysis_models": ["x"] * 9}]}, "plugins[0].analysis_models", "at most 8"),
        ({"plugins": [{**PLUGIN, "analysis_models": ["x", 3]}]}, "plugins[0].analysis_models[1]", "string"),
        ({"plugins": [{**PLUGIN, "max_tool_calls": 17}]}, "plugins[0].max_tool_calls", "less than or equal to 16"),
        ({"plugins": [{**PLUGIN, "temperature": 3}]}, "plugins[0].temperature", "less than or equal to 2"),
        ({"plugins": [{**PLUGIN, "colour": 3}]}, "plugins[0].colour", "unknown field"),
        ({"plugins": [{**PLUGIN, "tools": [{"type": "openrouter:web_search"}]}]}, "plugins[0].tools", "do not exist"),
        ({"plugins": [{**PLUGIN, "web_search": True}]}, "plugins[0].web_search", "do not exist"),
        ({"plugins": [{**PLUGIN, "reasoning": {"max_tokens": 5}}]}, "plugins[0].reasoning.max_tokens", "effort"),
        ({"tools": [{**TOOL, "parameters": {"enabled": True}}]}, "tools[0].parameters.enabled", "unknown field"),
        ({"tools": [{**TOOL, "parameters": 3}]}, "tools[0].parameters", "dictionary"),
    ],
)
def test_what_is_not_known_or_not_here_is_refused_by_name(asked: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(RequestError) as refused:
        wished({"model": "a", **asked})
    assert refused.value.param == param
    assert says in refused.value.message
