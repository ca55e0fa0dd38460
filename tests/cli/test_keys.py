"""`keys`: made once, shown once, replaced while the server runs, taken away."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from local_fusion.cli.main import app
from local_fusion.errors import LocalFusionError
from local_fusion.server.guard.keys import Key, hash_of, read_keys
from tests.cli.commands import Home, until
from tests.server.guard.guarded import guarded

ONE = {"one": {"strategy": "single", "panel": ["a"]}}

CONFIG = """
models: {qwen: {source: x/y}, gemma: {source: x/z}}
fusions: {quality: {strategy: single, panel: [qwen]}}
server: {api_keys_file: secret/keys.yaml}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "secret").mkdir()
    file = tmp_path / "fusion.yaml"
    file.write_text(CONFIG)
    return file


def run(config: Path, command: str, *arguments: str) -> Result:
    result = CliRunner().invoke(app, ["keys", command, *arguments, "-c", str(config)])
    if isinstance(result.exception, LocalFusionError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def refused(config: Path, command: str, *arguments: str) -> str:
    with pytest.raises(LocalFusionError) as raised:
        run(config, command, *arguments)
    return str(raised.value)


def stored(config: Path) -> dict[str, Key]:
    return {key.name: key for key in read_keys(config.parent / "secret" / "keys.yaml")[0].keys}


def test_a_key_is_printed_alone_and_only_its_hash_is_kept(config: Path) -> None:
    made = run(config, "create", "alice")
    (key,) = made.stdout.splitlines()
    assert key.startswith("lf-")
    assert "shown this once" in made.stderr
    assert key not in made.stderr
    file = config.parent / "secret" / "keys.yaml"
    assert file.stat().st_mode & 0o777 == 0o600
    assert key not in file.read_text()
    assert stored(config)["alice"] == Key(name="alice", sha256=hash_of(key.encode()))


def test_what_it_may_and_how_much_is_said_when_it_is_made(config: Path) -> None:
    run(
        config,
        *("create", "bot", "--model", "quality", "--model", "q*", "--requests-per-minute", "60"),
        *("--tokens-per-minute", "100000", "--concurrent-requests", "4", "--expires", "90d"),
    )
    key = stored(config)["bot"]
    assert (key.role, key.models) == ("user", ["quality", "q*"])
    assert (key.requests_per_minute, key.tokens_per_minute, key.concurrent_requests) == (60, 100_000, 4)
    assert key.expires is not None
    assert timedelta(days=89) < key.expires - datetime.now(UTC) <= timedelta(days=90)
    run(config, "create", "root", "--role", "admin", "--expires", "2099-01-31")
    assert stored(config)["root"].role == "admin"
    assert stored(config)["root"].expires == datetime(2099, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("a b",), "NAME: letters, digits"),
        (("x" * 65,), "NAME: letters, digits"),
        (("x", "--role", "boss"), "--role: "),
        (("x", "--model", "qwn"), "--model: no model or fusion is called 'qwn'; did you mean 'qwen'?"),
        (("x", "--model", "a b*"), "--model: expected the name"),
        (("x", "--role", "admin", "--model", "qwen"), "an admin may ask every model"),
        (("x", "--expires", "soon"), "--expires: expected a time such as 2027-01-31 or 90d"),
        (("x", "--expires", "2020-01-01"), "is over already"),
        (("x", "--expires", "999999999d"), "more than ten years"),
    ],
)
def test_what_makes_no_sense_is_told_by_its_option_and_makes_no_key(
    config: Path, arguments: tuple[str, ...], says: str
) -> None:
    assert says in refused(config, "create", *arguments)
    assert not (config.parent / "secret" / "keys.yaml").exists()


def test_a_name_is_there_once(config: Path) -> None:
    run(config, "create", "alice")
    before = stored(config)
    assert "keys rotate alice" in refused(config, "create", "alice")
    assert stored(config) == before


def test_a_list_tells_everything_but_keys_and_hashes(config: Path) -> None:
    key = run(config, "create", "alice", "--requests-per-minute", "60").stdout.strip()
    run(config, "create", "root", "--role", "admin")
    shown = run(config, "list").stdout
    assert "alice" in shown
    assert "admin" in shown
    told = json.loads(run(config, "list", "--json").stdout)["keys"]
    assert [(each["name"], each["state"]) for each in told] == [("alice", "good"), ("root", "good")]
    assert told[0]["requests_per_minute"] == 60
    for text in (shown, json.dumps(told)):
        assert key not in text
        assert hash_of(key.encode()) not in text


def test_json_tells_the_key_beside_what_it_may(config: Path) -> None:
    told = json.loads(run(config, "create", "alice", "--json").stdout)
    assert stored(config)["alice"].sha256 == hash_of(told["key"].encode())
    assert (told["name"], told["role"]) == ("alice", "user")


async def test_a_rotated_key_and_the_one_before_are_good_while_the_server_runs(config: Path) -> None:
    old = run(config, "create", "alice", "--requests-per-minute", "60").stdout.strip()
    server = guarded(config.parent / "secret" / "keys.yaml")

    async def status(key: str) -> int:
        server.access.refresh()
        return (await server.get("/v1/models", {"x-api-key": key})).status

    new = run(config, "rotate", "alice", "--grace", "1h").stdout.strip()
    assert new != old
    assert [await status(old), await status(new)] == [200, 200]
    assert stored(config)["alice"].requests_per_minute == 60
    newest = run(config, "rotate", "alice", "--grace", "0").stdout.strip()
    assert [await status(old), await status(new), await status(newest)] == [200, 401, 200]
    run(config, "revoke", "alice")
    assert [await status(old), await status(newest)] == [401, 401]


def test_keys_before_are_forgotten_once_their_time_is_over(config: Path) -> None:
    run(config, "create", "alice")
    run(config, "rotate", "alice", "--grace", "0")
    assert stored(config)["alice"].former == []
    run(config, "rotate", "alice")
    (former,) = stored(config)["alice"].former
    assert timedelta(hours=23) < former.until - datetime.now(UTC) <= timedelta(hours=24)
    assert "the key before until" in run(config, "list").stdout


def test_names_that_are_not_there_are_told_with_the_nearest(config: Path) -> None:
    run(config, "create", "alice")
    for command in ("rotate", "revoke"):
        assert "there is no key named 'alise'; did you mean 'alice'?" in refused(config, command, "alise")
    assert "--grace: expected a time such as 24h" in refused(config, "rotate", "alice", "--grace", "long")


def test_a_configuration_without_keys_says_how_to_have_some(config: Path) -> None:
    config.write_text(CONFIG.replace("server: {api_keys_file: secret/keys.yaml}", ""))
    assert "api_keys_file: keys.yaml" in refused(config, "create", "alice")
    file = config.parent / "mine.yaml"
    run(config, "create", "alice", "--file", str(file))
    assert [key.name for key in read_keys(file)[0].keys] == ["alice"]


def test_a_list_of_a_file_that_is_not_there_says_what_makes_it(config: Path) -> None:
    assert "local-fusion keys create" in refused(config, "list")


def test_a_server_takes_no_start_without_the_file_that_it_is_to_have(home: Home) -> None:
    home.configure("a", fusions=ONE, server={"api_keys_file": "keys.yaml"})
    done = home.run("serve", "--port", "0")
    assert done.code == 2
    assert "there is no such file of API keys" in done.err
    assert "local-fusion keys create" in done.err
    assert not (home.folder / "a.starts").exists()


def test_with_keys_a_server_listens_for_others_and_takes_new_keys_by_itself(home: Home) -> None:
    home.configure("a", fusions=ONE, server={"api_keys_file": "keys.yaml"})
    old = home.run("keys", "create", "alice").out.strip()
    running = home.start("serve", "--port", "0", "--host", "0.0.0.0")
    try:
        url = running.url().replace("0.0.0.0", "127.0.0.1")
        assert [status(url, old), status(url, "lf-none"), status(url, None)] == [200, 401, 401]
        new = home.run("keys", "rotate", "alice", "--grace", "0").out.strip()
        until(lambda: (status(url, new), status(url, old)) == (200, 401), 10)
        home.more_env["LOCAL_FUSION_API_KEY"] = new
        asked = home.run("ask", "hello", "--url", url)
        assert (asked.code, old in running.err, new in running.err) == (0, False, False)
        running.signal(signal.SIGTERM)
        assert running.code() == 0
    finally:
        running.process.kill()
        running.process.wait()
    assert home.left_behind() == []


def status(url: str, key: str | None) -> int:
    request = urllib.request.Request(
        f"{url}/v1/models", headers={} if key is None else {"Authorization": f"Bearer {key}"}
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
