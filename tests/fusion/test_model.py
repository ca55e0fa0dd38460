"""A fusion as a model: several answers of one, and one within another."""

from __future__ import annotations

import pytest

from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import CallEnded, TextDelta
from local_fusion.core.model import Emit, Reply, unheard
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineDied, PanelFailed
from tests.scripted import Heard, Scripted, asking, fusion


async def test_no_two_runs_of_a_fusion_draw_the_same_samples() -> None:
    """Engines number the seeds of several samples, so seeds of runs that follow each other would share most of them."""
    model = Scripted("a", ["x"])
    panel = [{"model": "a", "samples": 4}, {"model": "a", "samples": 4}]
    inner = {"strategy": "vote", "panel": panel}
    outer = {"strategy": "vote", "panel": [{"model": "inner", "samples": 3}, "inner"]}
    await fusion([model], inner=inner, outer=outer)["outer"].answer(asking(sampling=Sampling(seed=5)))
    drawn = [request.sampling.shifted(index).seed for request in model.requests for index in range(request.samples)]
    assert len(set(drawn)) == len(drawn) == 32


async def test_a_run_that_fails_leaves_one_answer_fewer_and_all_that_was_written_is_counted() -> None:
    broken = Scripted("a", ["one two three"], error=EngineDied("gone"), fails_after=2)

    class BreaksOnce(Scripted):
        async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
            return await super().answer(request, emit) if broken.requests else await broken.answer(request, emit)

    model = BreaksOnce("a", ["one two three"])
    heard = Heard()
    reply = await fusion([model], f={"strategy": "single", "panel": ["a"]})["f"].answer(asking(samples=3), heard)
    assert [choice.text for choice in reply.choices] == ["one two three"] * 2
    assert sorted(call.usage.completion_tokens for call in reply.calls) == [2, 3, 3]
    assert list(reply.calls) == [event.call for event in heard.of(CallEnded)]
    assert reply.report is not None
    assert "gone" in {failure.message for failure in reply.report.failed}


async def test_several_samples_of_a_fusion_are_several_runs_of_it() -> None:
    model = Scripted("a", answers=lambda request: f"x{request.sampling.seed}")
    inner = {"strategy": "single", "panel": ["a"]}
    outer = {"strategy": "vote", "extract": "text", "panel": [{"model": "inner", "samples": 3}]}
    heard = Heard()
    reply = await fusion([model], inner=inner, outer=outer)["outer"].answer(asking(sampling=Sampling(seed=5)), heard)
    assert len(model.requests) == 3
    assert len({request.sampling.seed for request in model.requests}) == 3
    assert reply.report is not None
    assert len(reply.report.candidates) == 3
    assert [event.text for event in heard.of(TextDelta)] == [reply.report.candidates[0].text]


async def test_a_fusion_as_judge_gives_the_mean_of_its_members() -> None:
    judges = [Scripted("one", preference=lambda _: 0.9), Scripted("two", preference=lambda _: 0.5)]
    dead = Scripted("dead", error=EngineDied("gone"))
    jury = {"strategy": "single", "panel": ["one", "two", "dead"]}
    built = fusion([*judges, dead], jury=jury)["jury"]
    weights = await built.weigh(asking(), ("A", "B"))
    assert weights["A"] == pytest.approx(0.7)
    with pytest.raises(PanelFailed, match="dead: gone"):
        await fusion([dead], jury={"strategy": "single", "panel": ["dead"]})["jury"].weigh(asking(), ("A", "B"))


async def test_what_a_fusion_within_saved_and_cut_is_told_of_the_whole() -> None:
    drafts = {"strategy": "synthesize", "panel": [{"model": "a", "samples": 2}], "judge": "small", "analysis": False}
    same = {"strategy": "vote", "panel": [{"model": "x", "samples": 3}], "adaptive": {"wave": 2, "confidence": 0.6}}
    built = fusion(
        [Scripted("a", ["word " * 100, "other " * 100]), Scripted("small", limit=150), Scripted("x", ["42"])],
        drafts=drafts,
        same=same,
        cutting={"strategy": "single", "panel": ["drafts"]},
        saving={"strategy": "single", "panel": ["same"]},
    )
    cut, saved = [(await built[name].answer(asking())).report for name in ("cutting", "saving")]
    assert cut is not None
    assert saved is not None
    assert {trim.reader for trim in cut.trims} == {"small"}
    assert [(saving.kind, saving.samples) for saving in saved.savings] == [("decided", 1)]
