"""Who makes room: enough, nobody for nothing, and whom it costs least to do without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, combinations

from hypothesis import given, settings
from hypothesis import strategies as some

from local_fusion.scheduler.situation import Victim
from local_fusion.scheduler.victims import Candidate, choose


def candidate(
    name: str,
    frees: int | Mapping[int, int] = 10,
    *,
    work: int = 0,
    announced: int = 0,
    return_seconds: float = 5.0,
) -> Candidate:
    freed = {0: frees} if isinstance(frees, int) else frees
    return Candidate(Victim(name, "level 1"), freed, work, announced, return_seconds)


def names(victims: tuple[Victim, ...] | None) -> list[str] | None:
    return None if victims is None else [victim.engine for victim in victims]


def test_one_is_enough_where_one_suffices() -> None:
    small = [candidate("a", 5, return_seconds=0.1), candidate("b", 5, return_seconds=0.1)]
    assert names(choose({0: 10}, [*small, candidate("c", 10, return_seconds=60)])) == ["c"]


def test_one_is_enough_among_very_many_too() -> None:
    small = [candidate(f"small {number}", 1, return_seconds=0.1) for number in range(20)]
    assert names(choose({0: 10}, [*small, candidate("large", 10, return_seconds=60)])) == ["large"]


def test_who_does_not_help_is_left_alone() -> None:
    elsewhere = candidate("elsewhere", {1: 10}, return_seconds=0.1)
    assert names(choose({0: 10}, [elsewhere, candidate("here")])) == ["here"]
    assert choose({0: 10}, [elsewhere]) is None


def test_the_cheapest_to_bring_back_goes() -> None:
    assert names(choose({0: 5}, [candidate("slow", return_seconds=60), candidate("quick", return_seconds=2)])) == [
        "quick"
    ]


def test_nobody_with_work_goes_while_idle_ones_suffice() -> None:
    idle = [candidate("a", 5, return_seconds=60), candidate("b", 5, return_seconds=60)]
    assert names(choose({0: 10}, [candidate("busy", 10, work=1, return_seconds=0.1), *idle])) == ["a", "b"]


def test_of_those_with_work_the_one_with_least_goes() -> None:
    assert names(choose({0: 5}, [candidate("busy", work=9), candidate("less", work=2)])) == ["less"]


def test_an_idle_one_goes_beside_a_busy_one_where_that_spares_another_busy_one() -> None:
    half = [candidate("idle", 5), candidate("busy", 5, work=1)]
    assert names(choose({0: 10}, [*half, candidate("busier", 10, work=3)])) == ["idle", "busy"]


def test_who_will_be_called_later_is_spared_if_another_can_go() -> None:
    later = candidate("later", announced=1, return_seconds=0.1)
    assert names(choose({0: 5}, [later, candidate("never", return_seconds=60)])) == ["never"]
    assert names(choose({0: 5}, [later])) == ["later"]


def test_one_that_spans_devices_counts_on_each_of_them() -> None:
    wide = candidate("wide", {0: 5, 1: 5})
    narrow = [candidate("left", {0: 5}), candidate("right", {1: 5})]
    assert names(choose({0: 5, 1: 5}, [*narrow, wide])) == ["wide"]
    assert names(choose({0: 5, 1: 5, 2: 1}, [*narrow, wide])) is None


def test_nothing_is_chosen_where_nothing_suffices() -> None:
    assert choose({0: 11}, [candidate("a", 5), candidate("b", 5)]) is None
    assert choose({0: 1}, []) is None


_DEVICES = (0, 1, 2)
_frees = some.dictionaries(some.sampled_from(_DEVICES), some.integers(1, 8), min_size=1)
_deficits = some.dictionaries(some.sampled_from(_DEVICES), some.integers(1, 16), min_size=1)


def _candidates(fewest: int, most: int) -> some.SearchStrategy[list[Candidate]]:
    one = some.tuples(_frees, some.integers(0, 3), some.integers(0, 2), some.sampled_from([1.0, 5.0, 60.0]))
    return some.lists(one, min_size=fewest, max_size=most).map(
        lambda drawn: [Candidate(Victim(f"engine {number}", "level 1"), *each) for number, each in enumerate(drawn)]
    )


def _suffices(deficit: Mapping[int, int], chosen: Iterable[Candidate]) -> bool:
    chosen = list(chosen)
    return all(sum(each.frees.get(device, 0) for each in chosen) >= size for device, size in deficit.items())


def _loss(chosen: Sequence[Candidate]) -> tuple[int, int, int, float]:
    return (
        sum(each.work for each in chosen),
        len(chosen),
        sum(each.announced for each in chosen),
        sum(each.return_seconds for each in chosen),
    )


def _picked(candidates: list[Candidate], victims: tuple[Victim, ...]) -> list[Candidate]:
    return [each for each in candidates if each.victim in victims]


@settings(max_examples=300)
@given(_deficits, _candidates(0, 8))
def test_up_to_ten_no_other_choice_loses_less(deficit: dict[int, int], candidates: list[Candidate]) -> None:
    every = chain.from_iterable(combinations(candidates, count) for count in range(len(candidates) + 1))
    sufficient = [chosen for chosen in every if _suffices(deficit, chosen)]
    victims = choose(deficit, candidates)
    if victims is None:
        assert not sufficient
    else:
        assert _loss(_picked(candidates, victims)) == min(_loss(chosen) for chosen in sufficient)


@settings(max_examples=300)
@given(_deficits, _candidates(11, 24))
def test_of_more_than_ten_enough_go_and_nobody_for_nothing(
    deficit: dict[int, int], candidates: list[Candidate]
) -> None:
    victims = choose(deficit, candidates)
    if victims is None:
        assert not _suffices(deficit, candidates)
        return
    chosen = _picked(candidates, victims)
    assert len(chosen) == len(victims)
    assert _suffices(deficit, chosen)
    for each in chosen:
        assert not _suffices(deficit, [other for other in chosen if other is not each])
    idle = [each for each in candidates if not each.work]
    if _suffices(deficit, idle):
        assert all(not each.work for each in chosen)
        if any(_suffices(deficit, [each]) for each in idle):
            assert len(chosen) == 1
