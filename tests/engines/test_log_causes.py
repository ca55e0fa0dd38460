"""The logs in `logs/` are vLLM 0.32's own (CPU), from real starts that failed; frames and banner are cut out."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from local_fusion.engines.log_causes import likely_cause

LOGS = Path(__file__).parent / "logs"

PERMANENT = [
    ("missing_folder", "bad_model_folder", "no checkpoint in /models/nothere"),
    ("empty_folder", "bad_model_folder", "no checkpoint in /models/empty"),
    ("broken_config", "bad_model_folder", "config file at '/models/badjson/config.json' is not a valid JSON file"),
    ("unknown_architecture", "unsupported_architecture", "['FooForCausalLM']"),
    ("unknown_model_type", "unsupported_architecture", "`foo9`"),
    (
        "kv_cache_too_small",
        "kv_cache_too_small",
        "8192 tokens needs a KV cache of 0.18 GiB, but the engine was given 0.01",
    ),
    (
        "context_beyond_model",
        "context_too_long",
        "99999 is more than the model was made for (max_position_embeddings=8192",
    ),
    ("unknown_argument", "unknown_argument", "--frobnicate"),
    ("truncated_weights", "corrupt_weights", "incomplete metadata, file not fully covered"),
    ("no_weights", "no_weights", "Cannot find any model weights with `/models/noweights`"),
    ("no_tokenizer", "no_tokenizer", "no tokenizer"),
    ("remote_code", "remote_code", "Python code of its own"),
    ("wrong_quantization", "quantization", "gptq"),
]


@pytest.mark.parametrize(("log", "code", "words"), PERMANENT)
def test_what_will_not_change_by_itself_is_recognised_as_permanent(log: str, code: str, words: str) -> None:
    cause = likely_cause((LOGS / f"{log}.log").read_text(), 1)
    assert (cause.code, cause.permanent) == (code, True)
    assert words in cause.message
    assert cause.hint


def test_every_real_log_is_covered() -> None:
    assert {log for log, _, _ in PERMANENT} | {"kv_cache_beyond_memory"} == {file.stem for file in LOGS.iterdir()}


def test_memory_that_others_may_free_again_is_not_permanent() -> None:
    cause = likely_cause((LOGS / "kv_cache_beyond_memory.log").read_text(), 1)
    assert (cause.code, cause.permanent) == ("no_free_memory", False)
    assert "(93132.26 GiB)" in cause.message


@pytest.mark.parametrize(
    ("line", "code", "permanent"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "out_of_gpu_memory", False),
        ("ValueError: No available memory for the cache blocks. Try increasing", "no_free_memory", False),
        (
            "ValueError: Free memory on device cuda:0 (0.5/79.1 GiB) on startup is less than desired",
            "no_free_memory",
            False,
        ),
        # As reported from wakes, vLLM issue #47654.
        (
            "RuntimeError: CUDA Error: out of memory at csrc/cumem_allocator.cpp:139",
            "out_of_gpu_memory",
            False,
        ),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "out_of_memory", False),
        ("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory", "out_of_memory", False),
        (
            "KeyError: 'invalid tool call parser: foo (chose from { hermes,mistral })'",
            "unknown_parser",
            True,
        ),
        ("/venv/bin/python: No module named vllm", "vllm_missing", True),
        ("ModuleNotFoundError: No module named 'vllm'", "vllm_missing", True),
        ("RuntimeError: operator torchvision::nms does not exist", "torchvision_mismatch", True),
        ("RuntimeError: The NVIDIA driver on your system is too old (found version 11040)", "driver_too_old", True),
        ("RuntimeError: Failed to infer device type, please set the environment variable", "no_gpu", True),
        ("RuntimeError: CUDA error: no CUDA-capable device is detected", "no_gpu", True),
        ("RuntimeError: Found no NVIDIA driver on your system. Please check that you have", "no_gpu", True),
        ("RuntimeError: CUDA error: no kernel image is available for execution on the device", "gpu_too_old", True),
        ("OSError: [Errno 98] Address already in use", "address_in_use", False),
        ("OSError: [Errno 28] No space left on device", "disk_full", False),
        ("Fatal Python error: Illegal instruction", "illegal_instruction", True),
        ("ValueError: The supplied chat template (x.jinja) looks like a file path", "chat_template", True),
    ],
)
@pytest.mark.parametrize("prefix", ["", "(EngineCore pid=7) ERROR 11-22 02:45:25 [core.py:1510] "])
def test_known_messages_are_recognised_with_and_without_vllms_prefix(
    prefix: str, line: str, code: str, permanent: bool
) -> None:
    cause = likely_cause(f"{prefix}{line}\nRuntimeError: Engine core initialization failed. See root cause above.", 1)
    assert (cause.code, cause.permanent) == (code, permanent)
    assert cause.hint


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "  Value error, max_num_batched_tokens (128) must be at least max_num_seqs (256). [type=value_error]",
            "vLLM refuses its options: max_num_batched_tokens (128) must be at least max_num_seqs (256). (ModelConfig)",
        ),
        (
            "seed\n  Input should be greater than or equal to 0 [type=greater_than_equal, input_value=-1]",
            "vLLM refuses its options: seed Input should be greater than or equal to 0 (ModelConfig)",
        ),
    ],
)
@pytest.mark.parametrize("prefix", ["", "(APIServer pid=7) "])
def test_options_that_vllm_refuses_are_told_in_its_words_and_are_permanent(prefix: str, said: str, words: str) -> None:
    log = f"pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n{said}\n    For further"
    cause = likely_cause("".join(f"{prefix}{line}\n" for line in log.split("\n")), 1)
    assert (cause.code, cause.message, cause.permanent) == ("invalid_options", words, True)
    assert "extra_args" in cause.hint


def test_a_request_that_vllm_refused_is_not_taken_for_refused_options() -> None:
    log = (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ChatCompletionRequest\n"
        "n\n  Input should be a valid integer [type=int_type]\n"
    )
    cause = likely_cause(log, 1)
    assert (cause.code, cause.permanent) == ("unknown", False)


@pytest.mark.parametrize("code", [-9, 137])
def test_a_kill_without_a_word_is_told_as_what_the_kernel_does_when_memory_runs_out(code: int) -> None:
    assert likely_cause("INFO loading weights", code).code == "killed"


def test_an_engine_core_that_was_killed_is_recognised_from_the_servers_log() -> None:
    log = (
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': -9}"
    )
    assert likely_cause(log, 1).code == "killed"


@pytest.mark.parametrize("code", [-4, 132])
def test_an_illegal_instruction_is_recognised_by_the_signal(code: int) -> None:
    assert likely_cause("", code).code == "illegal_instruction"


def test_warnings_and_source_lines_of_tracebacks_are_never_taken_for_the_cause() -> None:
    log = (
        "(APIServer pid=1) WARNING 11-22 02:43:59 [x.py:1] errors like `OSError: [Errno 28] No space left on device`\n"
        '  File "/venv/x.py", line 3, in f\n'
        '    raise RuntimeError("CUDA out of memory. see x")\n'
        "KeyError: 'layers.3'\n"
    )
    cause = likely_cause(log, 1)
    assert cause.code == "unknown"
    assert cause.message == "it ended with exit status 1; its last words: KeyError: 'layers.3'"
    assert not cause.permanent


def test_where_nothing_is_recognised_the_last_error_is_quoted_not_what_points_to_it() -> None:
    log = (
        "(EngineCore pid=7) ERROR 11-22 02:45:25 [core.py:1510] KeyError: 'layers.3'\n"
        "RuntimeError: Engine core initialization failed. See root cause above. Failed: {'EngineCore': 1}\n"
        'nanobind: leaked 3 functions\n - leaked function ""\n'
    )
    assert likely_cause(log, 1).message.endswith("its last words: KeyError: 'layers.3'")


def test_silence_is_reported_as_such() -> None:
    assert likely_cause("", 139).message == "it ended with signal 11 and wrote nothing about why"
    assert likely_cause("", None).message == "it is still running and wrote nothing about why"


def test_a_line_without_an_end_is_judged_quickly_and_does_not_hide_the_others() -> None:
    began = time.process_time()
    log = "x" * 2**17 + "\nOSError: [Errno 28] No space left on device\n"
    assert likely_cause(log, 1).code == "disk_full"
    assert time.process_time() - began < 2
