"""`models inspect`: one model's bytes line by line, from published shapes without any weights."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from local_fusion.config.quantities import format_bytes
from local_fusion.config.schema import ModelConfig
from local_fusion.engines.checkpoints.facts import read_facts
from local_fusion.engines.measurements import remember
from local_fusion.planner.memory.measured import Measurement, circumstances
from local_fusion.runtime import vllm_version
from tests.cli.commands import Home
from tests.cli.test_plan import COUNT, OVERHEAD, TEXT, TEXTS, configure, list_of, object_of, strictly
from tests.engines.test_checkpoints_gguf import gguf as whole_gguf
from tests.planner.facts.published import DEEPSEEK_V3, GEMMA_3_27B, LLAMA_3_8B, QWEN3_NEXT_80B
from tests.planner.folders import checkpoint

jsonschema = pytest.importorskip("jsonschema")

GIB = 1024**3
MODELS = {"llama": LLAMA_3_8B, "gemma": GEMMA_3_27B, "deepseek": DEEPSEEK_V3, "hybrid": QWEN3_NEXT_80B}
KEPT_IN_8_BITS = {
    **LLAMA_3_8B,
    "quantization_config": {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8, "type": "float"}},
}
LAYERS = list_of(kind={"enum": ["full", "sliding", "latent", "state"]}, layers=COUNT, window=COUNT, bytes=COUNT)
CONTRACT = object_of(
    model=TEXT,
    source=TEXT,
    architecture=TEXT,
    runner={"enum": ["generate", "pooling"]},
    parameters=COUNT,
    weights_from={"enum": ["headers", "files", "gguf", "config"]},
    weights_bytes=COUNT,
    layers=COUNT,
    max_model_len=COUNT,
    kind={"enum": ["cuda", "cpu"]},
    device=TEXT,
    splits=list_of(
        tensor_parallel=COUNT,
        weights_bytes=COUNT,
        weights={"type": "object", "additionalProperties": COUNT},
        kv_bytes_per_token=COUNT,
        kv_layers=LAYERS,
        context=COUNT,
        kv_request_bytes=COUNT,
        kv_tokens_per_gib={"type": ["integer", "null"]},
        overhead_bytes=COUNT,
        overhead=OVERHEAD,
        least_bytes=COUNT,
        total_bytes=COUNT,
        sleeping_bytes=COUNT,
        host_bytes=COUNT,
        measured=TEXTS,
    ),
    warnings=TEXTS,
)


@pytest.fixture(scope="module")
def known(shared_home: Home) -> Home:
    configure(shared_home, MODELS)
    return shared_home


def inspected(home: Home, *arguments: str) -> dict[str, Any]:
    done = home.run("models", "inspect", *arguments, "--json")
    assert (done.code, done.err) == (0, ""), done.err
    told: dict[str, Any] = strictly(done.out)
    jsonschema.validate(told, CONTRACT)
    return told


def test_the_bytes_of_a_known_model_at_every_size_it_can_be_split_over(known: Home) -> None:
    told = inspected(known, "llama", "--gpus", "24GiB")
    assert (told["parameters"], told["weights_bytes"], told["weights_from"]) == (8030261248, 16060522496, "config")
    assert [split["tensor_parallel"] for split in told["splits"]] == [1, 2, 4, 8]
    for split in told["splits"]:
        ranks = split["tensor_parallel"]
        assert sum(split["weights"].values()) == split["weights_bytes"]
        assert split["kv_bytes_per_token"] == 131072 // ranks
        assert split["kv_layers"] == [{"kind": "full", "layers": 32, "window": 0, "bytes": 131072 // ranks}]
        assert split["kv_tokens_per_gib"] == 8192 * ranks
        assert sum(split["overhead"].values()) == split["overhead_bytes"]
        assert split["total_bytes"] == split["weights_bytes"] + split["overhead_bytes"] + split["kv_request_bytes"]
        assert (split["overhead"]["collectives"] > 0) is (ranks > 1)
    assert told["splits"][0]["host_bytes"] == told["weights_bytes"]


def test_people_see_the_same_line_by_line(known: Home) -> None:
    split = inspected(known, "llama", "--gpus", "24GiB", "--tensor-parallel", "2")["splits"][0]
    done = known.run("models", "inspect", "llama", "--gpus", "24GiB", "--tensor-parallel", "2")
    assert (done.code, done.err) == (0, "")
    rows = dict(re.findall(r"^  (\S.*?)  +(\S.*?)\s*$", done.out, re.MULTILINE))
    assert rows == {
        **{name: format_bytes(size) for name, size in split["weights"].items()},
        "= weights": format_bytes(split["weights_bytes"]),
        "32 × full attention, a token": "64 KiB",
        "each further token": "64 KiB",
        "tokens in 1 GiB": "16,384",
        "= a request of 8,192 tokens": format_bytes(split["kv_request_bytes"]),
        "CUDA context and libraries": format_bytes(split["overhead"]["process"]),
        "collectives (NCCL)": format_bytes(split["overhead"]["collectives"]),
        "activations": format_bytes(split["overhead"]["activations"]),
        "CUDA graphs": format_bytes(split["overhead"]["graphs"]),
        "tables of vLLM's own": format_bytes(split["overhead"]["buffers"]),
        "= overhead": format_bytes(split["overhead_bytes"]),
        "= together, with one request": format_bytes(split["total_bytes"]),
        "left on each GPU": format_bytes(split["sleeping_bytes"]),
        "host RAM, for each GPU": format_bytes(split["host_bytes"]),
    }
    assert "8.03 billion parameters, 32 layers, made for 8,192 tokens" in done.out
    assert "computed from config.json" in done.out
    assert "! there are no weights yet" in done.out


def test_layers_that_cache_differently_have_a_line_each(known: Home) -> None:
    def layers(model: str) -> dict[str, tuple[int, int, int]]:
        (split,) = inspected(known, model, "--gpus", "H200", "--tensor-parallel", "1")["splits"]
        return {row["kind"]: (row["layers"], row["window"], row["bytes"]) for row in split["kv_layers"]}

    assert layers("gemma") == {"sliding": (52, 1024, 52 * 8192), "full": (10, 0, 10 * 8192)}
    assert layers("deepseek") == {"latent": (61, 0, 70272)}
    hybrid = layers("hybrid")
    assert {kind: row[0] for kind, row in hybrid.items()} == {"full": 12, "state": 36}
    shown = known.run("models", "inspect", "gemma", "--gpus", "H200").out
    assert "52 × window of 1,024, a token" in shown
    assert "36 × state, a request" in known.run("models", "inspect", "hybrid", "--gpus", "H200").out


@pytest.mark.parametrize(
    ("config", "options", "token"),
    [(LLAMA_3_8B, {}, 131072), (LLAMA_3_8B, {"kv_cache_dtype": "fp8"}, 65536), (KEPT_IN_8_BITS, {}, 65536)],
    ids=["16 bits", "8 bits by configuration", "8 bits by the checkpoint"],
)
def test_the_lines_of_layers_add_up_to_what_each_further_token_takes(
    home: Home, config: dict[str, Any], options: dict[str, Any], token: int
) -> None:
    source = str(checkpoint(home.folder / "model", config))
    home.write(json.dumps({"models": {"a": {"source": source, **options}}}))
    for split in inspected(home, "a", "--gpus", "H200")["splits"]:
        assert sum(row["bytes"] for row in split["kv_layers"]) == split["kv_bytes_per_token"]
        assert split["kv_bytes_per_token"] == token // split["tensor_parallel"]


@pytest.mark.parametrize(("block_size", "block"), [([], 544), (["--block-size", "2048"], 2048)], ids=str)
def test_a_state_fills_a_page_of_the_block_size_that_is_asked_for(
    home: Home, block_size: list[str], block: int
) -> None:
    folder = checkpoint(home.folder / "hybrid", QWEN3_NEXT_80B)
    home.write(json.dumps({"models": {"a": {"source": str(folder), "extra_args": block_size}}}))
    (split,) = inspected(home, "a", "--gpus", "H200", "--tensor-parallel", "1")["splits"]
    tokens, states = split["kv_layers"]
    page = block * tokens["bytes"] // tokens["layers"]
    assert states["bytes"] == 2 * 36 * page
    blocks = -(-split["context"] // block) + 1  # of which one is never used
    assert split["kv_request_bytes"] == states["bytes"] + blocks * 12 * page


@pytest.mark.parametrize("columns", ["60", "80", "140"])
def test_no_number_is_cut_off_at_any_width(known: Home, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(known.more_env, "COLUMNS", columns)
    done = known.run("models", "inspect", "gemma", "--gpus", "H200")
    assert "…" not in done.out
    assert max(map(len, done.out.splitlines())) <= int(columns)
    assert len(re.findall(r"\d GPUs?\b", done.out)) == 4


def test_on_the_cpu_there_is_one_column_and_no_sleep(known: Home) -> None:
    told = inspected(known, "llama", "--gpus", "cpu:64GiB")
    assert [(split["tensor_parallel"], split["sleeping_bytes"], split["host_bytes"]) for split in told["splits"]] == [
        (1, 0, 0)
    ]
    shown = known.run("models", "inspect", "llama", "--gpus", "cpu:64GiB").out
    assert "CPU" in shown
    assert "asleep" not in shown


def test_a_model_need_not_be_configured(home: Home) -> None:
    folder = checkpoint(home.folder / "elsewhere", LLAMA_3_8B)
    (home.folder / "own.json").write_text(json.dumps(LLAMA_3_8B))
    (home.folder / "tiny.gguf").write_bytes(whole_gguf())
    home.configure("a")
    for source, told_from in ((str(folder), "config"), ("./elsewhere/config.json", "config"), ("own.json", "config")):
        told = inspected(home, source, "--gpus", "24GiB")
        assert (told["weights_from"], told["weights_bytes"]) == (told_from, 16060522496)
    assert inspected(home, "./tiny.gguf", "--gpus", "24GiB")["weights_from"] == "gguf"
    assert inspected(home, "a", "--gpus", "24GiB")["weights_from"] == "headers"
    assert home.left_behind() == []


def test_measured_numbers_are_marked(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(home, {"llama": LLAMA_3_8B})
    folder = home.folder / "bare" / "llama"
    options = ModelConfig(source=str(folder))
    monkeypatch.setenv("LOCAL_FUSION_CACHE", str(home.folder / "cache"))
    key = circumstances(
        options, read_facts(folder, options).fingerprint, 2, "24 GiB GPU", vllm_version(), batched_tokens=2048
    )
    remember(key, Measurement(weights_bytes=7 * GIB, residual_bytes=2 * GIB, sleeping_bytes=GIB))
    one, two, *_ = inspected(home, "llama", "--gpus", "24GiB")["splits"]
    assert (one["measured"], two["measured"]) == ([], ["asleep", "overhead", "weights"])
    shown = home.run("models", "inspect", "llama", "--gpus", "24GiB").out
    for row, measured in (("= weights", "7 GiB*"), ("all of it", "2 GiB*"), ("left on each GPU", "1 GiB*")):
        (line,) = [line for line in shown.splitlines() if line.strip().startswith(row)]
        assert re.findall(r"\S+ GiB\*", line) == [measured]
    assert "* measured" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["llama", "--gpus", "24GiB", "--tensor-parallel", "3"], 2, "possible sizes are 1, 2, 4, 8"),
        (["llama", "--gpus", "cpu:64GiB", "--tensor-parallel", "2"], 2, "on the CPU"),
        (["llama", "--gpus", "24"], 2, "24GiB"),
        (["lama", "--gpus", "24GiB"], 1, "the configured model 'llama'"),
        (["./gone", "--gpus", "24GiB"], 2, "does not exist"),
    ],
)
def test_wrong_use_is_one_message(known: Home, arguments: list[str], code: int, says: str) -> None:
    done = known.run("models", "inspect", *arguments)
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert "Traceback" not in done.err
