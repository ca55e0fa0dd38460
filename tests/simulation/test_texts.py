"""What stands for answers: as long as it should be, and different where it counts."""

from __future__ import annotations

import json
import random

import pytest

from local_fusion.config.base import Command
from local_fusion.fusion.repetition import Repetition
from local_fusion.simulation.programs import accepts
from local_fusion.simulation.texts import answer_of, fits, tokens_in
from tests.simulation.parts import World, asking, model_of, simulated


@pytest.mark.parametrize("tokens", [1, 300, 50_000])
def test_an_answer_is_as_long_as_it_should_be_and_does_not_seem_to_repeat_itself(tokens: int) -> None:
    answer = answer_of(tokens, random.Random(1))
    assert tokens_in(answer) == tokens
    assert Repetition().feed(answer) is None


def test_the_same_model_says_something_else_in_another_conversation_and_the_same_in_the_same() -> None:
    async def body(world: World) -> None:
        engine = world.engine("a")
        await engine.wake()
        first, revised, again = [(await model_of(engine).answer(asking(text))).choices[0].text for text in "xyx"]
        assert first == again
        assert first != revised
        assert len(first) == len(revised)

    simulated(body)


def test_what_is_to_be_chosen_is_drawn_by_lot() -> None:
    schema = {
        "type": "object",
        "properties": {"grade": {"type": "integer", "enum": [1, 2, 3]}, "accepted": {"type": "boolean"}},
        "required": ["grade", "accepted"],
    }
    drawn = [json.loads(fits({"json_schema": {"schema": schema}}, random.Random(seed))) for seed in range(50)]
    assert {each["grade"] for each in drawn} == {1, 2, 3}
    assert {each["accepted"] for each in drawn} == {True, False}


def test_a_program_that_is_not_run_accepts_every_second_text_and_always_the_same_ones() -> None:
    async def body(world: World) -> None:
        command = Command(command=["check"])
        said = [await accepts(command, str(number)) for number in range(200)]
        assert said == [await accepts(command, str(number)) for number in range(200)]
        assert 70 < sum(said) < 130

    simulated(body)
