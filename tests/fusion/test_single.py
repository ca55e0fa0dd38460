"""`single`: a name for one member, with the others as its understudies."""

from __future__ import annotations

import pytest

from local_fusion.core.events import TextDelta
from local_fusion.core.sampling import Sampling
from local_fusion.errors import ContextTooLong, EngineDied, PanelFailed
from tests.scripted import Heard, Scripted, asking, fusion

CONFIG = {"strategy": "single", "panel": [{"model": "a", "temperature": 0.7}, "b"]}


async def test_the_first_member_answers_word_by_word_and_the_second_is_not_asked() -> None:
    first, second = Scripted("a", ["one two three"]), Scripted("b")
    heard = Heard()
    reply = await fusion([first, second], f=CONFIG)["f"].answer(asking(sampling=Sampling(temperature=0.2)), heard)
    assert reply.choices[0].text == "one two three"
    assert len(heard.of(TextDelta)) == 3
    assert second.requests == []
    assert first.requests[0].sampling.temperature == 0.2


async def test_the_next_member_takes_over_and_the_failure_is_kept() -> None:
    first, second = Scripted("a", error=EngineDied("gone")), Scripted("b", ["saved"])
    reply = await fusion([first, second], f=CONFIG)["f"].answer(asking())
    assert reply.choices[0].text == "saved"
    assert reply.report is not None
    assert reply.report.partial
    assert [failure.member for failure in reply.report.failed] == ["a"]


async def test_nobody_takes_over_in_the_middle_of_an_answer() -> None:
    first, second = Scripted("a", ["one two"], error=EngineDied("gone"), fails_after=1), Scripted("b")
    with pytest.raises(EngineDied):
        await fusion([first, second], f=CONFIG)["f"].answer(asking())
    assert second.requests == []


async def test_all_failing_names_every_cause() -> None:
    models = [Scripted(name, error=EngineDied(f"{name} is gone")) for name in "ab"]
    with pytest.raises(PanelFailed, match=r"a: a is gone; b: b is gone"):
        await fusion(models, f=CONFIG)["f"].answer(asking())


async def test_an_empty_answer_is_a_failure_and_the_next_member_takes_over() -> None:
    reply = await fusion([Scripted("a", [""]), Scripted("b", ["saved"])], f=CONFIG)["f"].answer(asking())
    assert reply.choices[0].text == "saved"


async def test_a_request_too_long_for_every_member_is_the_callers_fault() -> None:
    models = [Scripted(name, error=ContextTooLong("too long", param="messages")) for name in "ab"]
    with pytest.raises(ContextTooLong):
        await fusion(models, f=CONFIG)["f"].answer(asking())
