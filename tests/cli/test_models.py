"""`models`: what is configured, what is there, and getting what is missing."""

from __future__ import annotations

import json

from tests.cli.commands import Home
from tests.engines.test_checkpoints_gguf import gguf as whole_gguf


def test_the_list_says_what_is_there_and_what_is_missing(home: Home) -> None:
    path = home.configure("a", "b")
    path.write_text(path.read_text().replace("/models/b", "/models/c", 1))
    done = home.run("models", "list", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    a, b = told["models"]
    assert (a["model"], a["folder"], a["missing"]) == ("a", str(home.folder / "models" / "a"), None)
    assert (b["model"], b["folder"]) == ("b", None)
    assert "/models/c does not exist" in b["missing"]
    assert told["imported"] == []
    shown = home.run("models", "list")
    assert shown.code == 0
    assert [word for word in ("a", "b", "/models/a", "does not exist") if word not in shown.out] == []


def test_the_list_imports_and_starts_nothing(home: Home) -> None:
    gguf = home.folder / "big.gguf"
    gguf.write_bytes(whole_gguf())
    home.write(f"models: {{a: {{source: {gguf}}}}}\n")
    done = home.run("models", "list", "--json")
    assert done.code == 0, done.err
    (model,) = json.loads(done.out)["models"]
    assert (model["folder"], model["missing"]) == (None, "big.gguf is not imported yet")
    assert not (home.folder / "cache").exists()
    assert home.left_behind() == []


def test_pull_prints_the_folder_of_each_model(home: Home) -> None:
    home.configure("a", "b")
    done = home.run("models", "pull")
    assert (done.code, done.out.split()) == (0, [str(home.folder / "models" / name) for name in "ab"]), done.err
    one = home.run("models", "pull", "b")
    assert (one.code, one.out.split()) == (0, [str(home.folder / "models" / "b")]), one.err


def test_pull_of_what_cannot_be_had_is_an_error(home: Home) -> None:
    home.configure("a")
    done = home.run("models", "pull", "nobody/nothing")
    assert (done.code, done.out) == (1, "")
    assert "nobody/nothing" in done.err
    assert "Traceback" not in done.err


def test_pull_of_the_config_only_asks_for_no_weights_and_imports_nothing(home: Home) -> None:
    home.configure("a")
    (home.folder / "models" / "a" / "model.safetensors").unlink()
    done = home.run("models", "pull", "--config-only")
    assert (done.code, done.out.split()) == (0, [str(home.folder / "models" / "a")]), done.err
    gguf = home.folder / "big.gguf"
    gguf.write_bytes(whole_gguf())
    one = home.run("models", "pull", "--config-only", str(gguf))
    assert (one.code, one.out.split()) == (0, [str(gguf)]), one.err
    assert not (home.folder / "cache").exists()
    assert home.run("models", "pull").code == 2


def test_import_of_what_is_no_gguf_file_is_an_error(home: Home) -> None:
    (home.folder / "bad.gguf").write_bytes(b"<html>not found</html>")
    for source, says in (("bad.gguf", "bad.gguf"), ("./missing.gguf", "does not exist"), ("package:x", "package:")):
        done = home.run("models", "import", source)
        assert (done.code, done.out) == (2, ""), done.err
        assert says in done.err
        assert "Traceback" not in done.err
