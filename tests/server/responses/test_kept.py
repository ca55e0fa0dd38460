"""Responses that were kept: fetched, listed, deleted, gone on from; and what is not kept."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from local_fusion.config.schema import Config
from local_fusion.core.chat import Message
from local_fusion.core.model import Choice
from local_fusion.server.guard.keys import hash_of, new_key
from tests.engines.waiting import eventually
from tests.scripted import Scripted
from tests.server.controlled import Asking, Exchange, app_over
from tests.server.responses.panels import PATH, Server, events_of, server

HELLO = Choice("Hello!")


async def erased(asked: Server, name: str) -> Exchange:
    exchange = Exchange(asked.asking.app, "DELETE", f"{PATH}/{name}")
    await exchange.task
    return exchange


def settled(asked: Server, **responses: Any) -> Server:
    """The same server with other options of what it keeps."""
    config = asked.runtime.config.model_dump(exclude_unset=True)
    config["server"] = {"responses": responses}
    runtime = replace(asked.runtime, config=Config.model_validate(config))
    return Server(runtime, asked.models, Asking(app_over(runtime)))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["one", "a"])
async def test_a_response_is_kept_and_comes_back_as_it_was(model: str, stream: bool) -> None:
    asked = server(HELLO)
    exchange = await asked.ask("Hi", model, stream=stream, metadata={"a": "b"})
    made = events_of(exchange.text)[-1]["response"] if stream else exchange.json()
    assert made["store"] is True
    kept = await asked.asking.get(f"{PATH}/{made['id']}")
    assert (kept.status, kept.json()) == (200, made)


async def test_it_is_there_after_a_restart() -> None:
    made = await server(HELLO).said("Hi")
    again = server(HELLO)
    assert (await again.asking.get(f"{PATH}/{made['id']}")).json() == made
    assert (await again.said("Why?", previous_response_id=made["id"]))["previous_response_id"] == made["id"]


async def test_a_conversation_goes_on_from_it_without_its_instructions() -> None:
    asked = server(HELLO)
    first = await asked.said("Hi", instructions="Rhyme.")
    second = await asked.said("Why?", instructions="Be brief.", previous_response_id=first["id"])
    await asked.said("And?", previous_response_id=second["id"])
    assert asked.models["a"].requests[1].messages == (
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "Hello!"),
        Message("user", "Why?"),
    )
    assert [message.content for message in asked.models["a"].requests[2].messages] == [
        "Hi",
        "Hello!",
        "Why?",
        "Hello!",
        "And?",
    ]


async def test_an_item_is_referred_to_by_its_id() -> None:
    asked = server(HELLO)
    first = await asked.said("Hi")
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    await asked.said([{"role": "user", "content": "Hi"}, reference, {"role": "user", "content": "Why?"}])
    assert asked.models["a"].requests[1].messages[1] == Message("assistant", "Hello!")
    await asked.said([{"id": first["output"][0]["id"]}, {"role": "user", "content": "Why?"}])
    assert asked.models["a"].requests[2].messages[0] == Message("assistant", "Hello!")


async def test_what_was_not_kept_is_not_there() -> None:
    asked = server(HELLO)
    made = await asked.said("Hi", store=False)
    assert made["store"] is False
    assert (await asked.asking.get(f"{PATH}/{made['id']}")).status == 404
    again = await asked.ask("Why?", previous_response_id=made["id"])
    assert (again.status, again.json()["error"]["code"]) == (400, "previous_response_not_found")
    assert "send the whole conversation" in again.json()["error"]["message"]


async def test_a_server_may_keep_nothing(kept_in: Path) -> None:
    asked = settled(server(HELLO), store=False)
    assert (await asked.said("Hi"))["store"] is False
    refused = await asked.ask("Hi", store=True)
    assert (refused.status, refused.json()["error"]["param"]) == (400, "store")
    assert not kept_in.exists()


async def test_limits_of_the_configuration_hold() -> None:
    asked = settled(server(HELLO), max_bytes=1)
    made = await asked.said("Hi")
    assert made["store"] is False
    assert (await asked.asking.get(f"{PATH}/{made['id']}")).status == 404


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_cannot_be_kept_is_given_and_says_so(
    kept_in: Path, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    kept_in.write_text("a file in the way")
    exchange = await server(HELLO).ask("Hi", stream=stream)
    made = events_of(exchange.text)[-1]["response"] if stream else exchange.json()
    assert (made["status"], made["store"]) == ("completed", False)
    assert "is not kept" in caplog.text
    assert "Hello!" not in caplog.text


async def test_input_is_listed_page_by_page() -> None:
    asked = server(HELLO)
    first = await asked.said([{"role": "user", "content": f"question {number}"} for number in range(3)])
    second = await asked.said("Why?", previous_response_id=first["id"])

    async def listed(query: str = "", name: str = second["id"]) -> Any:
        return (await asked.asking.get(f"{PATH}/{name}/input_items{query}")).json()

    everything = await listed("?order=asc")
    assert everything["object"] == "list"
    assert [item["content"][0]["text"] for item in everything["data"]] == [
        "question 0",
        "question 1",
        "question 2",
        "Hello!",
        "Why?",
    ]
    ids = [item["id"] for item in everything["data"]]
    assert (everything["first_id"], everything["last_id"], everything["has_more"]) == (ids[0], ids[-1], False)
    assert [item["id"] for item in (await listed())["data"]] == ids[::-1]
    page = await listed(f"?order=asc&limit=2&after={ids[0]}")
    assert ([item["id"] for item in page["data"]], page["has_more"]) == (ids[1:3], True)
    page = await listed(f"?limit=2&after={ids[1]}&include[]=message.input_image.image_url")
    assert ([item["id"] for item in page["data"]], page["has_more"]) == ([ids[0]], False)
    assert (await listed(f"?after={ids[0]}"))["data"] == []
    assert [item["id"] for item in (await listed(name=first["id"]))["data"]] == ids[2::-1]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("order=up", "order"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("limit=²", "limit"),
        ("after=nobody", "after"),
        ("include=everything", "include[0]"),
    ],
)
async def test_a_page_that_is_none_is_told(query: str, param: str) -> None:
    asked = server(HELLO)
    made = await asked.said("Hi")
    answer = await asked.asking.get(f"{PATH}/{made['id']}/input_items?{query}")
    assert (answer.status, answer.json()["error"]["param"]) == (400, param)


async def test_what_is_deleted_is_gone() -> None:
    asked = server(HELLO)
    made = await asked.said("Hi")
    done = await erased(asked, made["id"])
    assert (done.status, done.json()) == (200, {"id": made["id"], "object": "response", "deleted": True})
    assert (await erased(asked, made["id"])).status == 404
    assert (await asked.asking.get(f"{PATH}/{made['id']}")).status == 404
    assert (await asked.asking.get(f"{PATH}/{made['id']}/input_items")).status == 404


async def test_what_is_over_is_not_cancelled_nor_streamed_again() -> None:
    asked = server(HELLO)
    made = await asked.said("Hi")
    cancelled = await asked.asking.post(f"{PATH}/{made['id']}/cancel")
    assert cancelled.status == 400
    assert "not made in the background" in cancelled.json()["error"]["message"]
    assert (await asked.asking.post(f"{PATH}/resp_of_nobody/cancel")).status == 404
    streamed = await asked.asking.get(f"{PATH}/{made['id']}?stream=true")
    assert (streamed.status, streamed.json()["error"]["param"]) == (400, "stream")


async def test_to_another_caller_it_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    asked = server(HELLO)
    keys = {name: new_key() for name in ("alice", "bob")}
    file = tmp_path / "keys.yaml"
    file.write_text(json.dumps({"keys": [{"name": name, "sha256": hash_of(keys[name].encode())} for name in keys]}))
    file.chmod(0o600)
    config = asked.runtime.config
    guarded = config.model_copy(update={"server": config.server.model_copy(update={"api_keys_file": str(file)})})
    app = app_over(replace(asked.runtime, config=guarded))

    async def by(name: str, method: str, path: str, body: Any = None) -> Exchange:
        said = {"authorization": f"Bearer {keys[name]}", "host": "127.0.0.1"}
        exchange = Exchange(app, method, path, json.dumps(body).encode(), said)
        await exchange.task
        return exchange

    made = (await by("alice", "POST", PATH, {"model": "one", "input": "Hi"})).json()
    there, not_there = f"{PATH}/{made['id']}", f"{PATH}/resp_{'0' * 24}"
    assert (await by("alice", "GET", there)).status == 200
    for suffix in ("", "/input_items"):
        hers, nobodys = await by("bob", "GET", there + suffix), await by("bob", "GET", not_there + suffix)
        assert hers.status == nobodys.status == 404
        assert hers.text.replace(made["id"], "") == nobodys.text.replace(f"resp_{'0' * 24}", "")
    assert (await by("bob", "DELETE", there)).status == 404
    going_on = {"model": "one", "input": "Why?", "previous_response_id": made["id"]}
    assert (await by("bob", "POST", PATH, going_on)).status == 400
    reference = {"type": "item_reference", "id": made["output"][0]["id"]}
    referring = {"model": "one", "input": [reference, {"role": "user", "content": "Why?"}]}
    assert (await by("bob", "POST", PATH, referring)).status == 400
    for body in (going_on, referring):
        assert (await by("alice", "POST", PATH, body)).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_takes_the_work_with_it_and_nothing_is_kept(kept_in: Path, stream: bool) -> None:
    asked = server(a=Scripted("a", hangs=True))
    body = f'{{"model": "one", "input": "Hi", "stream": {str(stream).lower()}}}'.encode()
    exchange = Exchange(asked.asking.app, "POST", PATH, body)
    await eventually(lambda: bool(asked.models["a"].requests))
    exchange.leave()
    await asyncio.wait_for(exchange.task, 1)
    assert asked.models["a"].cancelled == 1
    assert not kept_in.exists()


async def test_a_conversation_that_has_grown_larger_than_a_request_is_told() -> None:
    asked = server(HELLO)
    config = asked.runtime.config.model_dump(exclude_unset=True) | {"server": {"max_body_bytes": 2000}}
    runtime = replace(asked.runtime, config=Config.model_validate(config))
    small = Server(runtime, asked.models, Asking(app_over(runtime)))
    first = await small.said("x" * 1500)
    item = (await small.asking.get(f"{PATH}/{first['id']}/input_items")).json()["data"][0]
    for more in ({"given": "Why?", "previous_response_id": first["id"]}, {"given": [{"id": item["id"]}] * 30}):
        answer = await small.ask(**more)
        assert answer.status == 413
        assert "max_body_bytes" in answer.json()["error"]["message"]
    assert len(small.models["a"].requests) == 1


async def test_tokens_are_counted_of_all_that_would_be_read() -> None:
    asked = server(HELLO)
    first = await asked.said("one two three")
    counting = {"model": "a", "input": "four five", "previous_response_id": first["id"], "instructions": "Be brief."}
    counted = await asked.asking.post(f"{PATH}/input_tokens", counting)
    assert counted.json() == {"object": "response.input_tokens", "input_tokens": 3 + 1 + 2 + 2}
    assert len(asked.models["a"].requests) == 1
