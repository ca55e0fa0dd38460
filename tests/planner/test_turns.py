"""Models that do not fit together: who is awake, who takes turns with whom, and how whoever makes room sleeps."""

from __future__ import annotations

import pytest

from tests.planner.placement.plans import (
    GIB,
    awake,
    cpu,
    facts,
    gpus,
    home,
    panel,
    planned,
    refusal,
    where,
)


def test_models_that_do_not_fit_together_take_turns() -> None:
    made = planned({"a": facts(15), "b": facts(14)}, gpus(24))
    assert not made.refusals
    waiting, resident = sorted(made.placements, key=lambda placement: placement.resident)
    assert (waiting.resident, resident.resident) == (False, True)
    assert waiting.turns is not None
    assert waiting.turns.instead_of == (resident.model,)
    assert resident.turns is None
    assert waiting.turns.needed_bytes > waiting.turns.available_bytes > 0
    assert "are left beside the models that are awake" in waiting.turns.reason
    assert waiting.max_concurrent_requests > 4, "it has the other's memory while that one sleeps"


def test_only_those_take_turns_that_must() -> None:
    made = planned({"a": facts(15), "b": facts(14), "c": facts(15)}, gpus(24, 24))
    assert len(awake(made)) == 2
    (waiting,) = (placement for placement in made.placements if placement.turns)
    assert waiting.turns is not None
    (victim,) = waiting.turns.instead_of
    assert where(made)[victim] == waiting.devices
    (other,) = awake(made) - {victim}
    assert home(made, other).asleep is None
    assert home(made, other).sleeping_bytes == 0


def test_whoever_is_of_the_same_fusion_is_the_last_to_make_room() -> None:
    """`r` is wanted together with either of the two others, which have no use for each other."""
    known = {"r": facts(6), "s": facts(6.5), "t": facts(6.25)}
    made = planned(known, gpus(24), fusions={"f": panel("r", "s"), "g": panel("r", "t")})
    (waiting,) = (placement for placement in made.placements if placement.turns)
    assert "r" in awake(made)
    assert waiting.turns is not None
    assert set(waiting.turns.instead_of) == awake(made) - {"r"}


@pytest.mark.parametrize(
    ("ram", "asleep"),
    [
        (None, ["level 1", "level 1"]),
        (64, ["level 1", "level 1"]),
        (29, ["level 1", "level 1"]),
        (28.9, ["level 2", "level 1"]),
        (14, ["level 2", "level 1"]),
        (13.9, ["level 2", "level 2"]),
        (0, ["level 2", "level 2"]),
    ],
)
def test_weights_of_sleepers_are_kept_in_host_ram_as_far_as_there_is_some(ram: float | None, asleep: list[str]) -> None:
    """The small one first: so as many as possible are quick to wake."""
    made = planned({"a": facts(15), "b": facts(14)}, gpus(24, ram=ram))
    assert [home(made, name).asleep for name in "ab"] == asleep
    kept = [15 * GIB, 14 * GIB]
    assert [home(made, name).host_bytes for name in "ab"] == [
        size if how == "level 1" else 0 for size, how in zip(kept, asleep, strict=True)
    ]
    assert all(home(made, name).sleeping_bytes > 0 for name in "ab")
    assert made.notes == (
        ("sleeping models take 29 GiB of RAM, which is taken to be there (name it: `ram=…`)",) if ram is None else ()
    )


def test_where_idle_models_give_their_memory_back_those_that_all_fit_can_sleep_too() -> None:
    known, rig = {"a": facts(5), "b": facts(4)}, gpus(24, ram=8)
    assert [home(planned(known, rig), name).asleep for name in "ab"] == [None, None]
    made = planned(known, rig, scheduling={"idle_sleep_seconds": 300})
    assert awake(made) == {"a", "b"}
    assert [home(made, name).asleep for name in "ab"] == ["level 2", "level 1"]


def test_every_rank_of_a_sleeper_holds_host_ram() -> None:
    made = planned({"a": facts(30), "b": facts(30)}, gpus(24, 24, ram=59))
    assert sorted(str(placement.asleep) for placement in made.placements) == ["level 1", "level 2"]
    assert {placement.tensor_parallel for placement in made.placements} == {2}


def test_who_would_leave_too_much_behind_for_another_to_have_a_home_is_stopped() -> None:
    """`a` fills the GPU: there is no room for what `b` leaves behind when it sleeps, while `a` leaves enough to `b`."""
    made = planned({"a": facts(20), "b": facts(10)}, gpus(24))
    assert awake(made) == {"b"}
    assert [home(made, name).asleep for name in "ab"] == ["level 1", "stopped"]
    assert (home(made, "b").sleeping_bytes, home(made, "b").host_bytes) == (0, 0)


def test_nobody_is_stopped_for_others_to_be_awake_all_the_time() -> None:
    """`b` and `c` would fit together if `a` left nothing on the GPU; but starting it anew would take minutes."""
    made = planned({"a": facts(15), "b": facts(14), "c": facts(3)}, gpus(24))
    assert len(awake(made)) == 1
    assert {placement.asleep for placement in made.placements} == {"level 1"}


def test_engines_on_the_cpu_are_stopped_where_they_would_sleep() -> None:
    made = planned({"a": facts(6), "b": facts(5)}, cpu(12))
    assert [(each.asleep, each.sleeping_bytes, each.host_bytes) for each in made.placements] == [("stopped", 0, 0)] * 2


def test_a_fusion_is_awake_as_a_whole_if_only_in_turns_with_others() -> None:
    """Three of a kind and room for two: whoever is not of the fusion takes turns."""
    known = {name: facts(7) for name in "abc"}
    for mates in ("ab", "ac", "bc"):
        assert awake(planned(known, gpus(24), fusions={"f": panel(*mates)})) == set(mates)


def test_only_what_fits_nowhere_even_by_itself_is_refused() -> None:
    made = planned({"a": facts(10), "b": facts(40), "c": facts(12)}, gpus(24))
    assert refusal(made).model == "b"
    assert refusal(made).needed_bytes > 40 * GIB
    assert refusal(made).available_bytes == made.usable[0]
    assert set(where(made)) == {"a", "c"}
