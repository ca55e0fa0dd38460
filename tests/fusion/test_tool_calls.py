"""Tools: what a panel calls is compared by what it would do, voted on, and handed out as one member wrote it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.core.chat import ToolCall
from local_fusion.core.events import TextDelta
from local_fusion.core.model import Choice, FusionReport, Reply
from local_fusion.errors import RequestError
from local_fusion.fusion.panel.polling import Put, ask_panel
from local_fusion.fusion.session import Session
from local_fusion.fusion.strategies import STRATEGIES
from local_fusion.fusion.tool_calls import Settled, canonical
from tests.scripted import Heard, Scripted, asking, fusion

TOOLS: tuple[dict[str, Any], ...] = ({"type": "function", "function": {"name": "look"}},)


def look(arguments: str = '{"at": "sea"}', name: str = "look", call_id: str = "call-1") -> ToolCall:
    return ToolCall(call_id, name, arguments)


def calling(name: str, *calls: ToolCall, text: str = "") -> Scripted:
    return Scripted(name, choices=[Choice(text, "tool_calls", calls)])


@pytest.mark.parametrize(
    "other",
    [
        look('{"at":"sea"}'),
        look('{ "at" : "sea" }\n'),
        look('{"at": "\\u0073ea"}'),
        look(call_id="another"),
    ],
)
def test_spacing_escapes_and_ids_are_no_part_of_what_a_call_does(other: ToolCall) -> None:
    assert canonical([look()]) == canonical([other])


@pytest.mark.parametrize("other", [look('{"at": "land"}'), look(name="listen"), look('{"at": "sea"'), look("[]")])
def test_names_and_arguments_are(other: ToolCall) -> None:
    assert canonical([look()]) != canonical([other])


def test_neither_the_order_of_keys_nor_of_calls_matters_but_how_many_there_are_does() -> None:
    one, two = look('{"a": 1, "b": {"c": 2, "d": 3}}'), look('{"b": {"d": 3, "c": 2}, "a": 1}')
    assert canonical([one]) == canonical([two])
    assert canonical([one, look()]) == canonical([look(), two])
    assert canonical([one, one]) != canonical([one])


def test_no_arguments_are_an_empty_object() -> None:
    assert canonical([look("")]) == canonical([look("{}")])


@pytest.mark.parametrize("arguments", ["not json", '{"a": ', "[" * 100_000, "\u0000", "NaN"])
def test_arguments_that_are_no_json_are_compared_as_they_are(arguments: str) -> None:
    assert canonical([look(arguments)]) == canonical([look(f" {arguments} ", call_id="2")])
    assert canonical([look(arguments)]) != canonical([look()])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text(), JSON, max_size=4), st.integers(0, 4))
def test_canonical_means_equal_as_json(arguments: dict[str, Any], indent: int) -> None:
    turned = dict(reversed(list(arguments.items())))
    assert canonical([look(json.dumps(arguments))]) == canonical([look(json.dumps(turned, indent=indent))])


def vote(*panel: str) -> dict[str, Any]:
    return {"strategy": "vote", "extract": "number", "panel": list(panel)}


async def answered(*models: Scripted, heard: Heard | None = None) -> tuple[Choice, FusionReport]:
    reply = await fusion(models, f=vote(*(model.name for model in models)))["f"].answer(
        asking(tools=TOOLS), heard or Heard()
    )
    assert reply.report is not None
    return reply.choices[0], reply.report


async def test_what_most_would_do_is_returned_as_the_first_of_them_wrote_it_ids_included() -> None:
    models = [
        calling("a", look('{"at": "land"}', call_id="x1")),
        calling("b", look('{"at":"sea"}', call_id="x2"), text="Let me look."),
        calling("c", look('{ "at": "sea" }', call_id="x3")),
    ]
    heard = Heard()
    choice, report = await answered(*models, heard=heard)
    assert choice == Choice("Let me look.", "tool_calls", (look('{"at":"sea"}', call_id="x2"),))
    assert heard.text == "Let me look."
    verdict = report.verdict
    assert verdict is not None
    assert (verdict.winner, verdict.tied) == ("c2", False)
    assert verdict.votes == {'look({"at":"land"})': ["c1"], 'look({"at":"sea"})': ["c2", "c3"]}
    assert verdict.reason == "3 of 3 candidates call tools, 2 of them in the same way"


async def test_a_call_that_its_limit_cut_is_not_handed_out_where_a_whole_one_has_as_many_votes() -> None:
    cut = Scripted("a", choices=[Choice("", "length", (look('{"at": "se'),))])
    choice, report = await answered(cut, calling("b", look()))
    assert choice.tool_calls == (look(),)
    assert report.verdict is not None
    assert (report.verdict.winner, report.verdict.tied) == ("c2", True)


async def test_what_a_call_is_shown_as_can_be_sent_to_any_client() -> None:
    """JSON may spell half a character, which is no text."""
    _, report = await answered(calling("a", look('{"at": "\\ud800"}')))
    assert report.verdict is not None
    assert all(shown.encode() for shown in report.verdict.votes)


async def test_a_minority_that_calls_is_left_out_and_that_is_told() -> None:
    choice, report = await answered(calling("a", look()), Scripted("b", ["42"]), Scripted("c", ["42"]))
    assert choice.text == "42"
    assert choice.tool_calls == ()
    assert report.notes == ("most of the panel answers and calls no tools: c1 did, and had no part in the answer",)


async def test_where_as_many_call_as_answer_the_call_goes_first() -> None:
    choice, report = await answered(Scripted("a", ["42"]), calling("b", look()))
    assert choice.tool_calls == (look(),)
    assert report.verdict is not None
    assert report.verdict.abstained == ("c1",)


async def test_different_calls_that_are_equally_frequent_are_a_tie_and_the_first_wins() -> None:
    choice, report = await answered(calling("a", look('{"at": "land"}')), calling("b", look()))
    assert choice.tool_calls == (look('{"at": "land"}'),)
    assert report.verdict is not None
    assert report.verdict.tied


async def test_calls_of_one_member_are_not_mixed_with_anothers() -> None:
    both = (look(), look(name="listen", arguments="{}", call_id="call-2"))
    choice, _ = await answered(calling("a", look()), calling("b", *both), calling("c", *reversed(both)))
    assert choice.tool_calls == both


async def test_tools_are_offered_in_the_first_round_only() -> None:
    model = Scripted("a", ["1"])
    built = fusion([model], f=vote("a", "a"))["f"]
    request = asking(tools=TOOLS, tool_choice="auto", parallel_tool_calls=False)
    session = Session("f", built.config, request, built.resolve, {}, Heard())
    for number in (1, 2):
        await ask_panel(session, Put(verbatim=True, round=number))
    first, _, later, _ = model.requests
    assert (first.tools, first.tool_choice, first.parallel_tool_calls) == (TOOLS, "auto", False)
    assert (later.tools, later.tool_choice, later.parallel_tool_calls) == ((), None, None)


async def test_settled_is_no_error_of_a_models_so_that_no_fallback_takes_it_for_one() -> None:
    built = fusion([calling("a", look())], f=vote("a", "a"))["f"]
    session = Session("f", built.config, asking(tools=TOOLS), built.resolve, {}, Heard())
    with pytest.raises(Settled) as caught:
        await ask_panel(session, Put(verbatim=True))
    assert caught.value.choice.tool_calls == (look(),)


PANEL = ["a", "b"]
CONFIGS: dict[str, dict[str, Any]] = {
    "single": {"panel": ["a"]},
    "best_of": {"panel": PANEL, "judge": "j"},
    "vote": {"panel": PANEL},
    "synthesize": {"panel": PANEL, "judge": "j"},
    "council": {"panel": PANEL, "chairman": "j"},
    "debate": {"panel": PANEL},
    "converge": {"panel": PANEL, "judge": {"kind": "pointwise", "model": "j"}},
    "refine": {"panel": ["a"], "reviewer": "j"},
    "evolve": {"panel": PANEL, "judge": {"kind": "pointwise", "model": "j"}},
    "review": {"panel": PANEL, "judge": "j"},
    "muse": {"panel": ["a"], "muse": "j"},
    "relay": {"panel": PANEL},
    "route": {"panel": PANEL, "otherwise": "j"},
}
WITHOUT_TOOLS = {"relay", "review"}


async def ask(name: str, heard: Heard) -> tuple[Reply, list[Scripted]]:
    models = [calling("a", look(call_id="a1")), calling("b", look(call_id="b1")), Scripted("j", ["judged"])]
    built = fusion(models, f={"strategy": name, **CONFIGS[name]})["f"]
    return await built.answer(asking(tools=TOOLS), heard), models


@pytest.mark.parametrize("name", sorted(STRATEGIES.keys() - WITHOUT_TOOLS))
async def test_every_strategy_hands_out_the_calls_and_asks_no_judge(name: str) -> None:
    heard = Heard()
    reply, models = await ask(name, heard)
    assert reply.choices == (Choice("", "tool_calls", (look(call_id="a1"),)),)
    assert heard.text == ""
    assert models[-1].requests == []
    assert models[-1].weighed == []
    assert models[0].requests[0].tools == TOOLS


async def test_a_relay_cannot_call_tools_and_says_so() -> None:
    with pytest.raises(RequestError, match="cannot call tools"):
        await ask("relay", Heard())


@pytest.mark.parametrize("outer", ["vote", "best_of", "synthesize"])
async def test_calls_come_through_nested_fusions(outer: str) -> None:
    models = [calling("a", look(call_id="a1")), calling("b", look(call_id="b1")), Scripted("j")]
    config = {"strategy": outer, **CONFIGS[outer], "panel": ["inner", "b"]}
    built = fusion(models, inner=vote("a", "b"), f=config)
    heard = Heard()
    reply = await built["f"].answer(asking(tools=TOOLS), heard)
    assert reply.choices[0].tool_calls == (look(call_id="a1"),)
    assert heard.of(TextDelta) == []
