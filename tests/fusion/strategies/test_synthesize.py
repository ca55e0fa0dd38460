"""`synthesize`: analysis as constrained JSON, then the final answer, streamed."""

from __future__ import annotations

import json

import pytest

from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.events import Nested, Noted, StageStarted, Trimmed
from local_fusion.core.model import Emit, Reply, Room, unheard
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineDied
from tests.fusion.rounds.debaters import Debater, prompt_of
from tests.scripted import Heard, Scripted, asking, fusion

ANALYSIS = {
    "consensus": ["both say 42"],
    "contradictions": [
        {"topic": "units", "stances": [{"answer": "1", "stance": "metres"}, {"answer": "9", "stance": "?"}]}
    ],
    "partial_coverage": [{"answers": ["2", "2"], "point": "shows the steps"}],
    "unique_insights": [{"answer": "1", "insight": "mentions Adams"}],
    "blind_spots": ["no check"],
}
CONFIG = {
    "strategy": "synthesize",
    "panel": [{"model": "a", "samples": 2}],
    "judge": "judge",
    "synthesizer": {"model": "writer", "max_tokens": 64},
}


def trio(**more: object) -> tuple[Scripted, Scripted, Scripted]:
    return (
        Scripted("a", ["first draft", "second draft"]),
        Scripted("judge", [json.dumps(ANALYSIS)]),
        Scripted("writer", ["the final answer"]),
    )


async def test_the_judge_compares_and_the_synthesizer_writes_from_drafts_and_analysis() -> None:
    models = trio()
    heard = Heard()
    reply = await fusion(list(models), f=CONFIG)["f"].answer(asking(), heard)
    assert reply.choices[0].text == heard.text == "the final answer"
    assert [(event.stage, event.models) for event in heard.of(StageStarted)] == [
        ("panel", ("a",)),
        ("judge", ("judge",)),
        ("synthesis", ("writer",)),
    ]
    prompt = models[2].requests[0].messages[-1].content
    assert "first draft" in prompt
    assert "second draft" in prompt
    assert "both say 42" in prompt


async def test_the_analysis_is_constrained_and_its_numbers_become_candidate_ids() -> None:
    models = trio()
    reply = await fusion(list(models), f=CONFIG)["f"].answer(asking())
    asked = models[1].requests[0]
    assert asked.response_format is not None
    schema = asked.response_format["json_schema"]["schema"]
    assert set(schema["required"]) == set(ANALYSIS)
    assert asked.sampling.temperature == 0
    assert reply.report is not None
    assert reply.report.verdict is not None
    analysis = reply.report.verdict.analysis
    assert analysis is not None
    by_number = _shown_order(asked.messages[-1].content)
    assert analysis.unique_insights == ((by_number["1"], "mentions Adams"),)
    assert analysis.partial_coverage == (((by_number["2"],), "shows the steps"),)
    assert analysis.contradictions[0].stances == ((by_number["1"], "metres"),)  # there is no answer 9


def _shown_order(prompt: str) -> dict[str, str]:
    first_is_one = prompt.index("first draft") < prompt.index("second draft")
    return {"1": "c1", "2": "c2"} if first_is_one else {"1": "c2", "2": "c1"}


async def test_candidates_are_shuffled_by_the_requests_seed() -> None:
    orders = []
    for seed in (*range(8), 0):
        models = trio()
        await fusion(list(models), f=CONFIG)["f"].answer(asking(sampling=Sampling(seed=seed)))
        orders.append(_shown_order(models[1].requests[0].messages[-1].content)["1"])
    assert set(orders) == {"c1", "c2"}
    assert orders[0] == orders[-1]


async def test_judge_and_synthesizer_see_the_whole_conversation_as_a_shared_prefix() -> None:
    models = trio()
    conversation = (
        Message("system", "be terse"),
        Message("user", "one"),
        Message("assistant", "two"),
        Message("user", "three"),
    )
    await fusion(list(models), f=CONFIG)["f"].answer(asking().but(messages=conversation))
    for model in models[1:]:
        seen = model.requests[0].messages
        assert seen[:3] == conversation[:3]
        assert seen[3].content.startswith("three\n")


async def test_the_clients_sampling_and_format_bind_the_final_answer() -> None:
    models = trio()
    shape = {"type": "json_object"}
    request = asking(sampling=Sampling(temperature=0.3, max_tokens=20), response_format=shape)
    await fusion(list(models), f=CONFIG)["f"].answer(request)
    final = models[2].requests[0]
    assert (final.sampling.temperature, final.sampling.max_tokens, final.response_format) == (0.3, 20, shape)
    assert models[0].requests[0].response_format is None


async def test_usage_adds_up_over_all_calls() -> None:
    models = trio()
    reply = await fusion(list(models), f=CONFIG)["f"].answer(asking())
    assert [(call.stage, call.model) for call in reply.calls] == [
        ("panel", "a"),
        ("judge", "judge"),
        ("synthesis", "writer"),
    ]
    written = 4 + len(json.dumps(ANALYSIS).split(" ")) + 3
    assert reply.usage.completion_tokens == written


async def test_an_analysis_cut_by_its_token_limit_is_read_as_far_as_it_goes() -> None:
    models = trio()
    models[1].texts, models[1].finish_reason = (
        ['{"consensus": ["both say 42"], "contradictions": [{"topic": "un'],
        "length",
    )
    reply = await fusion(list(models), f=CONFIG)["f"].answer(asking())
    assert reply.report is not None
    assert reply.report.verdict is not None
    assert reply.report.verdict.analysis is not None
    assert reply.report.verdict.analysis.consensus == ("both say 42",)
    assert "cut short" in reply.report.notes[0]


@pytest.mark.parametrize("judge", [Scripted("judge", error=EngineDied("gone")), Scripted("judge", ["not json"])])
async def test_a_failed_judge_leaves_the_analysis_out_and_says_so(judge: Scripted) -> None:
    models = [trio()[0], judge, trio()[2]]
    reply = await fusion(list(models), f=CONFIG)["f"].answer(asking())
    assert reply.choices[0].text == "the final answer"
    assert reply.report is not None
    assert reply.report.verdict is None
    assert [failure.stage for failure in reply.report.failed] == ["judge"]
    assert "without an analysis" in reply.report.notes[0]


async def test_a_synthesizer_that_fails_before_its_first_word_is_replaced_by_the_first_candidate() -> None:
    models = trio()
    models[2].error = EngineDied("gone")
    heard = Heard()
    reply = await fusion(list(models), f=CONFIG)["f"].answer(asking(), heard)
    assert reply.choices[0].text == heard.text == "first draft"
    assert reply.report is not None
    assert reply.report.partial
    assert "stands in" in heard.of(Noted)[-1].text


async def test_a_draft_that_stands_in_is_bound_by_the_clients_limits_and_never_by_a_format_it_was_not_held_to() -> None:
    a = Scripted("a", ["one two three END four"])
    models = (a, Scripted("judge", [json.dumps(ANALYSIS)]), Scripted("writer", error=EngineDied("gone")))
    fused = fusion(models, f={**CONFIG, "panel": [{"model": "a", "samples": 2}]})["f"]
    reply = await fused.answer(asking(sampling=Sampling(stop="END")))
    assert reply.choices[0].text == "one two three "
    with pytest.raises(EngineDied):
        await fused.answer(asking(response_format={"type": "json_object"}))


async def test_a_synthesizer_that_fails_in_the_middle_is_an_error_not_a_mixture() -> None:
    models = trio()
    models[2].error, models[2].fails_after = EngineDied("gone"), 2
    heard = Heard()
    with pytest.raises(EngineDied):
        await fusion(list(models), f=CONFIG)["f"].answer(asking(), heard)
    assert heard.text == "the final"


async def test_candidates_that_do_not_fit_are_cut_fairly_and_the_trace_says_so() -> None:
    writer = Scripted("a", ["word " * 600, "short draft"])
    judge = Scripted("judge", [json.dumps(ANALYSIS)], limit=600)
    heard = Heard()
    config = {**CONFIG, "synthesizer": None}
    reply = await fusion([writer, judge], f=config)["f"].answer(asking(), heard)
    assert {event.trim.candidate for event in heard.of(Trimmed)} == {"c1"}
    assert reply.report is not None
    assert [trim.reader for trim in reply.report.trims] == ["judge", "judge"]  # as judge, then as synthesizer
    for request in judge.requests:
        room = await judge.measure(request)
        assert room.tokens + (request.sampling.max_tokens or 0) <= room.limit
        assert "short draft" in request.messages[-1].content


async def test_a_conversation_that_leaves_no_room_for_candidates_fails_the_judge_with_the_way_out() -> None:
    writer, judge = Scripted("a", ["one two", "three four"]), Scripted("judge", limit=60)
    config = {**CONFIG, "synthesizer": None}
    reply = await fusion([writer, judge], f=config)["f"].answer(asking())
    assert reply.report is not None
    assert all("leaves judge no room" in failure.message for failure in reply.report.failed)
    assert reply.choices[0].text == "one two"


async def test_a_fusion_may_be_a_member_a_judge_and_a_synthesizer_of_another() -> None:
    models = trio()
    inner = {"strategy": "vote", "extract": "text", "panel": ["a", "a"]}
    judges = {"strategy": "single", "panel": ["judge"]}
    writers = {"strategy": "single", "panel": ["writer"]}
    outer = {"strategy": "synthesize", "panel": ["inner", "a"], "judge": "judges", "synthesizer": "writers"}
    heard = Heard()
    built = fusion(list(models), inner=inner, judges=judges, writers=writers, outer=outer)
    reply = await built["outer"].answer(asking(), heard)
    assert reply.choices[0].text == "the final answer"
    assert {event.source for event in heard.of(Nested)} >= {"inner"}
    stages = [(call.stage, call.model) for call in reply.calls]
    assert stages.count(("panel", "a")) == 3
    assert ("judge", "judge") in stages
    assert ("synthesis", "writer") in stages


async def test_the_clients_tools_take_none_of_the_room_of_whoever_is_not_offered_them() -> None:
    class Measuring(Scripted):
        async def measure(self, request: ChatRequest) -> Room:
            assert not request.tools
            return await super().measure(request)

    a, judge, _ = trio()
    writer = Measuring("writer", ["the final answer"])
    request = asking(tools=({"type": "function", "function": {"name": "look"}},))
    reply = await fusion([a, judge, writer], f=CONFIG)["f"].answer(request)
    assert reply.choices[0].text == "the final answer"


async def test_a_partial_part_makes_the_whole_partial() -> None:
    alive, dead = Scripted("alive", ["x"]), Scripted("dead", error=EngineDied("gone"))
    inner = {"strategy": "vote", "extract": "text", "panel": ["dead", "alive"]}
    outer = {"strategy": "vote", "extract": "text", "panel": ["inner", "alive"]}
    reply = await fusion([alive, dead], inner=inner, outer=outer)["outer"].answer(asking())
    assert reply.report is not None
    assert reply.report.partial
    assert [(failure.member, failure.message) for failure in reply.report.failed] == [("inner › dead", "gone")]


async def test_a_run_of_a_fusion_that_fails_leaves_its_other_runs_alone() -> None:
    class Flaky(Scripted):
        async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
            if len(self.requests) == 1:
                self.requests.append(request)
                raise EngineDied("gone")
            return await super().answer(request, emit)

    inner = {"strategy": "single", "panel": ["a"]}
    outer = {"strategy": "vote", "extract": "text", "panel": [{"model": "inner", "samples": 3}]}
    reply = await fusion([Flaky("a", ["x"])], inner=inner, outer=outer)["outer"].answer(asking())
    assert reply.report is not None
    assert len(reply.report.candidates) == 2
    assert reply.report.partial


async def test_a_judge_missing_from_a_panel_of_judges_is_told_once() -> None:
    writer = Scripted("a", ["x", "y", "z"])
    judges = [Scripted("good", preference=lambda _: 0.9), Scripted("dead", error=EngineDied("gone"))]
    jury = {"strategy": "vote", "extract": "text", "panel": ["good", "dead"]}
    best = {"strategy": "best_of", "panel": [{"model": "a", "samples": 3}], "judge": "jury"}
    reply = await fusion([writer, *judges], jury=jury, best=best)["best"].answer(asking())
    assert reply.report is not None
    assert reply.report.verdict is not None
    assert [failure.member for failure in reply.report.failed] == ["jury › dead"]


async def test_a_writing_fusion_with_a_broken_member_still_writes() -> None:
    models = [*trio()[:2], Scripted("writer", ["the final answer"]), Broken("broken", error=EngineDied("gone"))]
    writers = {"strategy": "single", "panel": ["writer", "broken"]}
    config = {**CONFIG, "synthesizer": "writers"}
    reply = await fusion(models, writers=writers, f=config)["f"].answer(asking())
    assert reply.choices[0].text == "the final answer"


class Broken(Scripted):
    async def measure(self, request: ChatRequest) -> Room:
        raise EngineDied("gone")


async def test_an_empty_final_answer_is_a_failure() -> None:
    models = [*trio()[:2], Scripted("writer", [" "])]
    reply = await fusion(models, f=CONFIG)["f"].answer(asking())
    assert reply.choices[0].text == "first draft"
    assert reply.report is not None
    assert [failure.code for failure in reply.report.failed] == ["empty_answer"]


async def test_the_clients_stops_bind_the_answer_and_not_the_drafts() -> None:
    models = trio()
    await fusion(list(models), f=CONFIG)["f"].answer(asking(sampling=Sampling(stop="END")))
    assert models[0].requests[0].sampling.stop is None
    assert models[2].requests[0].sampling.stop == "END"


REFUSAL = "I'm sorry, but I can't help with that."


async def test_refusals_are_left_out_and_told_where_others_answered() -> None:
    judge, writer = trio()[1:]
    panel = [Scripted("a", [REFUSAL, "a draft"]), judge, writer]
    reply = await fusion(panel, f={**CONFIG, "panel": [{"model": "a", "samples": 3}]})["f"].answer(asking())
    assert reply.report is not None
    assert [(failure.stage, failure.member, failure.code) for failure in reply.report.failed] == [
        ("panel", "a", "refused"),
        ("panel", "a", "refused"),
    ]
    assert reply.report.notes == ("left out, because others answered: c1, c3 refused",)
    assert "can't help" not in prompt_of(writer.requests[0])
    assert not judge.requests  # one answer is left: nothing to compare


async def test_where_all_refuse_the_synthesizer_reads_the_refusals() -> None:
    judge, writer = trio()[1:]
    reply = await fusion([Scripted("a", [REFUSAL]), judge, writer], f=CONFIG)["f"].answer(asking())
    assert reply.report is not None
    assert not reply.report.failed
    assert prompt_of(writer.requests[0]).count("can't help") == 2


def layered(*panel: Scripted, **more: object) -> dict[str, object]:
    return {**CONFIG, "panel": [model.name for model in panel], "layers": 3, **more}


async def test_in_later_layers_every_member_answers_anew_with_all_answers_of_the_layer_before() -> None:
    a, b = Debater("a", "a one", "a two", "a three"), Debater("b", "b one", "b two", "b three")
    judge, writer = trio()[1:]
    heard = Heard()
    reply = await fusion([a, b, judge, writer], f=layered(a, b))["f"].answer(asking(), heard)
    for model in (a, b):
        first, second, third = (prompt_of(request) for request in model.requests)
        assert first == "What is 6 times 7?"
        assert all(text in second for text in ("a one", "b one"))
        assert all(text in third for text in ("a two", "b two"))
        assert "one" not in third.partition("----")[2].partition("----")[0]
    assert prompt_of(a.requests[1]) == prompt_of(b.requests[1])
    for reader in (judge, writer):
        prompt = prompt_of(reader.requests[0])
        assert all(text in prompt for text in ("a three", "b three"))
        assert "a two" not in prompt
    assert [(event.stage, event.round) for event in heard.of(StageStarted)] == [
        ("panel", 1),
        ("panel", 2),
        ("panel", 3),
        ("judge", 1),
        ("synthesis", 1),
    ]
    assert reply.report is not None
    assert [(candidate.id, candidate.round) for candidate in reply.report.candidates] == [
        ("c1", 1),
        ("c2", 1),
        ("c1.2", 2),
        ("c2.2", 2),
        ("c1.3", 3),
        ("c2.3", 3),
    ]
    assert len(reply.calls) == 8


async def test_samples_of_a_member_stay_one_request_in_every_layer() -> None:
    models = trio()
    await fusion(list(models), f={**CONFIG, "layers": 2})["f"].answer(asking())
    assert [request.samples for request in models[0].requests] == [2, 2]


async def test_a_member_that_failed_in_one_layer_is_asked_again_in_the_next() -> None:
    a, b = Debater("a", EngineDied("gone"), "a two"), Debater("b", "b one", "b two")
    judge, writer = trio()[1:]
    reply = await fusion([a, b, judge, writer], f=layered(a, b, layers=2))["f"].answer(asking())
    assert "b one" in prompt_of(a.requests[1])
    assert all(text in prompt_of(writer.requests[0]) for text in ("a two", "b two"))
    assert reply.report is not None
    assert [failure.member for failure in reply.report.failed] == ["a"]


async def test_a_layer_below_the_quorum_is_given_up_for_the_one_before() -> None:
    a, b = Debater("a", "a one", EngineDied("gone")), Debater("b", "b one", "b two")
    judge, writer = trio()[1:]
    reply = await fusion([a, b, judge, writer], f=layered(a, b, quorum=2))["f"].answer(asking())
    assert [len(model.requests) for model in (a, b)] == [2, 2]
    prompt = prompt_of(writer.requests[0])
    assert all(text in prompt for text in ("a one", "b one"))
    assert "b two" not in prompt
    assert reply.report is not None
    assert reply.report.notes == ("layer 2 gave 1 of the 2 candidates needed: the answer is written from layer 1",)


async def test_refusals_of_a_layer_are_no_references_for_the_next() -> None:
    a, b = Debater("a", REFUSAL, "a two"), Debater("b", "b one", "b two")
    judge, writer = trio()[1:]
    await fusion([a, b, judge, writer], f=layered(a, b, layers=2))["f"].answer(asking())
    assert "can't help" not in prompt_of(b.requests[1])
    assert "a two" in prompt_of(writer.requests[0])


async def test_refusals_of_the_last_layer_are_left_out_of_the_synthesis() -> None:
    a, b = Debater("a", "a one", REFUSAL), Debater("b", "b one", "b two")
    judge, writer = trio()[1:]
    reply = await fusion([a, b, judge, writer], f=layered(a, b, layers=2))["f"].answer(asking())
    assert "can't help" not in prompt_of(writer.requests[0])
    assert reply.report is not None
    assert [failure.code for failure in reply.report.failed] == ["refused"]
