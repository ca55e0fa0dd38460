"""How long a panel is waited for: until grace is over, the outcome is decided, or a member is hopeless."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from local_fusion.config.panels import MemberConfig
from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import CallEnded, ChoiceEnded, MemberFinished, Saved, TextDelta
from local_fusion.core.model import Choice, Emit, Reply, unheard
from local_fusion.core.records import Candidate
from local_fusion.errors import EngineDied, LocalFusionError, PanelFailed
from local_fusion.fusion.panel.polling import Put, ask_panel, poll
from local_fusion.fusion.panel.seats import Seat, seats_of
from local_fusion.fusion.session import Session
from local_fusion.simulation import clock
from tests.scripted import Heard, Scripted, asking, fusion

Result = TypeVar("Result")


@dataclass
class Timed(Scripted):
    """Its samples are whole after so many (virtual) seconds each; then it ends, or fails with `at_last`."""

    after: Sequence[float] = ()
    at_last: LocalFusionError | None = None
    ends_after: float = 0.0
    written: list[int] = field(default_factory=list)

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        self.requests.append(request)

        async def sample(index: int) -> Choice:
            await asyncio.sleep(self.after[index])
            choice = self._choice(request, index)
            emit(TextDelta(choice.text, index, 1))
            emit(ChoiceEnded(index, choice))
            self.written.append(index)
            return choice

        try:
            choices = await asyncio.gather(*(sample(index) for index in range(request.samples)))
            await asyncio.sleep(self.ends_after)
            if self.at_last is not None:
                raise self.at_last
        except asyncio.CancelledError:
            self.cancelled += 1
            emit(CallEnded(self._call(request, len(self.written), "cancelled")))
            raise
        call = self._call(request, len(choices), None)
        emit(CallEnded(call))
        return Reply(tuple(choices), (call,))


def session(models: Sequence[Scripted], heard: Heard | None = None, **config: Any) -> Session:
    config = {"strategy": "vote", "extract": "number", **config}
    built = fusion(models, f=config)["f"]
    return Session("f", built.config, asking(), built.resolve, {}, heard or Heard())


def ids(candidates: Sequence[Candidate]) -> list[str]:
    return [candidate.id for candidate in candidates]


async def ask(models: Sequence[Scripted], put: Put, **config: Any) -> tuple[Session, list[Candidate], float]:
    """The session, its candidates, and how long it took."""
    made = session(models, **config)
    began = made.now()
    return made, await ask_panel(made, put), made.now() - began


VERBATIM = Put(verbatim=True)


def test_members_later_than_grace_after_the_quorum_are_given_up_and_counted() -> None:
    quick, slow = Timed("quick", ["1"], after=[2]), Timed("slow", ["2", "3"], after=[9, 9])
    panel = ["quick", {"model": "slow", "samples": 2}]
    made, candidates, seconds = clock.run(ask([quick, slow], VERBATIM, panel=panel, quorum=1, grace_seconds=3))
    assert ids(candidates) == ["c1"]
    assert seconds == 5
    assert slow.cancelled == 1
    (saving,) = made.savings
    assert (saving.kind, saving.samples) == ("straggler", 2)
    assert "3 s later" in saving.reason
    assert made.failures == []
    assert [call.error for call in made.calls] == [None, "cancelled"]


def test_grace_begins_with_the_quorum_and_not_with_the_first_answer() -> None:
    models = [Timed("a", ["1"], after=[1]), Timed("b", ["1"], after=[20]), Timed("c", ["1"], after=[22])]
    made, candidates, _ = clock.run(ask(models, VERBATIM, panel=["a", "b", "c"], quorum=2, grace_seconds=3))
    assert ids(candidates) == ["c1", "c2", "c3"]
    assert made.savings == []


def test_samples_of_one_member_fill_the_quorum_while_others_of_it_are_still_written() -> None:
    model = Timed("a", ["1", "2", "3"], after=[1, 2, 50])
    panel = [{"model": "a", "samples": 3}]
    made, candidates, seconds = clock.run(ask([model], VERBATIM, panel=panel, quorum=2, grace_seconds=4))
    assert ids(candidates) == ["c1", "c2"]
    assert seconds == 6
    assert [saving.samples for saving in made.savings] == [1]


def test_without_grace_everybody_is_waited_for() -> None:
    models = [Timed("a", ["1"], after=[1]), Timed("b", ["1"], after=[500])]
    _, candidates, seconds = clock.run(ask(models, VERBATIM, panel=["a", "b"]))
    assert ids(candidates) == ["c1", "c2"]
    assert seconds == 500


def test_batch_requests_have_no_grace_because_their_engines_may_sleep_meanwhile() -> None:
    async def batch() -> int:
        made = session([quick, slow], panel=["quick", "slow"], grace_seconds=3)
        made.request = made.request.but(priority="batch")
        return len(await ask_panel(made, VERBATIM))

    quick, slow = Timed("quick", ["1"], after=[1]), Timed("slow", ["1"], after=[99])
    assert clock.run(batch()) == 2


def test_a_saving_does_not_count_what_failed_by_itself() -> None:
    """One sample came back empty, one member died: neither was saved."""
    a = Timed("a", ["1", ""], after=[1, 1])
    b = Timed("b", ["1"], after=[1], at_last=EngineDied("gone"), ends_after=0.0)
    b.texts = [""]
    c = Timed("c", ["1", "1"], after=[2, 99])
    panel = [{"model": "a", "samples": 2}, "b", {"model": "c", "samples": 2}]
    made, candidates, _ = clock.run(ask([a, b, c], VERBATIM, panel=panel, quorum=1, grace_seconds=5))
    assert ids(candidates) == ["c1", "c4"]
    assert [(saving.kind, saving.samples) for saving in made.savings] == [("straggler", 1)]


def test_finished_samples_of_a_member_that_dies_later_are_kept_and_its_failure_is_told() -> None:
    heard = Heard()

    async def run() -> tuple[Session, list[Candidate]]:
        made = session([a], heard, panel=[{"model": "a", "samples": 2}])
        return made, await ask_panel(made, VERBATIM)

    a = Timed("a", ["1", "2"], after=[1, 2], at_last=EngineDied("it died"))
    made, candidates = clock.run(run())
    assert ids(candidates) == ["c1", "c2"]
    assert [(failure.member, failure.message) for failure in made.failures] == [("a", "it died")]
    (finished,) = heard.of(MemberFinished)
    assert ids(finished.candidates) == ["c1", "c2"]


def test_finished_samples_of_a_member_that_runs_into_its_deadline_are_kept() -> None:
    a = Timed("a", ["1", "2"], after=[1, 100])
    panel = [{"model": "a", "samples": 2}]
    made, candidates, seconds = clock.run(ask([a], VERBATIM, panel=panel, deadlines={"panel": 30}))
    assert ids(candidates) == ["c1"]
    assert seconds == 30
    assert [failure.code for failure in made.failures] == ["deadline_exceeded"]


def test_a_quorum_that_is_missed_by_a_death_is_a_failure_that_names_it() -> None:
    a, b = Timed("a", ["1"], after=[1]), Scripted("b", error=EngineDied("gone"))
    with pytest.raises(PanelFailed, match=r"only 1 of the 2 candidates needed came back \(b: gone\)"):
        clock.run(ask([a, b], VERBATIM, panel=["a", "b"], quorum=2))


def test_enough_stops_everybody_and_counts_what_was_not_written() -> None:
    def two_agree(candidates: Sequence[Candidate]) -> str | None:
        texts = [candidate.text for candidate in candidates]
        return "two agree" if len(texts) - len(set(texts)) else None

    a = Timed("a", ["1", "2", "1", "3"], after=[1, 2, 3, 60])
    b = Timed("b", ["4"], after=[70])
    heard = Heard()

    async def run() -> tuple[Session, list[Candidate], float]:
        made = session([a, b], heard, panel=[{"model": "a", "samples": 4}, "b"])
        return made, await ask_panel(made, Put(verbatim=True, enough=two_agree)), made.now()

    made, candidates, seconds = clock.run(run())
    assert ids(candidates) == ["c1", "c2", "c3"]
    assert seconds == 3
    assert (a.cancelled, b.cancelled) == (1, 1)
    assert [(each.saving.kind, each.saving.samples, each.saving.reason) for each in heard.of(Saved)] == [
        ("decided", 2, "two agree")
    ]
    assert [saving.kind for saving in made.savings] == ["decided"]


def test_enough_sees_candidates_in_order_of_arrival_and_they_are_returned_in_panel_order() -> None:
    seen: list[list[str]] = []

    def never(candidates: Sequence[Candidate]) -> None:
        seen.append(ids(candidates))

    models = [Timed("a", ["1"], after=[5]), Timed("b", ["2"], after=[1]), Timed("c", ["3"], after=[3])]
    _, candidates, _ = clock.run(ask(models, Put(verbatim=True, enough=never), panel=["a", "b", "c"]))
    assert seen == [["c2"], ["c2", "c3"], ["c2", "c3", "c1"]]
    assert ids(candidates) == ["c1", "c2", "c3"]


def test_nothing_is_saved_where_all_was_written_when_it_was_decided() -> None:
    a = Timed("a", ["1"], after=[1], ends_after=10)

    def one(candidates: Sequence[Candidate]) -> str:
        return "one is enough"

    made, candidates, seconds = clock.run(ask([a], Put(verbatim=True, enough=one), panel=["a"]))
    assert ids(candidates) == ["c1"]
    assert seconds == 1
    assert made.savings == []


def test_watch_cuts_one_member_short_and_leaves_the_others() -> None:
    def hopeless(seat: Seat, delta: TextDelta) -> str | None:
        return "it is guessing" if delta.text == "guess" else None

    a = Timed("a", ["guess", "2"], after=[1, 50])
    b = Timed("b", ["1"], after=[5])
    panel = [{"model": "a", "samples": 2}, "b"]
    made, candidates, seconds = clock.run(ask([a, b], Put(verbatim=True, watch=hopeless), panel=panel))
    assert ids(candidates)[-1] == "c3"
    assert seconds == 5
    assert a.cancelled == 1
    (saving,) = made.savings
    assert (saving.kind, saving.reason) == ("hopeless", "it is guessing")
    assert made.failures == []


def test_what_was_cut_short_is_not_counted_once_more_when_the_rest_is_decided() -> None:
    def hopeless(seat: Seat, delta: TextDelta) -> str | None:
        return "it is guessing" if seat.label == "a" else None

    def one(candidates: Sequence[Candidate]) -> str | None:
        return "decided" if any(candidate.member == "b" for candidate in candidates) else None

    a = Timed("a", ["1", "2", "3"], after=[1, 50, 50])
    models = [a, Timed("b", ["1"], after=[5]), Timed("c", ["1"], after=[50])]
    panel = [{"model": "a", "samples": 3}, "b", "c"]
    made, _, _ = clock.run(ask(models, Put(verbatim=True, enough=one, watch=hopeless), panel=panel))
    assert [(saving.kind, saving.samples) for saving in made.savings] == [("hopeless", 2), ("decided", 1)]


def test_a_member_may_be_asked_in_parts_whose_candidates_have_their_own_numbers_and_seeds() -> None:
    model = Scripted("a", ["1", "2"])

    async def run() -> tuple[list[str], list[str]]:
        made = session([model], panel=[{"model": "a", "samples": 5, "seed": 7}])
        (seat,) = seats_of(made.config.panel)
        first, _ = await poll(made, VERBATIM, [seat.part(0, 2)])
        second, _ = await poll(made, VERBATIM, [seat.part(2, 3)])
        return ids(first), ids(second)

    assert clock.run(run()) == (["c1", "c2"], ["c3", "c4", "c5"])
    assert [(request.samples, request.sampling.seed) for request in model.requests] == [(2, 7), (3, 9)]


def test_a_part_of_a_part_counts_from_where_the_part_begins() -> None:
    (seat,) = seats_of([MemberConfig(model="a", samples=9)])
    part = seat.part(2, 6).part(3, 2)
    assert (part.first, part.samples, part.offset) == (6, 2, 5)


def test_cancelling_while_grace_runs_leaves_nothing_running() -> None:
    quick, slow = Timed("quick", ["1"], after=[1]), Timed("slow", ["1"], after=[99])

    async def run() -> int:
        task = asyncio.ensure_future(ask([quick, slow], VERBATIM, panel=["quick", "slow"], grace_seconds=10))
        await asyncio.sleep(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(asyncio.all_tasks())

    assert clock.run(run()) == 1
    assert slow.cancelled == 1
