"""Who may do what: every route, every kind of caller, both dialects; and what is odd about a request."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from tests.server.controlled import app_over, controlled, overview
from tests.server.guard.guarded import CHAT, MESSAGES, Guarded, bearer, entry, guarded, keyed, with_options

STRANGERS: dict[str, dict[str, str]] = {
    "no key": {},
    "wrong key": bearer("wrong"),
    "wrong x-api-key": {"x-api-key": "lf-wrong"},
    "expired": bearer("expired"),
    "revoked": bearer("revoked"),
    "empty": {"authorization": "Bearer "},
    "basic": {"authorization": "Basic bGYtYWxpY2U6"},
    "no scheme": {"authorization": "lf-alice"},
    "of two people": {"authorization": "Bearer lf-alice", "x-api-key": "lf-root"},
}
OPEN = ("/health", "/ready")
ADMINS = re.compile(r"/admin|/metrics")
ENDLESS = {("GET", "/mcp")}  # for who may


def routes() -> list[tuple[str, str]]:
    """Every route that there is, with something in the place of each of its parameters."""
    app = app_over(controlled(overview("a"), one={"strategy": "single", "panel": ["a"]}))
    found = [
        (method, re.sub(r"\{[^}]*\}", "a", route.path))
        for route in app.routes
        if isinstance(route, Route)
        for method in sorted((route.methods or set()) - {"HEAD"})
    ]
    assert len(found) > 20
    return found


ROUTES = routes()


@pytest.fixture
def server(tmp_path: Path) -> Guarded:
    path = keyed(
        tmp_path,
        entry("alice"),
        entry("limited", models=["o*"]),
        entry("root", role="admin"),
        entry("expired", expires=datetime(2020, 1, 1, tzinfo=UTC)),
    )
    return guarded(path)


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("who", STRANGERS)
async def test_without_a_key_that_is_good_no_path_tells_anything(server: Guarded, who: str, dialect: str) -> None:
    headers = {**STRANGERS[who], **({"anthropic-version": "2023-06-01"} if dialect == "anthropic" else {})}
    for method, path in [*ROUTES, ("GET", "/"), ("GET", "/no/such/path"), ("DELETE", "/v1/models"), ("POST", "/mcp/x")]:
        answer = await server.call(method, path, {"model": "no such"}, headers)
        if path in OPEN:
            assert answer.status in (200, 503), path
            continue
        assert answer.status == 401, path
        assert answer.header("www-authenticate") == "Bearer"
        kind = "authentication_error" if dialect == "anthropic" or path.startswith("/v1/messages") else None
        told = answer.error["data"] if path == "/mcp" else answer.error
        assert told["type"] == ("invalid_request_error" if path == "/mcp" else kind or "invalid_request_error")
        assert told["code"] == "invalid_api_key"
        assert "with a valid API key only" in answer.error["message"]
        shown = answer.raw.decode() + str(answer.headers)
        assert not any(secret in shown for secret in ("lf-wrong", "lf-expired", "lf-alice", "bGYt"))


async def test_which_part_of_a_key_was_wrong_is_not_told(server: Guarded) -> None:
    told = {(await server.post("/v1/chat/completions", CHAT, headers)).raw for headers in STRANGERS.values()}
    assert len(told) == 1


@pytest.mark.parametrize("who", ["alice", "limited", "root"])
async def test_a_key_opens_all_paths_but_those_of_the_administrator(server: Guarded, who: str) -> None:
    for method, path in ROUTES:
        if (method, path) in ENDLESS:
            continue
        answer = await server.call(method, path, {}, bearer(who))
        if who != "root" and ADMINS.match(path):
            assert (answer.status, answer.error["code"]) == (403, "forbidden"), path
        else:
            assert answer.status not in (401, 403), (path, answer.raw)


async def test_what_is_not_there_is_the_administrators_to_know(server: Guarded) -> None:
    for path in ("/", "/internal", "/docs", "/v1/traces", "/v1/traces/x", "/healthz", "/health/x"):
        assert (await server.get(path, bearer("alice"))).status == 403
        assert (await server.get(path, bearer("root"))).status == 404


@pytest.mark.parametrize(
    "path",
    [
        "//admin/plan",
        "/admin//plan",
        "/admin/plan/",
        "/Admin/plan",
        "/admin",
        "/admin/../admin/plan",
        "/./admin/plan",
        "/v1/../admin/plan",
        "/v1/models/../../admin/plan",
        "/v1//../metrics",
        "/metrics/",
        "/metrics\n",
        "/admin/plan\n",
        "/health/../metrics",
        "/health\n",
        "/mcp/../metrics",
        "/session/../admin/plan",
        "/admin/plan;a",
        "/%61dmin/plan",
        "/admin%2fplan",
    ],
)
async def test_no_spelling_of_a_path_leads_a_user_to_what_is_the_administrators(server: Guarded, path: str) -> None:
    for headers in (bearer("alice"), {}):
        answer = await server.get(path, headers)
        assert answer.status in (401, 403, 404)
        assert b"placements" not in answer.raw
        assert b"local_fusion_" not in answer.raw


async def test_a_session_in_the_path_takes_nobody_further(server: Guarded) -> None:
    session = "/session/0123456789abcdef0123456789abcdef"
    assert (await server.get(f"{session}/v1/models")).status == 401
    assert (await server.get(f"{session}/v1/models", bearer("alice"))).status == 200
    assert (await server.get(f"{session}/v1/traces", bearer("alice"))).status == 403
    assert (await server.get(f"{session}/admin/plan", bearer("alice"))).status == 404


async def test_keys_are_shown_in_either_way(server: Guarded) -> None:
    for headers in (
        {"authorization": "Bearer lf-alice"},
        {"authorization": "bearer   lf-alice "},
        {"x-api-key": "lf-alice"},
        {"x-api-key": "lf-alice", "authorization": "Bearer lf-alice"},
        {"x-api-key": "lf-alice", "authorization": "Bearer sk-ant-of-the-vendor"},
    ):
        assert (await server.get("/v1/models", headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "Bearer lf-alice"), ("authorization", "Bearer lf-alice")],
        [("x-api-key", "lf-alice"), ("x-api-key", "lf-wrong")],
        [("authorization", "Bearer " + "lf-alice" * 100_000)],
        [("authorization", "Bearer lf-ключ")],
        [("authorization", "Bearer lf-alice\0")],
        [("authorization", "Bearer lf-alice,lf-root")],
        [("x-api-key", "lf-alice\xa0")],
        [("authorization", "Bearer" * 10_000)],
        [(f"x-{number}", "y") for number in range(10_000)],
    ],
)
async def test_odd_headers_open_nothing(server: Guarded, headers: list[tuple[str, str]]) -> None:
    assert (await server.get("/v1/models", headers)).status == 401
    assert (await guarded().get("/v1/models", headers)).status == 200


async def test_many_other_headers_do_no_harm_to_a_key(server: Guarded) -> None:
    many = [(f"x-{number}", "y") for number in range(10_000)]
    assert (await server.get("/v1/models", [*many, ("x-api-key", "lf-alice")])).status == 200


async def test_without_a_file_of_keys_whoever_reaches_the_server_may_do_anything() -> None:
    server = guarded()
    for path in ("/v1/models", "/metrics", "/admin/plan", "/ready"):
        assert (await server.get(path, bearer("whatever"))).status == 200
    assert "engines" in (await server.get("/ready")).json()


async def test_who_is_ready_is_for_the_administrator_and_whether_anybody_is_for_all(server: Guarded) -> None:
    assert set((await server.get("/ready")).json()) == {"ready", "reason"}
    assert set((await server.get("/ready", bearer("alice"))).json()) == {"ready", "reason"}
    assert "engines" in (await server.get("/ready", bearer("root"))).json()


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/messages", MESSAGES)])
@pytest.mark.parametrize("model", ["two", "a"])
async def test_a_model_that_a_key_may_not_ask_is_not_there(
    server: Guarded, path: str, body: dict[str, Any], model: str
) -> None:
    hidden = await server.post(path, {**body, "model": model}, bearer("limited"))
    nonsense = await server.post(path, {**body, "model": "zzz"}, bearer("limited"))
    assert hidden.status == nonsense.status == 404
    assert hidden.error["message"].replace(f"'{model}'", "'zzz'") == nonsense.error["message"]
    assert "one" in hidden.error["message"]
    assert (await server.post(path, body, bearer("limited"))).status == 200
    if model == "two":
        assert (await server.post(path, {**body, "model": model}, bearer("root"))).status == 200


async def test_a_model_that_a_key_may_not_ask_is_not_listed(server: Guarded) -> None:
    listed = (await server.get("/v1/models", bearer("limited"))).json()["data"]
    assert [each["id"] for each in listed] == ["one"]
    assert (await server.get("/v1/models/two", bearer("limited"))).status == 404
    assert (await server.get("/v1/models/one", bearer("limited"))).status == 200
    assert {each["id"] for each in (await server.get("/v1/models", bearer("alice"))).json()["data"]} == {
        *("one", "two", "a", "b")
    }


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
async def test_engines_that_a_key_may_not_ask_are_not_named_either(server: Guarded, path: str) -> None:
    answer = await server.post(path, {"model": "one", "prompt": "x"}, bearer("limited"))
    assert answer.status == 400
    assert "use one of the engines (this key may ask none)" in answer.error["message"]
    everything = await server.post(path, {"model": "one", "prompt": "x"}, bearer("alice"))
    assert "use one of a, b" in everything.error["message"]
    assert (await server.post(path, {"model": "b", "prompt": "x"}, bearer("limited"))).status == 404


@pytest.mark.parametrize(
    "fusion",
    [
        {"panel": ["b"]},
        {"panel": ["a", "b"], "strategy": "best_of", "judge": "a"},
        {"panel": ["a", "two"], "strategy": "best_of", "judge": "a"},
        {"panel": ["a", "a"], "strategy": "best_of", "judge": "b"},
        {"panel": ["bb"]},
    ],
)
async def test_changing_a_fusion_reaches_nobody_else_and_names_nobody(server: Guarded, fusion: Any) -> None:
    answer = await server.post("/v1/chat/completions", {**CHAT, "fusion": fusion}, bearer("limited"))
    assert answer.status == 400
    assert answer.error["param"].startswith("fusion.")
    message = answer.error["message"]
    for name in ("b", "two"):
        assert f"did you mean '{name}'" not in message
        assert not re.search(rf"models and fusions: .*\b{name}\b", message)
    allowed = {"panel": ["a", "a"], "strategy": "best_of", "judge": "a"}
    assert (
        await server.post("/v1/chat/completions", {**CHAT, "fusion": allowed}, bearer("limited"))
    ).status == 200  # with who is in the fusion anyway
    if fusion != {"panel": ["bb"]}:
        assert (await server.post("/v1/chat/completions", {**CHAT, "fusion": fusion}, bearer("alice"))).status == 200


async def test_a_preset_is_made_of_what_the_key_may_ask(server: Guarded) -> None:
    body = {**CHAT, "fusion": {"preset": "quality", "include": ["candidates"]}}
    told = (await server.post("/v1/chat/completions", body, bearer("limited"))).json()
    assert {each["model"] for each in told["fusion"]["candidates"]} == {"a"}
    told = (await server.post("/v1/chat/completions", body, bearer("alice"))).json()
    assert {each["model"] for each in told["fusion"]["candidates"]} == {"a", "b"}


@pytest.mark.parametrize("fusion", [{}, {"deadlines": {"panel": 60}}, {"preset": "quality"}])
async def test_openrouters_presets_are_made_of_what_the_key_may_ask_too(server: Guarded, fusion: Any) -> None:
    plugin = {"id": "fusion"} if "preset" in fusion else {"id": "fusion", "preset": "general-high"}
    told = {**fusion, "include": ["candidates"]}
    body = {**CHAT, "model": "openrouter/fusion", "plugins": [plugin], "fusion": told}
    limited = await server.post("/v1/chat/completions", body, bearer("limited"))
    assert {each["model"] for each in limited.json()["fusion"]["candidates"]} == {"a"}
    alice = await server.post("/v1/chat/completions", body, bearer("alice"))
    assert {each["model"] for each in alice.json()["fusion"]["candidates"]} == {"a", "b"}


async def test_without_its_panel_a_fusion_gives_nobody_away_who_is_in_it(server: Guarded) -> None:
    body = {**CHAT, "model": "openrouter/fusion", "plugins": [{"id": "fusion", "enabled": False}]}
    assert (await server.post("/v1/chat/completions", body, bearer("limited"))).status == 404
    assert (await server.post("/v1/chat/completions", body, bearer("alice"))).status == 200


async def test_keys_change_while_the_server_runs(tmp_path: Path) -> None:
    server = guarded(keyed(tmp_path, entry("alice")))
    assert (await server.get("/v1/models", bearer("alice"))).status == 200
    keyed(tmp_path, entry("bob"))
    server.access.refresh()
    assert (await server.get("/v1/models", bearer("alice"))).status == 401
    assert (await server.get("/v1/models", bearer("bob"))).status == 200


async def test_another_file_of_keys_that_cannot_be_read_lets_nobody_in_who_was_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server, missing = guarded(keyed(tmp_path, entry("alice"))), tmp_path / "missing" / "keys.yaml"
    with_options(server.runtime, api_keys_file=str(missing))
    assert (await server.get("/v1/models")).status == 401
    assert (await server.get("/v1/models", bearer("alice"))).status == 200
    open_before = guarded()
    with_options(open_before.runtime, api_keys_file=str(missing))
    assert (await open_before.get("/v1/models")).status == 401
    assert (await open_before.get("/v1/models", bearer("alice"))).status == 401
    assert [record.message.rpartition("; ")[2] for record in caplog.records] == [
        "those so far hold until the configuration is loaded again",
        "nobody is let in until the configuration is loaded again",
    ]
    missing.parent.mkdir()
    keyed(missing.parent, entry("bob"))
    for each in (server, open_before):
        each.access.refresh()
        assert (await each.get("/v1/models", bearer("bob"))).status == 200
        assert (await each.get("/v1/models", bearer("alice"))).status == 401


async def test_web_sockets_are_closed_before_anybody_looks(server: Guarded) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    for target in (server, guarded()):
        sent.clear()
        await target.app({**target.scope("GET", "/v1/models"), "type": "websocket"}, receive, send)
        assert [message["type"] for message in sent] == ["websocket.close"]


async def test_no_key_is_in_a_fusions_trace(server: Guarded) -> None:
    body = {**CHAT, "fusion": {"include": ["trace", "candidates"]}, "user": "me"}
    answer = await server.post("/v1/chat/completions", body, bearer("alice"))
    assert answer.status == 200
    assert "lf-alice" not in json.dumps(answer.json())
