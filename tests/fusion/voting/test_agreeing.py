"""Who agrees, where comparing extracted answers does not tell: a verifier for code, a judge for free text."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from local_fusion.core.chat import ChatRequest
from local_fusion.core.model import FusionReport
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineDied
from tests.scripted import Scripted, asking, fusion

BAD, GOOD, ALSO = "```\nbad = 1\n```", "Here:\n```python\ngood = 1\n```", "```\ngood = 2\n```"
ACCEPTS_GOOD = "import sys; text = sys.stdin.read(); sys.exit(0 if 'good' in text else 1)"


async def outcome(
    texts: list[str], *others: Scripted, request: ChatRequest | None = None, **options: Any
) -> FusionReport:
    config = {"strategy": "vote", "panel": [{"model": "a", "samples": len(texts)}], **options}
    reply = await fusion([Scripted("a", texts), *others], f=config)["f"].answer(request or asking())
    assert reply.report is not None
    assert reply.report.verdict is not None
    return reply.report


def verifier(program: str, **options: Any) -> dict[str, Any]:
    return {"extract": "code", "verifier": {"command": [sys.executable, "-c", program], **options}}


class TestCode:
    async def test_all_code_that_the_verifier_accepts_is_one_answer(self) -> None:
        report = await outcome([BAD, BAD, GOOD, ALSO, BAD], **verifier(ACCEPTS_GOOD))
        assert report.verdict is not None
        assert report.verdict.votes == {"accepted by the verifier": ["c3", "c4"]}
        assert (report.verdict.winner, report.verdict.judge) == ("c3", "verifier")
        assert report.verdict.reason == "2 of 5 candidates are accepted"
        assert report.verdict.abstained == ("c1", "c2", "c5")

    async def test_the_same_code_is_verified_once(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        program = f"import sys; open({str(log)!r}, 'a').write(sys.stdin.read() + ';')"
        await outcome([GOOD, "```\ngood = 1  \n```", GOOD, BAD], **verifier(program))
        assert sorted(filter(None, log.read_text().split(";"))) == ["bad = 1", "good = 1"]

    async def test_where_none_is_accepted_identical_code_is_counted_and_it_is_said(self) -> None:
        report = await outcome([GOOD, BAD, BAD], **verifier("import sys; sys.exit(1)"))
        assert report.verdict is not None
        assert (report.verdict.winner, report.verdict.judge) == ("c2", "votes")
        assert "the verifier accepts no candidate" in report.notes[0]
        assert report.failed == ()

    async def test_a_verifier_that_errs_accepts_nothing_and_is_a_failure(self) -> None:
        program = "import sys; sys.exit(0 if 'good' in sys.stdin.read() else 3)"
        report = await outcome([BAD, BAD, GOOD], **verifier(program))
        assert report.verdict is not None
        assert report.verdict.winner == "c3"
        assert [(failure.stage, failure.member, failure.code) for failure in report.failed] == [
            ("judge", "c1", "verifier_failed")
        ]
        assert report.partial

    async def test_a_verifier_that_is_missing_leaves_a_vote_on_the_code(self) -> None:
        report = await outcome([BAD, GOOD, GOOD], extract="code", verifier={"command": ["/nowhere/verifier"]})
        assert report.verdict is not None
        assert report.verdict.winner == "c2"
        assert {failure.code for failure in report.failed} == {"verifier_failed"}


class Grouping(Scripted):
    """A judge that groups answers by their first word."""

    async def answer(self, request: ChatRequest, emit: Any = lambda event: None) -> Any:
        shown = re.findall(r'<answer id="(\d+)">\n(\S+)', request.messages[-1].content)
        groups: dict[str, list[int]] = {}
        for number, word in shown:
            groups.setdefault(word, []).append(int(number))
        self.texts = [json.dumps({"groups": list(groups.values())})]
        return await super().answer(request, emit)


FREE = ["yes of course", "no way", "yes sure", "maybe", "no way", "yes indeed"]
CLUSTER: dict[str, Any] = {"extract": "cluster", "judge": "judge"}


class TestClusters:
    async def test_the_largest_group_of_candidates_that_agree_wins(self) -> None:
        judge = Grouping("judge")
        report = await outcome(FREE, judge, **CLUSTER)
        assert report.verdict is not None
        assert (report.verdict.winner, report.verdict.judge) == ("c1", "judge")
        assert report.verdict.votes == {
            "c1: yes of course": ["c1", "c3", "c6"], "c2: no way": ["c2", "c5"], "c4: maybe": ["c4"],
        }  # fmt: skip

    async def test_texts_that_are_the_same_are_shown_once_and_all_count(self) -> None:
        judge = Grouping("judge")
        report = await outcome(["No way.", "yes", "no  way", "yes yes", "no way"], judge, **CLUSTER)
        assert len(re.findall("<answer id", judge.requests[0].messages[-1].content)) == 3
        assert report.verdict is not None
        assert report.verdict.winner == "c1"
        assert sorted(map(len, report.verdict.votes.values())) == [2, 3]

    async def test_texts_that_end_in_the_same_number_are_not_the_same(self) -> None:
        judge = Scripted("judge", ['{"groups": [[1], [2]]}'])
        report = await outcome(["It was Ada, in 1843.", "The answer is Grace, in 1843."], judge, **CLUSTER)
        assert report.verdict is not None
        assert sorted(report.verdict.votes.values()) == [["c1"], ["c2"]]
        assert report.verdict.judge == "judge"

    async def test_the_judge_is_asked_in_constrained_json_below_the_untouched_conversation(self) -> None:
        judge = Grouping("judge")
        await outcome(FREE, judge, **CLUSTER)
        (request,) = judge.requests
        assert request.response_format is not None
        assert request.sampling.temperature == 0
        assert request.sampling.max_tokens is not None
        assert request.messages[-1].content.startswith("What is 6 times 7?\n\n----\n")
        assert '"a"' not in request.messages[-1].content

    async def test_the_order_shown_follows_the_requests_seed(self) -> None:
        orders = []
        for seed in (1, 1, 2, 3):
            judge = Grouping("judge")
            await outcome(FREE, judge, request=asking(sampling=Sampling(seed=seed)), **CLUSTER)
            orders.append(judge.requests[0].messages[-1].content)
        assert orders[0] == orders[1]
        assert len(set(orders)) > 1

    async def test_candidates_that_are_all_the_same_need_no_judge(self) -> None:
        judge = Grouping("judge")
        report = await outcome(["Yes.", "yes", " yes"], judge, **CLUSTER)
        assert judge.requests == []
        assert [saving.kind for saving in report.savings] == ["agreed"]

    async def test_who_is_left_out_or_named_twice_is_in_one_group_only(self) -> None:
        judge = Scripted("judge", ['{"groups": [[1, 2, 99], [2, 1], []]}'])
        report = await outcome(["w", "x", "y", "z"], judge, **CLUSTER)
        assert report.verdict is not None
        assert sorted(len(voters) for voters in report.verdict.votes.values()) == [1, 1, 2]

    @pytest.mark.parametrize(
        "judge",
        [
            Scripted("judge", error=EngineDied("gone")),
            Scripted("judge", ["no JSON"]),
            Scripted("judge", ['{"groups": "all"}']),
            Scripted("judge", limit=10),
        ],
    )
    async def test_where_the_judge_fails_the_same_texts_are_counted_and_it_is_said(self, judge: Scripted) -> None:
        report = await outcome(FREE, judge, **CLUSTER)
        assert report.verdict is not None
        assert report.verdict.winner == "c2"
        assert [failure.stage for failure in report.failed] == ["judge"]
        assert "could not say which answers agree" in report.notes[0]

    async def test_the_judges_thinking_is_no_part_of_its_json(self) -> None:
        judge = Scripted("judge", ['<think>{"groups": []}</think>{"groups": [[1, 2, 3]]}'])
        report = await outcome(["x", "y", "z"], judge, **CLUSTER)
        assert report.verdict is not None
        assert len(report.verdict.votes) == 1

    async def test_a_cancelled_vote_takes_its_judge_with_it(self) -> None:
        judge = Scripted("judge", hangs=True)
        asked = asyncio.create_task(outcome(FREE, judge, **CLUSTER))
        while not judge.requests:
            await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert judge.cancelled == 1
