"""Images in a request to a fusion: members that take images get them, others are left out, judges read around them."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.core.chat import ChatRequest, Image, Message
from local_fusion.core.model import FusionReport, Reply
from local_fusion.errors import TakesNoImages
from local_fusion.fusion.prompts.layout import with_addition, with_persona
from tests.scripted import Scripted, asking, fusion

CAT = Image("data:image/png;base64,AAAA")
SHOWN = Message("user", "What is this?\nBe brief.", parts=("What is this?", CAT, "Be brief."))


def showing(**changes: Any) -> ChatRequest:
    return asking(**changes).but(messages=(Message("system", "Look closely."), SHOWN))


def seeing(name: str, *texts: str) -> Scripted:
    return Scripted(name, [*texts])


def blind(name: str, *texts: str) -> Scripted:
    return Scripted(name, [*texts], takes_images=False)


def report_of(reply: Reply) -> FusionReport:
    assert reply.report is not None
    return reply.report


class TestMembers:
    async def test_those_that_take_images_get_them_as_they_came(self) -> None:
        models = [seeing("a"), seeing("b")]
        await fusion(models, f={"strategy": "vote", "panel": ["a", "b"]})["f"].answer(showing())
        assert [model.requests[0].messages for model in models] == [showing().messages] * 2

    async def test_those_that_do_not_are_left_out_and_the_answer_says_so(self) -> None:
        models = [seeing("a", "a cat"), blind("b")]
        reply = await fusion(models, f={"strategy": "vote", "panel": ["a", "b"]})["f"].answer(showing())
        assert reply.choices[0].text == "a cat"
        (failure,) = report_of(reply).failed
        assert (failure.member, failure.code, failure.message) == ("b", "takes_no_images", "b takes no images")
        assert report_of(reply).partial

    @pytest.mark.parametrize(
        "config",
        [
            {"strategy": "vote", "panel": ["a", "b"]},
            {"strategy": "single", "panel": ["a"]},
            {"strategy": "synthesize", "panel": ["a", "b"], "judge": "s"},
            {"strategy": "muse", "panel": ["a"], "muse": "s"},
            {"strategy": "relay", "panel": ["a", "b"]},
            {"strategy": "review", "panel": ["a", "b"], "judge": "s"},
        ],
        ids=lambda config: str(config["strategy"]),
    )
    async def test_where_none_takes_them_it_is_the_request_that_is_wrong(self, config: dict[str, Any]) -> None:
        models = [blind("a"), blind("b"), seeing("s")]
        with pytest.raises(TakesNoImages, match="no member of f takes images") as raised:
            await fusion(models, f=config)["f"].answer(showing())
        assert raised.value.param == "messages[1].content[1]"
        assert raised.value.status == 400
        assert not any(model.requests for model in models)

    async def test_the_next_one_answers_where_the_first_cannot_see(self) -> None:
        models = [blind("a"), seeing("b", "a cat")]
        reply = await fusion(models, f={"strategy": "single", "panel": ["a", "b"]})["f"].answer(showing())
        assert reply.choices[0].text == "a cat"

    async def test_whom_a_fusion_falls_back_on_may_be_the_only_one_that_sees(self) -> None:
        models = [blind("a"), seeing("b", "a cat")]
        config = {"strategy": "route", "panel": [{"model": "a", "samples": 2}], "otherwise": "b"}
        model = fusion(models, f=config)["f"]
        assert model.takes_images
        assert (await model.answer(showing())).choices[0].text == "a cat"

    async def test_a_fusion_within_it_takes_them_if_any_of_its_members_does(self) -> None:
        models = [blind("a"), seeing("b", "a cat")]
        inner = {"strategy": "vote", "panel": ["a", "b"]}
        dark = {"strategy": "vote", "panel": ["a"]}
        fusions = fusion(models, inner=inner, dark=dark, f={"strategy": "vote", "panel": ["inner", "dark"]})
        reply = await fusions["f"].answer(showing())
        assert reply.choices[0].text == "a cat"
        assert [each.member for each in report_of(reply).failed] == ["dark", "inner › a"]
        assert [name for name in fusions if fusions[name].takes_images] == ["inner", "f"]


class TestJudgesAndWriters:
    """They may be blind: the answers are words."""

    async def test_they_are_asked_with_leave_to_read_the_text_alone(self) -> None:
        models = [seeing("a", "a cat"), seeing("b", "a dog"), blind("j"), blind("w", "a pet")]
        config = {"strategy": "synthesize", "panel": ["a", "b"], "judge": "j", "synthesizer": "w"}
        reply = await fusion(models, f=config)["f"].answer(showing())
        assert reply.choices[0].text == "a pet"
        asked = [*models[2].requests, *models[3].requests]
        assert asked
        assert all(request.described for request in asked)

    async def test_a_fusion_as_judge_hands_that_leave_on(self) -> None:
        models = [seeing("a", "a cat"), blind("j", "a pet")]
        fusions = fusion(
            models,
            judges={"strategy": "single", "panel": ["j"]},
            f={"strategy": "synthesize", "panel": ["a"], "judge": "judges"},
        )
        reply = await fusions["f"].answer(showing())
        assert reply.choices[0].text == "a pet"
        assert models[1].requests[-1].described

    async def test_those_that_see_get_the_images_with_what_we_add_below(self) -> None:
        models = [seeing("a", "a cat"), seeing("b", "a dog"), seeing("j", "a pet")]
        config = {"strategy": "synthesize", "panel": ["a", "b"], "judge": "j", "analysis": False}
        await fusion(models, f=config)["f"].answer(showing())
        last = models[2].requests[-1].messages[-1]
        assert last.parts[:3] == SHOWN.parts
        assert isinstance(last.parts[3], str)
        assert "a cat" in last.parts[3]
        assert last.content.startswith("What is this?\nBe brief.\n\n")

    async def test_later_rounds_show_them_too(self) -> None:
        models = [seeing("a", "a cat"), seeing("b", "a dog")]
        config = {"strategy": "debate", "panel": ["a", "b"], "max_rounds": 2}
        await fusion(models, f=config)["f"].answer(showing())
        assert CAT in models[0].requests[1].messages[-1].parts

    async def test_a_question_in_other_words_keeps_its_images(self) -> None:
        model = seeing("a", "Say what you see.")
        config = {"strategy": "vote", "panel": [{"model": "a", "samples": 2, "rephrase": True}]}
        await fusion([model], f=config)["f"].answer(showing())
        parts = {request.messages[-1].parts for request in model.requests if len(request.messages) == 2}
        assert parts == {SHOWN.parts, (CAT, "Say what you see.")}


class TestLayout:
    def test_an_addition_stands_below_text_and_images(self) -> None:
        (last,) = with_addition((SHOWN,), "More.")
        assert last.content == "What is this?\nBe brief.\n\nMore."
        assert last.parts == (*SHOWN.parts, "More.")

    def test_a_persona_leaves_them_where_they_are(self) -> None:
        system = Message("system", "As this one.", parts=("As this one.", CAT))
        assert with_persona((system, SHOWN), "Be kind.") == (system.adding("Be kind."), SHOWN)
        assert with_persona((SHOWN,), "Be kind.")[1:] == (SHOWN,)
