from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from local_fusion.config.checks import check_config
from local_fusion.config.schema import Config, ModelConfig
from local_fusion.engines.command import EngineCommand, core_list, engine_command, smaller_cache, with_smaller_cache
from tests.conftest import placement


def command(
    *, environ: Mapping[str, str] | None = None, placed: Mapping[str, Any] | None = None, **options: Any
) -> EngineCommand:
    model = ModelConfig(source="x", **options)
    return engine_command(
        placement(**(placed or {})), model, socket=Path("/run/q.sock"), python="/v/bin/python", environ=environ or {}
    )


def option(built: EngineCommand, name: str) -> str | None:
    """The value after `name`; None where it is not given."""
    return built.argv[built.argv.index(name) + 1] if name in built.argv else None


def test_the_engine_listens_on_its_socket_only_under_its_configured_name() -> None:
    built = command()
    assert built.argv[:3] == ("/v/bin/python", "-m", "vllm.entrypoints.openai.api_server")
    assert option(built, "--uds") == "/run/q.sock"
    assert option(built, "--served-model-name") == "qwen"
    assert option(built, "--model") == "/models/qwen"
    assert "--port" not in built.argv


def test_the_sockets_between_vllms_processes_lie_in_the_folder_that_is_removed_at_the_end() -> None:
    built = command(environ={"VLLM_RPC_BASE_PATH": "/elsewhere"})
    assert built.env["VLLM_RPC_BASE_PATH"] == "/run"


def test_an_engine_fetches_media_from_nowhere_but_the_hosts_listed_and_follows_no_redirects() -> None:
    model = ModelConfig(source="x")
    where: dict[str, Any] = {"socket": Path("/q"), "python": "python", "environ": {}}
    # To vLLM an empty list means every host.
    assert option(engine_command(placement(), model, **where), "--allowed-media-domains") == "none.invalid"
    built = engine_command(placement(), model, media_domains=["a.org", "b.org"], **where)
    start = built.argv.index("--allowed-media-domains")
    assert built.argv[start + 1 : start + 4] == ("a.org", "b.org", built.argv[start + 3])
    assert built.argv[start + 3].startswith("--")
    assert built.env["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    smaller = with_smaller_cache(placement(max_concurrent_requests=8.0), model, media_domains=["a.org"], **where)
    assert smaller is not None
    assert option(smaller.command, "--allowed-media-domains") == "a.org"


def test_memory_is_given_in_explicit_bytes() -> None:
    built = command(placed={"kv_cache_bytes": 123456789, "max_model_len": 2048}, max_num_seqs=7)
    assert option(built, "--kv-cache-memory-bytes") == "123456789"
    assert option(built, "--max-model-len") == "2048"
    assert option(built, "--max-num-seqs") == "7"


def test_a_gpu_engine_sees_only_its_gpus_in_the_order_in_which_they_were_counted() -> None:
    placed = {"kind": "cuda", "devices": (2, 3), "tensor_parallel": 2}
    built = command(placed=placed, environ={"CUDA_VISIBLE_DEVICES": "0"})
    assert built.env["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert built.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert option(built, "--tensor-parallel-size") == "2"


def test_a_gpu_engine_does_not_insist_on_an_empty_gpu_and_batches_modestly() -> None:
    built = command(placed={"kind": "cuda"})
    assert option(built, "--gpu-memory-utilization") == "0.01"
    assert option(built, "--max-num-batched-tokens") == "2048"
    assert "--enforce-eager" not in built.argv
    assert "TORCH_COMPILE_DISABLE" not in built.env


def test_a_step_has_as_many_tokens_as_were_planned() -> None:
    for kind in ("cuda", "cpu"):
        assert option(command(placed={"kind": kind, "batched_tokens": 4096}), "--max-num-batched-tokens") == "4096"


def test_a_model_without_a_kv_cache_is_not_measured_by_vllm_either() -> None:
    assert option(command(placed={"kv_cache_bytes": 0}), "--kv-cache-memory-bytes") == "1048576"


def test_a_step_without_room_for_a_token_of_each_sequence_is_refused() -> None:
    command(max_num_batched_tokens=256, max_num_seqs=256)
    with pytest.raises(ValidationError, match=r"is 255 but must be at least max_num_seqs \(256\)"):
        command(max_num_batched_tokens=255, max_num_seqs=256)


def test_a_cpu_engine_compiles_nothing_and_obeys_the_planned_bytes() -> None:
    built = command(environ={"VLLM_CPU_KVCACHE_SPACE": "40"})
    assert "--enforce-eager" in built.argv
    assert built.env["TORCH_COMPILE_DISABLE"] == "1"
    assert "VLLM_CPU_KVCACHE_SPACE" not in built.env
    assert "--gpu-memory-utilization" not in built.argv


def test_compilation_on_the_cpu_can_be_asked_for() -> None:
    built = command(eager=False)
    assert "--enforce-eager" not in built.argv
    assert "TORCH_COMPILE_DISABLE" not in built.env


def test_graphs_on_a_gpu_can_be_declined() -> None:
    assert "--enforce-eager" in command(placed={"kind": "cuda"}, eager=True).argv


def test_threads_are_bound_only_where_the_placement_names_cores() -> None:
    assert command(placed={"cores": (0, 1, 2, 3, 8)}).env["VLLM_CPU_OMP_THREADS_BIND"] == "0-3,8"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in command().env


@pytest.mark.parametrize(("cores", "written"), [((0,), "0"), ((3, 1, 2), "1-3"), ((0, 2, 4, 5), "0,2,4-5")])
def test_cores_are_written_as_ranges(cores: tuple[int, ...], written: str) -> None:
    assert core_list(cores) == written


def test_nothing_leaves_the_machine_and_no_secret_reaches_the_engine() -> None:
    secrets = dict.fromkeys(["HF_TOKEN", "OPENAI_API_KEY", "VLLM_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD"], "s")
    built = command(environ={**secrets, "PATH": "/bin", "HF_HUB_OFFLINE": "0"})
    assert built.env["PATH"] == "/bin"
    assert not set(secrets) & set(built.env)
    for name in ("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "VLLM_DO_NOT_TRACK"):
        assert built.env[name] == "1"


def test_every_option_of_a_model_reaches_the_command_line() -> None:
    built = command(
        placed={"batched_tokens": 512},
        dtype="float16",
        kv_cache_dtype="fp8",
        quantization="awq",
        chat_template="/t.jinja",
        trust_remote_code=True,
    )
    assert option(built, "--max-num-batched-tokens") == "512"
    assert option(built, "--dtype") == "float16"
    assert option(built, "--kv-cache-dtype") == "fp8"
    assert option(built, "--quantization") == "awq"
    assert option(built, "--chat-template") == "/t.jinja"
    assert "--trust-remote-code" in built.argv


def test_what_is_left_at_auto_is_left_to_vllm() -> None:
    built = command()
    for name in ("--dtype", "--kv-cache-dtype", "--quantization", "--chat-template", "--trust-remote-code"):
        assert name not in built.argv


def test_json_comes_without_whitespace_from_a_backend_that_can_do_so() -> None:
    assert json.loads(option(command(), "--structured-outputs-config") or "") == {
        "backend": "guidance",
        "disable_any_whitespace": True,
    }


def test_a_model_that_calls_tools_has_its_parser_and_the_backend_that_can_hold_it_to_them() -> None:
    built = command(tool_call_parser="hermes")
    assert option(built, "--tool-call-parser") == "hermes"
    assert "--enable-auto-tool-choice" in built.argv
    assert json.loads(option(built, "--structured-outputs-config") or "") == {
        "backend": "xgrammar",
        "disable_any_whitespace": True,
    }
    assert not {"--tool-call-parser", "--enable-auto-tool-choice"} & set(command().argv)


def test_a_model_that_thinks_aloud_has_its_parser() -> None:
    assert option(command(reasoning_parser="qwen3"), "--reasoning-parser") == "qwen3"
    assert option(command(), "--reasoning-parser") is None


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("--enable-auto-tool-choice", "tool_call_parser"),
        ("--tool-call-parser=hermes", "tool_call_parser"),
        ("--reasoning-parser=qwen3", "reasoning_parser"),
    ],
)
def test_vllms_own_flags_for_parsers_are_refused_in_favour_of_the_options(argument: str, named: str) -> None:
    config = Config(models={"qwen": ModelConfig(source="x", extra_args=[argument])})
    (problem,) = check_config(config)
    assert f"use the option `{named}` instead" in problem.message


def test_extra_arguments_come_last_untouched() -> None:
    extra = ["--max-num-seqs", "9", "--seed=3"]
    assert command(extra_args=extra).argv[-3:] == tuple(extra)


@pytest.mark.parametrize(
    ("asleep", "sleeps"), [("level 1", True), ("level 2", True), ("stopped", False), (None, False)]
)
def test_only_engines_that_sleep_to_make_room_can_be_told_to(asleep: str | None, sleeps: bool) -> None:
    built = command(placed={"kind": "cuda", "asleep": asleep}, environ={"VLLM_SERVER_DEV_MODE": "1"})
    assert built.sleeps is sleeps
    assert ("--enable-sleep-mode" in built.argv) is sleeps
    assert ("VLLM_SERVER_DEV_MODE" in built.env) is sleeps


def test_sleep_can_be_asked_for_whatever_the_placement_says() -> None:
    model = ModelConfig(source="x")
    built = engine_command(placement(), model, socket=Path("/q"), python="python", environ={}, sleeps=True)
    assert built.sleeps


@pytest.mark.parametrize(
    ("size", "requests", "smaller"),
    [
        (2**30, 8.0, 3 * 2**28),
        (1000, 1.25, 800),
        (1000, 1.1, 910),
        (1000, 1.0, None),
        (1000, 0.5, None),
        (0, 0.0, None),
    ],
    ids=["three quarters", "one request", "rounded up", "exactly one", "not even one", "no cache"],
)
def test_a_smaller_cache_has_three_quarters_but_holds_one_request(
    size: int, requests: float, smaller: int | None
) -> None:
    found = smaller_cache(placement(kv_cache_bytes=size, max_concurrent_requests=requests))
    assert (found.kv_cache_bytes if found else None) == smaller
    assert found is None or found.max_concurrent_requests >= 1


def test_the_command_with_a_smaller_cache_differs_in_nothing_else_and_says_what_it_does() -> None:
    placed = placement(kv_cache_bytes=2**30, max_concurrent_requests=8.0, asleep="level 1", kind="cuda")
    model, where = ModelConfig(source="x"), {"socket": Path("/run/q.sock"), "python": "python"}
    smaller = with_smaller_cache(placed, model, environ={}, **where)  # type: ignore[arg-type]
    planned = engine_command(placed, model, environ={}, **where)  # type: ignore[arg-type]
    assert smaller is not None
    changed = [pair for pair in zip(planned.argv, smaller.command.argv, strict=True) if pair[0] != pair[1]]
    assert changed == [(str(2**30), str(3 * 2**28))]
    assert (smaller.command.env, smaller.saved_bytes) == (planned.env, 2**28)
    assert smaller.note == "KV cache lowered from 1 GiB to 768 MiB after running out of memory twice"
