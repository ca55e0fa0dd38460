"""`evolve`: candidates are criticised, improved and combined, the best stay, and the best of all is returned."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import CallEnded, StageStarted
from local_fusion.core.model import Emit, Reply, unheard
from local_fusion.core.records import CallRecord, Usage
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineDied, PanelFailed
from tests.scripted import Heard, Scripted, asking, fusion

ANSWER = re.compile(r'<answer id="\d">\n(.*?)\n</answer>', re.DOTALL)


@dataclass
class Member(Scripted):
    """Answers with `start`; of parents with numbers in them it breeds the sum of the larger one and 1."""

    start: str = "1"
    barren: bool = False
    speechless: bool = False

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        self.texts = [self._text(request)]
        self.error = None
        if (self.barren and self.is_child(request)) or (self.speechless and self.is_critique(request)):
            self.error = EngineDied(f"{self.name} is gone")
        return await super().answer(request, emit)

    def _text(self, request: ChatRequest) -> str:
        if self.is_critique(request):
            return "It should be larger."
        if self.is_child(request):
            return str(1 + max(int(text) for text in ANSWER.findall(request.messages[-1].content)))
        return self.start

    @staticmethod
    def is_critique(request: ChatRequest) -> bool:
        return "<answer>" in request.messages[-1].content

    @staticmethod
    def is_child(request: ChatRequest) -> bool:
        return '<answer id="1">' in request.messages[-1].content

    @property
    def critiques(self) -> list[str]:
        return [request.messages[-1].content for request in self.requests if self.is_critique(request)]

    @property
    def children(self) -> list[ChatRequest]:
        return [request for request in self.requests if self.is_child(request)]


@dataclass
class Judge(Scripted):
    """Likes larger numbers: as a pointwise judge up to `top`, in pairs always. `fails_at`: from that weighing on."""

    top: int = 9
    fails_at: int | None = None

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> Mapping[str, float]:
        prompt = request.messages[-1].content
        if self.fails_at is not None and len(self.weighed) >= self.fails_at:
            raise EngineDied(f"{self.name} is gone")
        self.weighed.append(prompt)
        emit(CallEnded(CallRecord("judge", self.name, Usage(1, 1), 0.0)))
        numbers = [int(found) for found in re.findall(r"<answer\w*>\n(\d+)\n", prompt)]
        if len(labels) == 2:
            first, second = numbers
            return {labels[0]: float(first > second), labels[1]: float(first <= second)}
        liked = min(numbers[0] / self.top, 1.0)
        return dict.fromkeys(labels, 0.0) | {labels[0]: 1 - liked, labels[-1]: liked}


async def evolved(
    *models: Scripted, request: ChatRequest | None = None, judge: Any = None, **options: Any
) -> tuple[Reply, Heard]:
    members = [model.name for model in models if isinstance(model, Member)]
    judges = [model.name for model in models if isinstance(model, Judge)]
    options = {
        "strategy": "evolve",
        "panel": members,
        "judge": judge or {"kind": "pointwise", "model": judges[0]},
        "islands": 1,
        "population": 2,
        "generations": 3,
        **options,
    }
    heard = Heard()
    reply = await fusion(models, f=options)["f"].answer(request or asking(sampling=Sampling(seed=7)), heard)
    assert heard.text == reply.choices[0].text
    return reply, heard


async def test_the_best_of_all_generations_is_returned_verbatim() -> None:
    a, b, judge = Member("a", start="1"), Member("b", start="2"), Judge("judge", top=100)
    reply, _ = await evolved(a, b, judge)
    assert reply.choices[0].text == "5", "three generations, each one larger than the best before"
    assert reply.report is not None
    assert len(reply.report.candidates) == 2 + 3 * 2
    winner = next(each for each in reply.report.candidates if each.text == "5")
    assert reply.report.verdict is not None
    assert reply.report.verdict.winner == winner.id
    assert reply.report.verdict.absolute
    assert reply.report.verdict.reason == "the best of the first generation and 6 children in 3 generations"
    assert (reply.report.notes, reply.report.partial) == ((), False)


async def test_an_author_sees_its_parents_with_what_the_critic_found_behind_the_untouched_conversation() -> None:
    a, b, judge = Member("a", start="1"), Member("b", start="2"), Judge("judge", top=100)
    await evolved(a, b, judge, generations=1, request=asking("Name a large number."))
    for request in (*a.children, *b.children):
        content = request.messages[-1].content
        assert content.startswith("Name a large number.\n\n")
        parents = ANSWER.findall(content)
        assert content.count("It should be larger.") == len(parents) in (1, 2)
        assert not re.search(r"\b[ab]\b judge", content)
    (critique,) = [text for text in a.critiques if "<answer>\n1\n</answer>" in text] or [b.critiques[0]]
    assert critique.startswith("Name a large number.\n\n")


async def test_members_write_children_in_turn_as_often_as_they_have_samples_each_with_a_seed_of_its_own() -> None:
    a, b, judge = Member("a", start="1"), Member("b", start="2"), Judge("judge", top=100)
    panel = [{"model": "a", "samples": 2}, {"model": "b"}]
    await evolved(a, b, judge, panel=panel, population=3, tournament=2, generations=2)
    assert (len(a.children), len(b.children)) == (4, 2)
    seeds = [request.sampling.seed for request in (*a.children, *b.children)]
    assert len(set(seeds)) == len(seeds)


async def test_the_same_seed_searches_in_the_same_way_and_another_seed_in_another() -> None:
    def shown(seed: int) -> list[str]:
        a, b, judge = Member("a", start="1"), Member("b", start="2"), Judge("judge", top=100)
        c = Member("c", start="3")
        asyncio.run(one(a, b, c, judge, seed))
        return [request.messages[-1].content for member in (a, b, c) for request in member.requests]

    async def one(*parts: Any) -> None:
        *models, seed = parts
        await evolved(*models, request=asking(sampling=Sampling(seed=seed)), population=3, generations=4)

    first, again, other = await asyncio.gather(*(asyncio.to_thread(shown, seed) for seed in (1, 1, 2)))
    assert first == again
    assert first != other


async def test_all_critics_work_at_the_same_time_then_all_authors_then_the_judge() -> None:
    a, b, judge = Member("a", start="1"), Member("b", start="2"), Judge("judge", top=100)
    _, heard = await evolved(a, b, judge, islands=2, generations=2)
    stages = [(event.stage, event.round) for event in heard.of(StageStarted) if event.stage != "judge"]
    assert stages == [("panel", 1), ("synthesis", 2), ("panel", 2), ("synthesis", 3), ("panel", 3)]


async def test_a_parent_is_criticised_once_however_many_children_and_generations_it_has() -> None:
    a, critic, judge = Member("a", start="5"), Member("critic"), Judge("judge", top=9)
    a._text = lambda request: "5" if not Member.is_child(request) else str(len(a.children) % 5)  # type: ignore[method-assign]
    await evolved(a, critic, judge, panel=[{"model": "a", "samples": 2}], critic="critic", generations=4)
    assert len(critic.critiques) == len(set(critic.critiques))
    assert not a.critiques


async def test_with_an_absolute_judge_every_candidate_is_judged_once() -> None:
    a, b, judge = Member("a", start="1"), Member("b", start="2"), Judge("judge", top=100)
    reply, _ = await evolved(a, b, judge, islands=2, migrate_every=1)
    assert reply.report is not None
    assert len(judge.weighed) <= len(reply.report.candidates)


async def test_with_a_comparing_judge_children_are_compared_with_those_that_stayed() -> None:
    a, b, judge = Member("a", start="1"), Member("b", start="2"), Judge("judge")
    reply, _ = await evolved(a, b, judge, judge="judge", generations=2)
    assert reply.choices[0].text == "4"
    assert reply.report is not None
    assert reply.report.verdict is not None
    assert not reply.report.verdict.absolute
    assert any("\n2\n" in prompt and "\n3\n" in prompt for prompt in judge.weighed)


async def test_the_search_ends_when_the_threshold_is_reached_and_what_was_not_written_is_counted() -> None:
    a, b, judge = Member("a", start="1"), Member("b", start="2"), Judge("judge", top=4)
    reply, _ = await evolved(a, b, judge, generations=10, threshold=1)
    assert reply.choices[0].text == "4"
    assert reply.report is not None
    (saving,) = reply.report.savings
    assert (saving.kind, saving.samples) == ("decided", 8 * 2)
    assert len(reply.report.candidates) == 2 + 2 * 2


def program(script: str, **options: Any) -> dict[str, Any]:
    return {"command": ["/bin/sh", "-c", script], **options}


async def test_the_search_ends_when_a_program_accepts_one_and_its_reasons_reach_the_critic() -> None:
    a, b = Member("a", start="1"), Member("b", start="2")
    check = program("read x; [ $x -ge 4 ] || { echo $x is below 4; exit 1; }")
    reply, _ = await evolved(a, b, judge=check, generations=10)
    assert reply.choices[0].text == "4"
    assert any("2 is below 4" in critique for critique in (*a.critiques, *b.critiques))
    assert reply.report is not None
    assert [saving.kind for saving in reply.report.savings] == ["decided"]


async def test_a_program_checks_every_candidate_once_and_no_parent_again_for_its_critic(tmp_path: Path) -> None:
    a, b = Member("a", start="1"), Member("b", start="2")
    log = tmp_path / "checked"
    reply, _ = await evolved(a, b, judge=program(f"read x; echo $x >> {log}; echo no: $x; exit 1"), generations=2)
    assert reply.report is not None
    assert len(log.read_text().split()) <= len(reply.report.candidates)
    assert any("no: 2" in critique for critique in (*a.critiques, *b.critiques))


async def test_what_a_rubric_judge_finds_reaches_the_critic_and_the_author_where_the_critic_fails() -> None:
    a, b, critic = Member("a", start="1"), Member("b", start="2"), Member("critic", speechless=True)
    judge = Scripted("judge", ['{"reason": "It lacks a proof.", "grades": [3]}'])
    rubric = {"kind": "rubric", "model": "judge", "criteria": ["right"]}
    await evolved(a, b, critic, judge, panel=["a", "b"], judge=rubric, critic="critic", generations=1)
    assert all("<remarks>\nIt lacks a proof.\n</remarks>" in critique for critique in critic.critiques)
    assert "It lacks a proof." in a.children[0].messages[-1].content


async def test_a_first_candidate_that_is_accepted_needs_no_search() -> None:
    a, b = Member("a", start="1"), Member("b", start="9")
    reply, _ = await evolved(a, b, judge=program("read x; [ $x -ge 4 ]"))
    assert reply.choices[0].text == "9"
    assert not a.critiques
    assert not a.children


async def test_the_best_of_an_island_visits_the_next_every_so_many_generations() -> None:
    def pools(migrate_every: int) -> Any:
        a, b, judge = Member("a", start="1"), Member("b", start="20"), Judge("judge")
        options: dict[str, Any] = {"islands": 2, "population": 2, "generations": 2, "migrate_every": migrate_every}
        return evolved(a, b, judge, judge="judge", **options), judge

    run, judge = pools(migrate_every=64)
    await run
    apart = [prompt for prompt in judge.weighed if "\n20\n" in prompt and re.search(r"\n[123]\n", prompt)]
    assert apart == [], "islands evolve apart"
    run, judge = pools(migrate_every=1)
    await run
    assert any("\n20\n" in prompt and re.search(r"\n[123]\n", prompt) for prompt in judge.weighed)


async def test_a_child_that_fails_costs_only_itself() -> None:
    a, b, judge = Member("a", start="1"), Member("b", start="2", barren=True), Judge("judge", top=100)
    reply, _ = await evolved(a, b, judge, generations=2)
    assert reply.choices[0].text == "4"
    assert reply.report is not None
    assert reply.report.partial
    assert {(failure.stage, failure.member) for failure in reply.report.failed} == {("panel", "b")}
    assert reply.report.notes == ()


async def test_a_generation_without_a_child_ends_the_search_with_the_best_so_far() -> None:
    a, b, judge = Member("a", start="1", barren=True), Member("b", start="2", barren=True), Judge("judge", top=100)
    reply, _ = await evolved(a, b, judge)
    assert reply.choices[0].text == "2"
    assert reply.report is not None
    assert reply.report.notes == ("the search ended early: generation 1 brought no child",)
    assert len(a.children) + len(b.children) == 2


async def test_a_critic_that_fails_costs_only_the_critique() -> None:
    a, b, judge = Member("a", start="1"), Member("b", start="2"), Judge("judge", top=100)
    critic = Member("critic", speechless=True)
    reply, _ = await evolved(a, b, critic, judge, panel=["a", "b"], critic="critic", generations=1)
    assert reply.choices[0].text == "3"
    assert "<critique" not in a.children[0].messages[-1].content
    assert reply.report is not None
    assert {(failure.stage, failure.member) for failure in reply.report.failed} == {("synthesis", "critic (critic)")}


async def test_where_nobody_can_judge_the_panels_first_candidate_stands_and_it_is_said() -> None:
    a, b, judge = Member("a", start="1"), Member("b", start="2"), Judge("judge", fails_at=0)
    reply, _ = await evolved(a, b, judge)
    assert reply.choices[0].text == "1"
    assert reply.report is not None
    assert reply.report.notes == ("nobody judged: c1 is simply the first candidate in panel order",)
    assert reply.report.partial
    assert not a.children


async def test_a_judge_that_fails_later_ends_the_search_with_the_best_so_far() -> None:
    a, b, judge = Member("a", start="1"), Member("b", start="2"), Judge("judge", top=100, fails_at=2)
    reply, _ = await evolved(a, b, judge)
    assert reply.choices[0].text == "2"
    assert reply.report is not None
    assert reply.report.notes == ("the search ended early: nobody judged generation 1",)


async def test_where_another_judge_takes_over_all_are_judged_again_by_it() -> None:
    a, b = Member("a", start="1"), Member("b", start="2")
    first, second = Judge("first", top=2, fails_at=2), Judge("second", top=100)
    judges = [{"kind": "pointwise", "model": "first"}, {"kind": "pointwise", "model": "second"}]
    reply, _ = await evolved(a, b, first, second, judge=judges, generations=1, threshold=None)
    assert reply.choices[0].text == "2", "the first judge finds it perfect"
    first, second = Judge("first", top=50, fails_at=2), Judge("second", top=100)
    reply, _ = await evolved(Member("a", start="1"), Member("b", start="20"), first, second, judge=judges)
    assert reply.choices[0].text == "23", "scores of two judges are not mixed"
    assert reply.report is not None
    assert reply.report.verdict is not None
    assert reply.report.verdict.judge == "second"


async def test_without_a_panel_the_fusion_fails_with_every_cause() -> None:
    a, b = Scripted("a", error=EngineDied("a is gone")), Scripted("b", error=EngineDied("b is gone"))
    with pytest.raises(PanelFailed, match=r"a: a is gone.*b: b is gone"):
        await evolved(a, b, Judge("judge"), panel=["a", "b"])


async def test_a_member_that_had_no_candidate_writes_no_children() -> None:
    a, b = Member("a", start="1"), Scripted("b", error=EngineDied("b is gone"))
    reply, _ = await evolved(a, b, Judge("judge", top=100), panel=["a", "b"])
    assert len(b.requests) == 1
    assert reply.choices[0].text == "4"


async def test_the_clients_limits_bind_every_child_and_the_critic_has_its_own() -> None:
    a, b, judge = Member("a", start="1"), Member("b", start="2"), Judge("judge", top=100)
    form = {"type": "json_object"}
    await evolved(a, b, judge, request=asking(sampling=Sampling(max_tokens=9, stop="END"), response_format=form))
    for request in (*a.children, *b.children):
        assert (request.sampling.max_tokens, request.sampling.stop, request.response_format) == (9, "END", form)
    for request in (each for each in a.requests if Member.is_critique(each)):
        assert (request.sampling.stop, request.response_format, request.sampling.temperature) == (None, None, 0)


async def test_every_call_is_counted() -> None:
    a, b, judge = Member("a", start="1"), Member("b", start="2"), Judge("judge", top=100)
    reply, _ = await evolved(a, b, judge)
    assert len(reply.calls) == len(a.requests) + len(b.requests) + len(judge.weighed)


async def test_parents_too_long_for_an_author_are_cut() -> None:
    long = "1" + " 0" * 300
    a, b, judge = Scripted("a", texts=[long], limit=400), Scripted("b", texts=["2" * 9], limit=400), Judge("judge")
    asked = asking(sampling=Sampling(max_tokens=350, seed=7))
    reply, _ = await evolved(a, b, judge, panel=["a", "b"], judge=program("exit 1"), generations=1, request=asked)
    assert reply.report is not None
    assert any(trim.reader == "a" for trim in reply.report.trims)
    children = [asked for model in (a, b) for asked in model.requests if Member.is_child(asked)]
    assert children
    for asked in children:
        assert (await a.measure(asked)).tokens + (asked.sampling.max_tokens or 0) <= 400


@pytest.mark.parametrize("when", ["critic", "author"])
async def test_cancelled_it_leaves_nothing_running(when: str) -> None:
    a, b, judge = Member("a", start="1"), Member("b", start="2"), Judge("judge", top=100)
    reached = asyncio.Event()
    text = a._text

    def hang(request: ChatRequest) -> str:
        if Member.is_critique(request) if when == "critic" else Member.is_child(request):
            b.hangs = a.hangs = True
            reached.set()
        return text(request)

    a._text = b._text = hang  # type: ignore[method-assign]
    task = asyncio.create_task(evolved(a, b, judge))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert a.cancelled + b.cancelled > 0
    assert len(asyncio.all_tasks()) == 1
