"""`ask --url`: a running server looks like engines of one's own, and what is wrong with it is told."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.cli.commands import Home
from tests.cli.turns import take_turns
from tests.fake_engine import Script

FUSIONS = {
    "vote": {"strategy": "vote", "extract": "number", "panel": [{"model": "a", "samples": 2}, "b"]},
    "broken": {"strategy": "single", "panel": ["b"]},
}


@pytest.fixture(scope="module")
def server(shared_home: Home) -> Iterator[str]:
    """A server whose engine `b` gives up in the middle of every longer answer."""
    shared_home.configure("a", "b", fusions=FUSIONS)
    shared_home.script(
        a=Script(rules=[("6 times 7", ["It is 41.", "It is 42."])]),
        b=Script(rules=[("6 times 7", "Say 42."), ("", "one two three four five")], error_after_tokens=3),
    )
    running = shared_home.start("serve", "--port", "0")
    url = running.url()
    running.wait_for("engine a: awake")
    running.wait_for("engine b: awake")
    yield url
    running.process.terminate()
    assert running.code() == 0, running.err


def test_it_prints_what_asking_here_prints(server: str, shared_home: Home) -> None:
    done = shared_home.run("ask", "--url", server, "What is 6 times 7?")
    assert (done.code, done.out) == (0, "It is 42.\n"), done.err
    for told in ("member a", "member b", "It is 41.", "42  (c2, c3)", "winner: c2", "2 calls"):
        assert told in done.err


def test_json_tells_the_same_as_asking_here(server: str, shared_home: Home) -> None:
    done = shared_home.run("ask", "--json", "--url", f"{server}/v1/", "-f", "vote", "What is 6 times 7?")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["answer"] == "It is 42."
    assert told["usage"]["completion_tokens"] == sum(call["usage"]["completion_tokens"] for call in told["calls"]) == 8
    assert [candidate["id"] for candidate in told["fusion"]["candidates"]] == ["c1", "c2", "c3"]
    assert told["fusion"]["verdict"]["votes"] == {"41": ["c1"], "42": ["c2", "c3"]}


def test_an_engine_can_be_asked_too(server: str, shared_home: Home) -> None:
    done = shared_home.run("ask", "--json", "--url", server, "-f", "a", "What is 6 times 7?")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert (told["answer"], told["fusion"]) == ("It is 41.", None)
    assert told["usage"]["completion_tokens"] == 3


def test_an_unknown_model_is_told_with_those_that_are_there(server: str, shared_home: Home) -> None:
    done = shared_home.run("ask", "--url", server, "-f", "vot", "Hello")
    assert (done.code, done.out) == (2, "")
    assert "does not serve 'vot'" in done.err
    assert "vote, broken, a, b" in done.err


def test_an_error_in_the_middle_of_the_answer_is_the_servers_own(server: str, shared_home: Home) -> None:
    done = shared_home.run("ask", "--url", server, "-f", "broken", "Tell me more.")
    assert done.code == 1
    assert "unwell" in done.err
    assert done.out.startswith("one two three")
    assert "four" not in done.out
    assert "Traceback" not in done.err


def test_an_engine_that_breaks_off_is_told_as_its_own_error(server: str, shared_home: Home) -> None:
    done = shared_home.run("ask", "--url", server, "-f", "b", "Tell me more.")
    assert (done.code, done.out.strip()) == (1, "one two three")
    assert "unwell" in done.err


def test_where_nobody_listens_the_address_is_told(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    done = home.run("ask", "--url", url, "Hello")
    assert (done.code, done.out) == (1, "")
    assert f"no answer from {url}" in done.err
    assert "local-fusion serve" in done.err


def test_who_waits_for_what_is_told_from_afar_too(home: Home) -> None:
    take_turns(home)
    home.script(**{name: Script(rules=[("6 times 7", "It is 42.")]) for name in ("a", "b")})
    running = home.start("serve", "--port", "0")
    try:
        url = running.url()
        running.wait_for("engine .: awake")
        done = home.run("ask", "--url", url, "-f", "both", "What is 6 times 7?")
        assert (done.code, done.out) == (0, "It is 42.\n"), done.err
        assert re.search("… member (a: waiting for a|b: waiting for b): ", done.err)
        direct = home.run("ask", "--url", url, "-f", "a", "What is 6 times 7?")
        assert (direct.code, direct.out) == (0, "It is 42.\n"), direct.err
    finally:
        running.signal(signal.SIGTERM)
        running.code()


@contextmanager
def answering(models: bytes, chat: bytes = b"", status: int = 200) -> Iterator[str]:
    """A server of something else: it sends what it is given."""

    class Handler(BaseHTTPRequestHandler):
        def send(self, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.send(models)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send(chat)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


LIST = b'{"object": "list", "data": [{"id": "x", "object": "model", "kind": "fusion"}]}'
CHUNK = b'data: {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": null}]}\n\n'


@pytest.mark.parametrize(("answer", "out"), [(CHUNK, "Hi\n"), (b"", "")])
def test_what_was_thought_is_told_and_is_no_part_of_the_answer(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: bytes, out: str
) -> None:
    from local_fusion.cli import main

    thought = CHUNK.replace(b"content", b"reasoning").replace(b"Hi", b"A greeting.")
    end = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    with answering(LIST, thought + answer + end) as url:
        monkeypatch.setattr("sys.argv", ["local-fusion", "ask", "--url", url, "Hello"])
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capfd.readouterr()
    assert (ended.value.code, said.out) == (0, out)
    assert "… thinking" in said.err


@pytest.mark.parametrize(
    ("models", "chat", "status", "says"),
    [
        (b"<html>hello</html>", b"", 200, "is not what local-fusion sends"),
        (b"[]", b"", 200, "is not what local-fusion sends"),
        (b'{"data": 5}', b"", 200, "is not what local-fusion sends"),
        (b'{"data": [1]}', b"", 200, "is not what local-fusion sends"),
        (b'{"data": []}', b"", 200, "serves no models"),
        (b"nothing here", b"", 404, "404 Not Found"),
        (b'{"error": "a text"}', b"", 500, "a text"),
        (b"[]", b"", 500, "500 Internal Server Error"),
        (LIST, b"data: {nope\n\n", 200, "is not what local-fusion sends"),
        (LIST, b"data: 7\n\n", 200, "is not what local-fusion sends"),
        (LIST, b'data: {"choices": [{}]}\n\n', 200, "is not what local-fusion sends"),
        (LIST, b'data: {"choices": [], "fusion": {"event": {"type": "party"}}}\n\n', 200, "is not what"),
        (LIST, b'data: {"error": "a text"}\n\n', 200, "a text"),
        (LIST, CHUNK, 200, "ended before the answer did"),
        (LIST, CHUNK + b"data: [DONE]\n\n", 200, "ended before the answer did"),
        (LIST, b"", 200, "ended before the answer did"),
    ],
)
def test_what_a_server_of_something_else_sends_is_told_in_one_message(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    models: bytes,
    chat: bytes,
    status: int,
    says: str,
) -> None:
    from local_fusion.cli import main

    with answering(models, chat, status) as url:
        monkeypatch.setattr("sys.argv", ["local-fusion", "ask", "--url", url, "Hello"])
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capfd.readouterr()
    assert ended.value.code == 1
    assert says in said.err
    assert said.err.count("local-fusion: ") == 1
    assert "Traceback" not in said.err
