"""Models of the hub: found in its cache, downloaded from a small local hub, and every way that can fail."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from local_fusion.engines.checkpoints import locate, resolve
from local_fusion.engines.checkpoints.hub_fetch import wanted_files
from local_fusion.errors import ConfigError, LocalFusionError, SetupError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WHOLE = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"{}"}


class Hub(ThreadingHTTPServer):
    """Speaks as much of the hub's HTTP as a download needs, for one model `org/model`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, bytes] = dict(WHOLE)
        self.api_refusal: tuple[int, str] | None = None
        self.file_refusal: tuple[int, str] | None = None
        self.claimed_bytes: int | None = None
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        api = "/api/models/org/model"
        if path.startswith("/api/") and self.server.api_refusal:
            self.refuse(*self.server.api_refusal)
        elif path in (api, f"{api}/revision/main"):
            claimed = self.server.claimed_bytes
            siblings = [
                {"rfilename": name, "size": len(data) if claimed is None else claimed}
                for name, data in self.server.files.items()
            ]
            self.answer(json.dumps({"id": "org/model", "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(f"{api}/tree/"):
            files = self.server.files.items()
            tree = [{"type": "file", "path": name, "size": len(data), "oid": oid(data)} for name, data in files]
            self.answer(json.dumps(tree).encode())
        elif path.startswith(f"/org/model/resolve/{COMMIT}/"):
            if self.server.file_refusal:
                self.refuse(*self.server.file_refusal)
            else:
                self.answer(self.server.files[path.removeprefix(f"/org/model/resolve/{COMMIT}/")])
        else:
            self.refuse(404, "RepoNotFound")

    def answer(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{oid(data)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """The tests read `asked` instead."""


def oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as hub:
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        # Read from the environment when the library was imported, in this process before the test began.
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A model in the hub's cache, as an earlier download left it."""
    storage = tmp_path / "hub" / "models--org--model"
    folder = storage / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text(COMMIT)
    for name, data in WHOLE.items():
        (folder / name).write_bytes(data)
    return folder


def refusal(model_id: str = "org/model", *, make: bool = True) -> LocalFusionError:
    with pytest.raises((ConfigError, SetupError)) as caught:
        resolve(model_id, make=make)
    assert caught.value.hint, "every refusal says what to do"
    return caught.value


class TestInTheCache:
    def test_a_whole_model_is_found_without_asking_the_hub(self, snapshot: Path, hub: Hub) -> None:
        assert resolve("org/model") == snapshot
        assert hub.asked == []

    def test_a_partial_model_is_completed(self, snapshot: Path, hub: Hub) -> None:
        (snapshot / "model.safetensors").unlink()
        assert resolve("org/model") == snapshot
        assert (snapshot / "model.safetensors").read_bytes() == b"weights"

    def test_a_missing_model_is_refused_where_downloading_is_not_allowed(self, hub: Hub) -> None:
        error = refusal(make=False)
        assert isinstance(error, SetupError)
        assert error.message == "org/model is not in the Hugging Face cache, and downloading was not asked for"
        assert "local-fusion models pull org/model" in error.hint
        assert hub.asked == []

    def test_a_missing_model_is_refused_where_the_hub_is_switched_off(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "HF_HUB_OFFLINE forbids downloading" in refusal().message
        assert hub.asked == []

    def test_a_partial_model_is_refused_by_what_it_lacks_where_the_hub_is_switched_off(
        self, snapshot: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (snapshot / "tokenizer.json").unlink()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert f"is not whole in the Hugging Face cache ({snapshot} has no tokenizer" in refusal().message


class TestADownload:
    def test_brings_the_checkpoint_and_reports_on_the_way(self, tmp_path: Path, hub: Hub) -> None:
        told: list[str] = []
        folder = resolve("org/model", progress=told.append)
        assert folder == tmp_path / "hub" / "models--org--model" / "snapshots" / COMMIT
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == WHOLE
        assert told[:2] == ["looking for org/model on the hub", "downloading org/model: 0.00 GB"]

    def test_leaves_out_duplicates_of_the_weights(self, hub: Hub) -> None:
        hub.files |= {"original/consolidated.00.pth": b"same", "pytorch_model.bin": b"same", "model.onnx": b"same"}
        assert {path.name for path in resolve("org/model").iterdir()} == set(WHOLE)

    def test_is_not_repeated(self, hub: Hub) -> None:
        folder = resolve("org/model")
        hub.asked.clear()
        assert resolve("org/model") == folder
        assert hub.asked == []

    def test_of_an_unknown_model_hints_at_the_spelling(self) -> None:
        error = refusal("org/modle")
        assert isinstance(error, ConfigError)
        assert error.message == "there is no model org/modle on the hub, or it is private"
        assert "Check its spelling" in error.hint

    def test_of_a_gated_model_says_where_to_accept_its_terms(self, hub: Hub) -> None:
        hub.file_refusal = (401, "GatedRepo")
        error = refusal()
        assert isinstance(error, SetupError)
        assert error.message.startswith("org/model is gated")
        assert f"{hub.url}/org/model" in error.hint

    @pytest.mark.parametrize(
        ("status", "told"),
        [(403, "the hub refused org/model to this account (403)"), (418, "the hub failed on org/model (HTTP 418)")],
    )
    def test_that_the_hub_refuses_names_the_status(self, hub: Hub, status: int, told: str) -> None:
        hub.api_refusal = (status, "")
        assert refusal().message == told

    def test_without_a_network_names_the_hub_it_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", address)
        error = refusal()
        assert isinstance(error, SetupError)
        assert error.message.startswith(f"org/model cannot be downloaded from {address}: ")
        assert "Check the network" in error.hint

    def test_of_a_model_without_a_tokenizer_says_so(self, hub: Hub) -> None:
        del hub.files["tokenizer.json"]
        error = refusal()
        assert isinstance(error, ConfigError)
        assert error.message.startswith("org/model is not a whole checkpoint on the hub: ")
        assert "has no tokenizer" in error.message

    def test_of_gguf_files_only_says_how_to_get_one(self, hub: Hub) -> None:
        hub.files = {"config.json": b"{}", "model.Q4.gguf": b"GGUF"}
        error = refusal()
        assert error.message == "org/model holds only GGUF files on the hub"
        assert "hf download org/model model.Q4.gguf" in error.hint

    def test_larger_than_the_disk_is_refused_before_it_begins(self, hub: Hub) -> None:
        hub.claimed_bytes = 10**18
        error = refusal()
        assert error.message.startswith("org/model needs 3000000000.0 GB more in ")
        assert "GB are free" in error.message
        assert not any("/resolve/" in path for path in hub.asked)


class TestAConfigWithoutWeights:
    @pytest.fixture
    def config_only(self, snapshot: Path) -> Path:
        for name in set(WHOLE) - {"config.json"}:
            (snapshot / name).unlink()
        return snapshot

    def test_is_enough_to_plan_but_not_to_serve(self, config_only: Path, hub: Hub) -> None:
        assert locate("org/model") == config_only
        assert isinstance(refusal(make=False), SetupError)
        assert hub.asked == []

    def test_that_is_not_there_is_refused_with_the_command_that_brings_it(self, hub: Hub) -> None:
        with pytest.raises(SetupError) as caught:
            locate("org/model")
        assert caught.value.message == "org/model is not in the Hugging Face cache, so nothing is known of it"
        assert "local-fusion models pull --config-only org/model" in caught.value.hint
        assert hub.asked == []

    def test_is_downloaded_alone_and_once(self, tmp_path: Path, hub: Hub) -> None:
        folder = locate("org/model", fetch=True)
        assert folder == tmp_path / "hub" / "models--org--model" / "snapshots" / COMMIT
        assert [path.name for path in folder.iterdir()] == ["config.json"]
        hub.asked.clear()
        assert locate("org/model") == locate("org/model", fetch=True) == folder
        assert hub.asked == []

    def test_of_an_embedding_model_comes_with_what_says_that_it_is_one(self, hub: Hub) -> None:
        hub.files["modules.json"] = b"[]"
        assert {path.name for path in locate("org/model", fetch=True).iterdir()} == {"config.json", "modules.json"}

    def test_is_completed_when_the_model_is_to_be_served(self, config_only: Path) -> None:
        assert resolve("org/model") == config_only
        assert {path.name for path in config_only.iterdir()} == set(WHOLE)

    def test_that_the_hub_does_not_have_is_told(self, hub: Hub) -> None:
        del hub.files["config.json"]
        with pytest.raises(ConfigError, match=r"org/model has no config\.json on the hub"):
            locate("org/model", fetch=True)
        with pytest.raises(ConfigError, match="there is no model org/modle on the hub"):
            locate("org/modle", fetch=True)

    def test_is_not_asked_for_where_the_hub_is_switched_off(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(SetupError, match="HF_HUB_OFFLINE forbids downloading"):
            locate("org/model", fetch=True)
        assert hub.asked == []


class TestTheFilesToDownload:
    def test_are_safetensors_config_tokenizer_and_code(self) -> None:
        useful = {"config.json", "model-1.safetensors", "tokenizer.model", "modeling.py", "chat_template.jinja"}
        useless = {"pytorch_model.bin", "consolidated.safetensors", "onnx/model.onnx", "figure.png", "flax.msgpack"}
        sizes = dict.fromkeys(useful | useless, 1)
        assert set(wanted_files(sizes, "org/model")) == useful

    def test_are_pytorch_weights_where_there_are_no_safetensors(self) -> None:
        sizes = dict.fromkeys(["config.json", "pytorch_model.bin", "original/model.safetensors"], 1)
        assert set(wanted_files(sizes, "org/model")) == {"config.json", "pytorch_model.bin"}

    def test_without_any_weights_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="org/model has no weights"):
            wanted_files({"config.json": 1, "model.onnx": 1}, "org/model")
