"""What is wrong before anything can run: one clear message, the right exit code, nothing started, nothing left."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.commands import Home, new_home
from tests.serving import tiny_checkpoint

FUSIONS = "fusions:\n  one: {strategy: single, panel: [a]}\n"


@pytest.fixture
def home() -> Iterator[Home]:
    with new_home() as home:
        yield home


def source(value: object, **more: object) -> str:
    """A configuration of one model with that source."""
    return f"models:\n  a: {json.dumps({'source': str(value), 'max_model_len': 1024, **more})}\n{FUSIONS}"


def no_yaml(home: Home) -> str:
    return "models:\n  a: {source: x\nfusions: [\n"


def misspelt_key(home: Home) -> str:
    return source(tiny_checkpoint(home.folder / "a"), tensor_paralel=1)


def several_mistakes(home: Home) -> str:
    return source(tiny_checkpoint(home.folder / "a"), kv_cache_bytes="lots") + "server: {port: 99999}\n"


def unknown_member(home: Home) -> str:
    return source(tiny_checkpoint(home.folder / "a")).replace("panel: [a]", "panel: [b]")


def empty_file(home: Home) -> str:
    return ""


def missing_folder(home: Home) -> str:
    tiny_checkpoint(home.folder / "models" / "qwen")
    return source(home.folder / "models" / "qwem")


def folder_without_weights(home: Home) -> str:
    (tiny_checkpoint(home.folder / "a") / "model.safetensors").unlink()
    return source(home.folder / "a")


def broken_config_json(home: Home) -> str:
    (tiny_checkpoint(home.folder / "a") / "config.json").write_text("{nope")
    return source(home.folder / "a")


def cut_off_weights(home: Home) -> str:
    weights = tiny_checkpoint(home.folder / "a") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20])
    return source(home.folder / "a")


def corrupt_gguf(home: Home) -> str:
    (home.folder / "bad.gguf").write_bytes(b"GGUF" + b"\xff" * 500)
    return source(home.folder / "bad.gguf")


def no_gguf_at_all(home: Home) -> str:
    (home.folder / "bad.gguf").write_bytes(b"<html>not found</html>")
    return source(home.folder / "bad.gguf")


def missing_package(home: Home) -> str:
    return source("package:no_such_package/model.gguf")


def hub_model_without_a_network(home: Home) -> str:
    return source("nobody/nothing")


def too_little_memory(home: Home) -> str:
    return source(tiny_checkpoint(home.folder / "a"), kv_cache_bytes="10TiB")


def no_vllm(home: Home) -> str:
    # Python imports this at its start; None in sys.modules means: there is no such module.
    (home.folder / "python" / "sitecustomize.py").write_text("import sys\nsys.modules['vllm'] = None\n")
    return source(tiny_checkpoint(home.folder / "a"))


def runtime_folder_is_a_file(home: Home) -> str:
    home.more_env["LOCAL_FUSION_RUNTIME"] = str(home.folder / "file")
    (home.folder / "file").touch()
    return source(tiny_checkpoint(home.folder / "a"))


def runtime_folder_with_a_long_path(home: Home) -> str:
    home.more_env["LOCAL_FUSION_RUNTIME"] = str(home.folder / ("long" * 25))
    return source(tiny_checkpoint(home.folder / "a"))


CASES: list[tuple[Callable[[Home], str], int, list[str]]] = [
    (no_yaml, 2, ["local-fusion.yaml:3"]),
    (misspelt_key, 2, ["local-fusion.yaml:2: models.a.tensor_paralel", "did you mean 'tensor_parallel'"]),
    (several_mistakes, 2, ["local-fusion.yaml:2: models.a.kv_cache_bytes", "local-fusion.yaml:5: server.port"]),
    (unknown_member, 2, ["local-fusion.yaml:4: fusions.one.panel[0]", "'b'"]),
    (empty_file, 2, ["local-fusion.yaml:1", "empty"]),
    (missing_folder, 2, ["qwem", "qwen"]),
    (folder_without_weights, 2, ["has no weights"]),
    (broken_config_json, 2, ["config.json is not a JSON object"]),
    (cut_off_weights, 2, ["model.safetensors"]),
    (corrupt_gguf, 2, ["bad.gguf"]),
    (no_gguf_at_all, 2, ["bad.gguf", "GGUF"]),
    (missing_package, 1, ["no_such_package is not installed"]),
    (hub_model_without_a_network, 1, ["nobody/nothing"]),
    (too_little_memory, 1, ["a: ", "10240 GiB", "kv_cache_bytes"]),
    (no_vllm, 1, ["vLLM is not installed", "scripts/setup"]),
    (runtime_folder_is_a_file, 1, ["file is not a folder", "LOCAL_FUSION_RUNTIME"]),
    (runtime_folder_with_a_long_path, 1, ["Unix socket", "LOCAL_FUSION_RUNTIME"]),
]


# Both commands begin in the same way, so they take turns.
TURNS = [(*case, (("ask", "Hi"), ("serve", "--port", "0"))[turn % 2]) for turn, case in enumerate(CASES)]


@pytest.mark.parametrize(
    ("prepare", "code", "says", "command"), TURNS, ids=[f"{case[0].__name__}-{case[3][0]}" for case in TURNS]
)
def test_bad_input_is_one_clear_message_and_nothing_is_started(
    home: Home, prepare: Callable[[Home], str], code: int, says: list[str], command: tuple[str, ...]
) -> None:
    home.write(prepare(home))
    done = home.run(*command)
    assert (done.code, done.out) == (code, ""), done.err
    assert [part for part in says if part not in done.err] == [], done.err
    assert done.err.count("local-fusion: ") == 1, done.err
    assert "Traceback" not in done.err
    assert "engine a" not in done.err
    assert list(home.folder.glob("*.starts")) == []
    assert home.left_behind() == []
    base = Path(home.env["LOCAL_FUSION_RUNTIME"])
    assert not base.is_dir() or list(base.iterdir()) == []


def test_a_busy_port_is_found_before_any_engine_is_started(home: Home) -> None:
    home.write(source(tiny_checkpoint(home.folder / "a")))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = home.run("serve", "--port", port)
    assert done.code == 1
    assert done.err.splitlines() == [
        f"local-fusion: 127.0.0.1:{port} is already in use",
        "  → stop what listens there, or choose another port with --port",
    ]
    assert list(home.folder.glob("*.starts")) == []
    assert home.left_behind() == []
