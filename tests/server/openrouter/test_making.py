"""The fusion that a request describes: who is in its panel, who judges, who writes."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.config.aliases import meant_by
from local_fusion.config.openrouter import SLUG
from local_fusion.config.schema import Config
from local_fusion.config.strategies import SynthesizeConfig
from local_fusion.errors import RequestError, UnknownModel
from local_fusion.server.openrouter.making import Made, changed, made_of, writer_of
from local_fusion.server.openrouter.schema import Parameters, Wish

QUALITY = {
    "strategy": "synthesize",
    "panel": [{"model": "a", "samples": 2, "temperature": 0.7}, "b"],
    "judge": {"model": "b", "temperature": 0.2},
    "synthesizer": "a",
    "quorum": 3,
    "deadlines": {"panel": 7},
}
VOTE = {"strategy": "vote", "panel": [{"model": "a", "samples": 3}, "b"]}
ALIASES = {"openai/*": "a", "~anthropic/*": "b", "google/gemini": "quality"}


def config(**more: Any) -> Config:
    models = {name: {"source": "x"} for name in "abc"}
    return Config.model_validate(
        {"models": models, "fusions": {"quality": QUALITY, "vote": VOTE}, "aliases": ALIASES, **more}
    )


def made(outer: str | None = None, given: Config | None = None, **parameters: Any) -> Made:
    configured = given or config()

    def meant(called: str) -> str:
        name = configured.openrouter.meant(configured.fusions) if called == SLUG else meant_by(called, ALIASES)
        if name is None and called not in (*configured.models, *configured.fusions):
            raise UnknownModel(called)
        return name or called

    return made_of(configured, meant, Wish(Parameters(**parameters), "plugins[0]", slug=outer is None), outer)


def synthesize(fusion: Any) -> SynthesizeConfig:
    assert isinstance(fusion, SynthesizeConfig)
    return fusion


def who(references: Any) -> list[str]:
    return [each.model for each in references]


def test_without_parameters_it_is_the_configured_fusion() -> None:
    assert made() == Made("quality", config().fusions["quality"], untouched=True)
    assert made(given=config(openrouter={"fusion": "vote"})).name == "vote"


def test_models_of_theirs_are_members_by_their_local_names_and_are_called_as_the_client_does() -> None:
    panel = made(analysis_models=["openai/gpt-5.5", "~anthropic/claude-opus-latest", "openai/gpt-5", "c"])
    assert who(panel.fusion.panel) == ["a", "b", "a", "c"]
    assert panel.called == {
        "a #1": "openai/gpt-5.5",
        "b": "~anthropic/claude-opus-latest",
        "a #2": "openai/gpt-5",
        "c": "c",
    }


def test_the_outer_model_writes_and_the_named_analyst_judges_greedily() -> None:
    fusion = synthesize(made("c", analysis_models=["a", "b"], model="openai/gpt-5.5", temperature=1).fusion)
    assert (who(fusion.judge), fusion.synthesizer and who(fusion.synthesizer)) == (["a"], ["c"])
    assert fusion.judge[0].temperature is None
    assert [member.temperature for member in fusion.panel] == [1, 1]


def test_one_survivor_of_a_panel_of_the_clients_is_enough() -> None:
    fusion = made("c", analysis_models=["a", "b"]).fusion
    assert (fusion.quorum, fusion.deadlines.panel) == (1, 7)


def test_an_analyst_who_is_not_named_is_the_configured_one_or_else_who_writes() -> None:
    fusion = synthesize(made("c", analysis_models=["a"]).fusion)
    assert (who(fusion.judge), fusion.judge[0].temperature) == (["b"], 0.2)
    fusion = synthesize(made("c", config(openrouter={"fusion": "vote"}), analysis_models=["a"]).fusion)
    assert who(fusion.judge) == ["c"]


def test_an_analyst_of_the_slug_writes_too() -> None:
    fusion = synthesize(made(model="c").fusion)
    assert (who(fusion.judge), fusion.synthesizer and who(fusion.synthesizer)) == (["c"], ["c"])
    assert [(member.model, member.samples) for member in fusion.panel] == [("a", 2), ("b", 1)]


def test_who_only_says_how_to_draw_keeps_the_fusions_strategy() -> None:
    fusion = made(given=config(openrouter={"fusion": "vote"}), temperature=0.3, max_completion_tokens=50).fusion
    assert fusion.strategy == "vote"
    assert [(member.temperature, member.max_tokens) for member in fusion.panel] == [(0.3, 50)] * 2


def test_limits_of_tokens_bind_panel_and_analyst_but_not_who_writes() -> None:
    fusion = synthesize(made("c", analysis_models=["a"], max_completion_tokens=50).fusion)
    assert (fusion.panel[0].max_tokens, fusion.judge[0].max_tokens) == (50, 50)
    assert fusion.synthesizer is not None
    assert fusion.synthesizer[0].max_tokens is None


def test_a_panel_may_have_fusions_in_it_also_the_one_that_it_is_made_of() -> None:
    panel = made("quality", analysis_models=["google/gemini", "vote"])
    assert (panel.name, who(panel.fusion.panel)) == ("quality", ["quality", "vote"])


def test_presets_are_fusions_of_the_configuration_or_presets_of_ours() -> None:
    presets = {"general-fast": "vote", "general-high": "debate"}
    configured = config(openrouter={"presets": presets})
    assert made(given=configured, preset="general-fast") == Made("vote", configured.fusions["vote"], untouched=True)
    assert made(given=configured, preset="general-high").fusion.strategy == "debate"
    assert made(preset="general-budget").fusion.strategy == "best_of"  # balanced
    assert made(preset="general-high") == made()  # quality, and where there is a fusion of that name it is that


def test_a_preset_gives_an_outer_model_its_panel() -> None:
    fusion = synthesize(
        made("c", preset="general-fast", given=config(openrouter={"presets": {"general-fast": "vote"}})).fusion
    )
    assert [(member.model, member.samples) for member in fusion.panel] == [("a", 3), ("b", 1)]


def test_without_its_panel_the_slug_is_who_writes() -> None:
    def meant(called: str) -> str:
        return "quality" if called == SLUG else called

    assert writer_of(config(), meant, Wish()) == "a"
    assert writer_of(config(), meant, Wish(Parameters(model="c"))) == "c"


def test_the_fusion_object_may_change_what_is_not_described_elsewhere() -> None:
    panel = made("c", analysis_models=["a", "b"])
    fusion = changed(config(), panel, {"deadlines": {"panel": 3}}, "plugins[0]").fusion
    assert (fusion.deadlines.panel, who(fusion.panel)) == (3, ["a", "b"])
    with pytest.raises(RequestError, match=r"'plugins\[0\]' both describe the panel") as refused:
        changed(config(), panel, {"panel": ["c"]}, "plugins[0]")
    assert refused.value.param == "fusion.panel"


def test_wrong_presets_and_models_are_told() -> None:
    with pytest.raises(RequestError, match="did you mean 'general-high'") as refused:
        made(preset="general-hihg")
    assert refused.value.param == "plugins[0].preset"
    with pytest.raises(UnknownModel):
        made(analysis_models=["mistral/large"])
    without = Config.model_validate({"models": {"a": {"source": "x"}}})
    with pytest.raises(UnknownModel, match="no fusion that openrouter/fusion could stand for"):
        made(given=without)
