"""Web pages reach a server on this machine from any browser here: which may use it, and by which names it is called."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from local_fusion.config.server import ServerConfig
from tests.server.guard.guarded import CHAT, MESSAGES, bearer, entry, guarded, keyed

PATHS = ("/v1/models", "/health", "/ready", "/metrics", "/admin/engines", "/no/such/path")
PAGE = "https://chat.example.org"


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8000", "LOCALHOST:1", "127.0.0.1:8000", "127.0.0.2", "[::1]:8000", "[::1]", "localhost."],
)
async def test_a_server_on_loopback_answers_to_the_names_of_this_machine(host: str) -> None:
    assert (await guarded().get("/v1/models", {"host": host})).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "attacker.example:8000",
        "localhost.attacker.example",
        "127.0.0.1.attacker.example",
        "[::1].attacker.example:8000",
        "192.168.1.7:8000",
        "",
    ],
)
async def test_and_to_no_other_on_any_path(host: str) -> None:
    for path in PATHS:
        answer = await guarded().get(path, {"host": host})
        assert (answer.status, answer.error["code"]) == (403, "forbidden")
        assert "server.allowed_hosts" in answer.error["message"]


async def test_a_program_that_says_no_name_is_no_browser() -> None:
    assert (await guarded().get("/v1/models")).status == 200


async def test_names_can_be_allowed() -> None:
    server = guarded(allowed_hosts=["fusion.internal"])
    assert (await server.get("/v1/models", {"host": "Fusion.Internal:443"})).status == 200
    assert (await server.get("/v1/models", {"host": "localhost"})).status == 200
    assert (await server.get("/v1/models", {"host": "other.internal"})).status == 403


async def test_with_keys_a_page_that_has_none_gets_nowhere_so_names_do_not_matter(tmp_path: Path) -> None:
    server = guarded(keyed(tmp_path, entry("alice")))
    assert (await server.get("/v1/models", {"host": "rig.lan", **bearer("alice")})).status == 200
    assert (await server.get("/v1/models", {"host": "rig.lan"})).status == 401


async def test_several_names_are_none() -> None:
    answer = await guarded().get("/v1/models", [("host", "localhost"), ("host", "attacker.example")])
    assert answer.status == 400


@pytest.mark.parametrize(
    "origin", ["https://attacker.example", "null", "http://localhost:3000", "chrome-extension://abc"]
)
async def test_pages_of_others_are_refused_on_every_path_and_method(origin: str) -> None:
    server, headers = guarded(), {"host": "localhost:8000", "origin": origin}
    for path in PATHS:
        answer = await server.get(path, headers)
        assert (answer.status, answer.error["code"]) == (403, "forbidden")
        assert "server.cors_origins" in answer.error["message"]
        assert answer.header("access-control-allow-origin") is None
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/messages", MESSAGES), ("/admin/sleep", {"model": "a"})):
        assert (await server.post(path, body, headers)).status == 403
    assert (await server.call("OPTIONS", "/v1/models", headers=headers)).status == 403
    assert server.runtime.scheduler.done == []


async def test_the_servers_own_pages_are_not_of_others() -> None:
    headers = {"host": "localhost:8000", "origin": "http://localhost:8000"}
    assert (await guarded().get("/v1/models", headers)).status == 200


async def test_a_page_that_is_listed_may_and_is_told_so_with_every_answer(tmp_path: Path) -> None:
    server = guarded(keyed(tmp_path, entry("alice")), cors_origins=[PAGE])
    answer = await server.get("/v1/models", {"origin": PAGE, **bearer("alice")})
    assert (answer.status, answer.header("access-control-allow-origin")) == (200, PAGE)
    assert answer.header("vary") == "Origin"
    assert "X-Request-Id" in str(answer.header("access-control-expose-headers"))
    refused = await server.get("/v1/models", {"origin": PAGE})
    assert (refused.status, refused.header("access-control-allow-origin")) == (401, PAGE)
    other = await server.get("/v1/models", {"origin": "https://chat.example.org.attacker.example", **bearer("alice")})
    assert other.status == 403


async def test_a_browser_that_asks_first_is_told_without_a_key(tmp_path: Path) -> None:
    server = guarded(keyed(tmp_path, entry("alice")), cors_origins=[PAGE])
    asked = {
        "origin": PAGE,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
        "access-control-request-private-network": "true",
    }
    answer = await server.call("OPTIONS", "/v1/chat/completions", headers=asked)
    assert (answer.status, answer.raw) == (204, b"")
    assert answer.header("access-control-allow-origin") == PAGE
    assert answer.header("access-control-allow-headers") == "authorization,content-type,x-stainless-os"
    assert answer.header("access-control-allow-methods") == "GET, POST, DELETE"
    assert answer.header("access-control-allow-private-network") == "true"


async def test_any_page_may_where_a_star_says_so_but_control_engines() -> None:
    server, headers = guarded(cors_origins=["*"]), {"host": "localhost:8000", "origin": PAGE}
    assert (await server.get("/v1/models", headers)).header("access-control-allow-origin") == PAGE
    assert (await server.post("/admin/engines/a/sleep", None, headers)).status == 403
    listed = guarded(cors_origins=[PAGE])
    assert (await listed.post("/admin/engines/a/sleep", None, headers)).status == 200


async def test_several_origins_are_none() -> None:
    answer = await guarded(cors_origins=[PAGE]).get("/v1/models", [("origin", PAGE), ("origin", "https://x.example")])
    assert answer.status == 400


@pytest.mark.parametrize("origin", ["chat.example.org", "https://chat.example.org/", "https://CHAT.example.org", "**"])
def test_an_origin_is_written_as_browsers_send_it(origin: str) -> None:
    with pytest.raises(ValidationError):
        ServerConfig(cors_origins=[origin])
