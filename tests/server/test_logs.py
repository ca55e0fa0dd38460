"""The log: one line for each request, each line marked with its request, and nothing secret or forged in any."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any, Literal, cast

import pytest
from starlette.types import Receive, Scope, Send

from local_fusion.config.server import ServerConfig
from local_fusion.core.records import CallRecord, Usage
from local_fusion.server.context import Caller, context_in
from local_fusion.server.logs import Logged, set_up_logging
from tests.scripted import Scripted
from tests.server.controlled import Asking, Exchange, app_over, asking_of, controlled, overview

logger = logging.getLogger("local_fusion.tests")
BODY = {"model": "one", "messages": [{"role": "user", "content": "the question is secret"}]}


@pytest.fixture
def restored() -> Iterator[None]:
    """The loggers as they were, afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("local_fusion")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level = before[0], before[1]
    ours.setLevel(before[2])


class Log(io.StringIO):
    """What was logged."""

    @property
    def lines(self) -> list[str]:
        return self.getvalue().splitlines()

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


def logging_as(form: Literal["text", "json"], level: Literal["info", "warning", "debug"] = "info") -> Log:
    log = Log()
    set_up_logging(ServerConfig(log_format=form, log_level=level), log)
    return log


@pytest.fixture
def log(restored: None) -> Log:
    return logging_as("json")


@pytest.fixture
def text(restored: None) -> Log:
    return logging_as("text")


def asking() -> Asking:
    runtime = controlled(overview("a"), one={"strategy": "single", "panel": ["a"]})
    cast(Scripted, runtime.models["a"]).texts = ["the answer is secret"]
    return asking_of(runtime)


async def test_every_request_is_one_line_that_says_what_became_of_it(log: Log) -> None:
    headers = {"X-Client-Request-Id": "mine-1", "Authorization": "Bearer lf-secret"}
    answer = await asking().post("/v1/chat/completions?key=secret", BODY, headers)
    (line,) = log.entries
    seconds, at = line.pop("seconds"), line.pop("time")
    assert 0 <= seconds < 10
    assert at.endswith("Z")
    usage = answer.json()["usage"]
    assert line == {
        "level": "info",
        "logger": "local_fusion.access",
        "message": "POST /v1/chat/completions 200",
        "request_id": answer.headers["x-request-id"],
        "client_request_id": "mine-1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "model": "one",
        "dialect": "openai",
        "status": 200,
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "bytes": len(answer.text.encode()),
    }
    assert "secret" not in log.getvalue()


async def test_the_same_as_text(text: Log) -> None:
    answer = await asking().post("/v1/chat/completions", BODY)
    (line,) = text.lines
    assert " INFO local_fusion.access: POST /v1/chat/completions 200 " in line
    for told in (f"request_id={answer.headers['x-request-id']}", "model=one", "status=200", "dialect=openai"):
        assert f" {told}" in line
    assert "secret" not in line


async def test_requests_that_are_refused_are_logged_as_well(log: Log) -> None:
    ask = asking()
    await ask.get("/nothing/here")
    await ask.post("/v1/chat/completions", {**BODY, "model": "none"})
    await ask.post("/v1/messages", b"{", {"anthropic-version": "2023-06-01"})
    assert [(line["status"], line.get("model"), line["dialect"]) for line in log.entries] == [
        (404, None, "openai"),
        (404, None, "openai"),
        (400, None, "anthropic"),
    ]


async def test_a_client_that_leaves_is_told_of(log: Log) -> None:
    runtime = controlled(overview("a"), one={"strategy": "single", "panel": ["a"]})
    cast(Scripted, runtime.models["a"]).hangs = True
    app = app_over(runtime)
    for stream in (False, True):
        exchange = Exchange(app, "POST", "/v1/chat/completions", json.dumps({**BODY, "stream": stream}).encode())
        while not cast(Scripted, runtime.models["a"]).requests or (stream and not exchange.sent):
            await asyncio.sleep(0)
        exchange.leave()
        await exchange.task
    whole, streamed = log.entries
    assert whole["status"] == 499
    assert (streamed["status"], streamed["broken_off"]) == (200, True)


@pytest.mark.parametrize("form", ["text", "json"])
async def test_nothing_from_outside_can_forge_a_line(restored: None, form: Literal["text", "json"]) -> None:
    log = logging_as(form)
    forged = '/v1/x\n{"level": "error"}\r\x1b[2Jadmin logged in\u2028\u0085 status=200 "'
    await asking().get(forged)
    await asking().get("/" + "long" * 1000)
    await asking().post("/v1/chat/completions", {**BODY, "model": "x\ny"}, {"X-Client-Request-Id": "a\nb"})
    lines = log.getvalue().split("\n")
    assert len(lines) == 4, lines
    assert lines[-1] == ""
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) < 900
    assert "client_request_id" not in log.getvalue()
    if form == "text":  # what could pass for other fields stands in quotes
        bare = re.sub(r'"(\\.|[^"\\])*"', "", lines[0])
        assert '"' not in bare
        assert bare.count("status=") == 1


async def test_a_sessions_name_is_not_told(log: Log) -> None:
    name = "s" * 30
    await asking().get(f"/session/{name}/usage")
    await asking().get(f"/session/{name}/v1/nothing")
    assert [line["path"] for line in log.entries] == ["/session/…/usage", "/v1/nothing"]
    assert name not in log.getvalue()


async def test_whoever_asked_is_told_by_name_and_escaped(text: Log) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context = context_in(scope)
        context.caller = Caller("an na\n")
        context.usage += CallRecord("panel", "a", Usage(3, 4), 0.1).usage
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b"12345"})

    await Exchange(cast(Any, Logged(app)), "GET", "/").task
    (line,) = text.lines
    for told in ('caller="an na\\n"', "prompt_tokens=3", "completion_tokens=4", "bytes=5"):
        assert told in line


async def test_what_is_logged_for_a_request_bears_its_id_in_tasks_and_threads_too(log: Log) -> None:
    going = [asyncio.Event(), asyncio.Event()]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        number = int(scope["path"][1:])
        await asyncio.sleep(0)
        logger.warning("here %d", number)
        going[number].set()
        await going[1 - number].wait()  # both are at work now

        async def in_a_task() -> None:
            logger.warning("task %d", number)

        await asyncio.create_task(in_a_task())
        await asyncio.to_thread(logger.warning, "thread %d", number)

    exchanges = [Exchange(cast(Any, Logged(app)), "GET", f"/{number}") for number in (0, 1)]
    await asyncio.gather(*(exchange.task for exchange in exchanges))
    logger.warning("afterwards")
    ids = {line["message"]: line.get("request_id") for line in log.entries}
    for number in (0, 1):
        assert ids[f"here {number}"] == ids[f"task {number}"] == ids[f"thread {number}"] == ids[f"GET /{number} 499"]
        assert ids[f"here {number}"]
    assert ids["here 0"] != ids["here 1"]
    assert ids["afterwards"] is None


async def test_a_defect_leaves_its_traceback_under_the_requests_id(log: Log) -> None:
    runtime = controlled(overview("a"), one={"strategy": "single", "panel": ["a"]})

    def broken(_: Any) -> str:
        raise ArithmeticError("of ours")

    cast(Scripted, runtime.models["a"]).answers = broken
    ask = asking_of(runtime)
    streamed = await ask.post("/v1/chat/completions", {**BODY, "stream": True})
    told = [line for line in log.entries if "exception" in line]
    assert [line["request_id"] for line in told] == [streamed.headers["x-request-id"]]
    assert "ArithmeticError: of ours" in told[0]["exception"]
    whole = await ask.post("/v1/chat/completions", BODY)
    assert log.entries[-1]["status"] == whole.status == 500


def test_every_line_of_a_traceback_is_marked_as_one(text: Log) -> None:
    try:
        raise ValueError("first\n2026-01-01 ERROR root: forged\x1b[2J")
    except ValueError:
        logger.exception("failed: %s", "a\nb")
    first, *rest = text.lines
    assert first.endswith(r"failed: a\nb")
    assert rest
    assert all(line.startswith("  | ") and line.isprintable() for line in rest)
    assert any("forged\\x1b[2J" in line for line in rest)


async def test_below_the_level_nothing_is_written(restored: None) -> None:
    log = logging_as("json", "warning")
    await asking().post("/v1/chat/completions", BODY)
    assert log.lines == []
    logger.warning("told")
    assert [line["message"] for line in log.entries] == ["told"]


def test_libraries_are_heard_from_warnings_up(restored: None) -> None:
    log = logging_as("json", "debug")
    logging.getLogger("aiohttp.client").info("noise")
    logging.getLogger("aiohttp.client").warning("trouble")
    logger.debug("ours")
    assert [line["message"] for line in log.entries] == ["trouble", "ours"]


def test_a_log_that_nobody_reads_any_more_stops_nothing(restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    log = logging_as("text")
    log.close()
    logger.warning("into the void")
    assert capsys.readouterr() == ("", "")
