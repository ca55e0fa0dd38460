"""Endpoints that ask each other in circles: how deep a request stands is told on, and ends somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from local_fusion.cli.remote import headers_here
from local_fusion.core.depth import depth_here
from tests.scripted import Scripted
from tests.server.guard.guarded import CHAT, MESSAGES, guarded

PATHS = [("/v1/chat/completions", CHAT), ("/v1/messages", MESSAGES)]


@pytest.mark.parametrize(("path", "body"), PATHS)
async def test_one_below_the_limit_is_let_in_and_one_beyond_refused(path: str, body: dict[str, object]) -> None:
    server = guarded(max_depth=2)
    for depth in ("0", "1", "2"):
        assert (await server.post(path, body, {"x-fusion-depth": depth})).status == 200
    answer = await server.post(path, body, {"x-fusion-depth": "3"})
    assert (answer.status, answer.error["code"]) == (400, "too_deep")
    assert "server.max_depth" in answer.error["message"]


async def test_a_program_of_a_fusion_may_ask_once_and_not_be_asked_for_in_its_turn() -> None:
    assert (await guarded().post("/v1/chat/completions", CHAT, {"x-fusion-depth": "1"})).status == 200
    assert (await guarded().post("/v1/chat/completions", CHAT, {"x-fusion-depth": "2"})).status == 400


async def test_how_deep_a_request_stands_reaches_whoever_works_for_it() -> None:
    server = guarded()
    await server.post("/v1/chat/completions", CHAT, {"x-fusion-depth": "1"})
    model = server.runtime.models["a"]
    assert isinstance(model, Scripted)
    assert [request.depth for request in model.requests] == [1]


@pytest.mark.parametrize("value", ["", "-1", "1.5", "one", "١", "99999", "1, 1"])
async def test_a_header_that_is_no_number_is_refused_by_name(value: str) -> None:
    answer = await guarded().post("/v1/chat/completions", CHAT, {"x-fusion-depth": value})
    assert (answer.status, answer.error["param"]) == (400, "X-Fusion-Depth")


async def test_two_of_them_are_refused() -> None:
    answer = await guarded().post("/v1/chat/completions", CHAT, [("x-fusion-depth", "0"), ("x-fusion-depth", "0")])
    assert answer.status == 400


@pytest.mark.parametrize(("text", "depth"), [("2", 2), ("", 0), ("x", 0), ("-1", 0), ("99999", 0)])
def test_a_program_knows_its_depth_from_the_environment(text: str, depth: int) -> None:
    assert depth_here({"LOCAL_FUSION_DEPTH": text}) == depth
    assert depth_here({}) == 0


def test_a_program_that_asks_a_server_says_its_key_and_how_deep_it_stands() -> None:
    environ = {"LOCAL_FUSION_API_KEY": " lf-x\n", "LOCAL_FUSION_DEPTH": "2"}
    assert headers_here(environ) == {"Authorization": "Bearer lf-x", "X-Fusion-Depth": "2"}
    assert headers_here({}) == {}


def test_asking_here_ends_in_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from local_fusion.cli.ask import AskOptions, run_ask
    from local_fusion.errors import TooDeep

    config = tmp_path / "c.yaml"
    config.write_text("models: {a: {source: x/y}}\nfusions: {one: {strategy: single, panel: [a]}}\n")
    monkeypatch.setenv("LOCAL_FUSION_DEPTH", "2")
    with pytest.raises(TooDeep, match="2 fusions stand above"):
        run_ask(AskOptions("hi", config, None, None, None, None, None, None, False))
