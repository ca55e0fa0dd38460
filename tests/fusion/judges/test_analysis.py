"""The comparing judge: what it is asked for, and how what it writes is read."""

from __future__ import annotations

import json

import pytest

from local_fusion.config.base import Reference
from local_fusion.core.records import Analysis
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EmptyAnswer, EngineError, NotJson, NotTheSchema
from local_fusion.fusion.judges.analysis import MOST_TOKENS, analyse, response_format
from tests.fusion.judges.courts import court, written
from tests.scripted import Scripted, asking

FINDINGS = {
    "consensus": ["it is even"],
    "contradictions": [
        {"topic": "size", "stances": [{"answer": "1", "stance": "big"}, {"answer": "7", "stance": "?"}]}
    ],
    "unique_insights": [{"answer": "2", "insight": "it is round"}],
}


async def test_findings_name_candidates_by_id_and_leave_out_numbers_that_nobody_has() -> None:
    session = court([Scripted("judge", [json.dumps(FINDINGS)])], "judge")
    verdict, text = await analyse(session, Reference(model="judge"), written("x", "y"))
    assert isinstance(verdict.analysis, Analysis)
    assert verdict.analysis.contradictions[0].stances == (("c1", "big"),)
    assert verdict.analysis.unique_insights == (("c2", "it is round"),)
    assert json.loads(text)["consensus"] == ["it is even"]
    assert "blind_spots" not in json.loads(text)


async def test_it_is_asked_greedily_held_to_the_schema_and_without_the_client_s_tools() -> None:
    judge = Scripted("judge", [json.dumps(FINDINGS)])
    tools = ({"type": "function", "function": {"name": "look"}},)
    session = court([judge], "judge", request=asking(sampling=Sampling(seed=3, temperature=1), tools=tools))
    await analyse(session, Reference(model="judge"), written("x", "y"))
    (asked,) = judge.requests
    assert asked.sampling == Sampling(temperature=0, max_tokens=MOST_TOKENS, seed=3)
    assert asked.response_format == response_format(2)
    assert asked.tools == ()


@pytest.mark.parametrize("thought", ["<think>{1} or {2}?</think>\n", "the {second}, surely</think>\n"])
async def test_what_the_judge_thought_first_is_not_read(thought: str) -> None:
    session = court([Scripted("judge", [thought + json.dumps(FINDINGS)])], "judge")
    verdict, _ = await analyse(session, Reference(model="judge"), written("x", "y"))
    assert verdict.analysis is not None
    assert verdict.analysis.consensus == ("it is even",)


async def test_an_analysis_cut_by_its_limit_is_read_as_far_as_it_goes_and_it_is_said() -> None:
    cut = '{"consensus": ["it is ev'
    session = court([Scripted("judge", [cut], finish_reason="length")], "judge")
    verdict, _ = await analyse(session, Reference(model="judge"), written("x", "y"))
    assert verdict.analysis is not None
    assert verdict.analysis.consensus == ("it is ev",)
    assert session.notes == ["judge was cut short by its token limit; what it had written until then is used"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("They agree.", NotJson),
        ("", EmptyAnswer),
        ("[]", NotTheSchema),
        ('{"consensus": "it is even"}', NotTheSchema),
    ],
)
async def test_what_is_no_analysis_is_a_failure_that_is_kept(text: str, error: type[EngineError]) -> None:
    session = court([Scripted("judge", [text])], "judge")
    with pytest.raises(error):
        await analyse(session, Reference(model="judge"), written("x", "y"))
    assert [(failure.stage, failure.code) for failure in session.failures] == [("judge", error.code)]
