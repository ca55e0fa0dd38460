"""Whose sampling options count where several levels name them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from local_fusion.core.sampling import Sampling


def test_options_that_are_set_win_over_those_below_and_the_rest_comes_from_below() -> None:
    member = Sampling(temperature=0.0, top_p=0.5)
    asked = Sampling(temperature=1.5, seed=7, stop=["end"])
    assert member.over(asked) == Sampling(temperature=0.0, top_p=0.5, seed=7, stop=["end"])
    assert asked.over(member) == Sampling(temperature=1.5, top_p=0.5, seed=7, stop=["end"])


def test_zero_is_an_option_that_is_set() -> None:
    assert Sampling(temperature=0, top_k=0, seed=0).set_fields() == {"temperature": 0, "top_k": 0, "seed": 0}


def test_nothing_over_something_is_that_and_the_other_way_round() -> None:
    some = Sampling(temperature=0.3, max_tokens=5)
    assert Sampling().over(some) == some
    assert some.over(Sampling()) == some
    assert Sampling().set_fields() == {}


@pytest.mark.parametrize(
    ("own", "most", "capped"), [(None, 10, 10), (5, 10, 5), (10, 5, 5), (5, None, 5), (None, None, None)]
)
def test_a_cap_only_ever_lowers_the_tokens(own: int | None, most: int | None, capped: int | None) -> None:
    assert Sampling(max_tokens=own, seed=1).capped(most) == Sampling(max_tokens=capped, seed=1)


def test_changed_fields_leave_the_others_and_the_original_alone() -> None:
    before = Sampling(temperature=0.3, seed=1)
    assert before.with_fields(seed=2) == Sampling(temperature=0.3, seed=2)
    assert before.seed == 1


def test_only_the_sampling_part_of_a_larger_model_is_taken() -> None:
    class Larger(Sampling):
        name: str = "x"

    assert Sampling.of(Larger(temperature=0.5)) == Sampling(temperature=0.5)
    assert type(Sampling.of(Larger())) is Sampling


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 0}, {"max_tokens": 0}, {"temprature": 1}])
def test_a_value_out_of_bounds_and_an_unknown_option_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Sampling(**wrong)


def test_parts_and_parts_of_parts_draw_from_seeds_that_do_not_meet() -> None:
    """In whatever order: the second part of the first part is not the first part of the second one."""
    asked, samples = Sampling(seed=7, temperature=0.5), 256
    parts = [asked, *(asked.apart("member", number) for number in range(4))]
    parts += [part.apart("member", number) for part in parts[1:] for number in range(4)]
    parts += [asked.apart("sample", number).apart("member", inner) for number in range(4) for inner in range(4)]
    seeds = [part.shifted(number).seed for part in parts for number in range(samples)]
    assert len(set(seeds)) == len(parts) * samples
    assert {part.temperature for part in parts} == {0.5}
    assert asked.apart("member", 3) == parts[4]


def test_without_a_seed_there_is_none_to_change() -> None:
    assert Sampling(top_k=3).apart("member", 1) == Sampling(top_k=3).shifted(2) == Sampling(top_k=3)
