"""Why an engine failed, from the end of its log and its exit status: a pure function over vLLM's own messages."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DECORATION = re.compile(r"^(?:\([^()]+ pid=\d+\) )*(?:ERROR \d\d-\d\d [\d:]+ \[[^\]]+\] ?)?")
_CHATTER = re.compile(
    r"^(?:\([^()]+ pid=\d+\) )*(?:DEBUG|INFO|WARNING)\b|Warning: |^\s*warnings\.warn|^\s+File \"|^Traceback|^\s+\[--"
    r"|^ {4}|^nanobind:|^See https:|^ - |it/s\]"
)
_EXCEPTION = re.compile(r"^(?:[A-Za-z_][\w.]*(?:Error|Exception)|[\w.]+: error): \S")
# Some rules take time that grows with the square of a line's length, and no message is this long.
_LONGEST_LINE = 4096
_POINTER = re.compile(r"Engine core initialization failed|check the stack trace above|[Ss]ee root cause above")


@dataclass(frozen=True, slots=True)
class Cause:
    """What went wrong, for programs (`code`) and people; `permanent`: starting again cannot help."""

    code: str
    message: str
    hint: str = ""
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: str
    cause: Cause

    def matches(self, text: str) -> re.Match[str] | None:
        return re.search(self.pattern, text, re.MULTILINE)


_SMALLER = "Leave it more memory: a smaller kv_cache_bytes or max_model_len, or fewer models at the same time."
_CHECKPOINT = "Fetch or import the checkpoint again, and check `source` in the configuration."

# The first rule that matches wins, so what is more specific comes first. `{0}` is the pattern's first group.
_RULES = (
    _Rule(
        r"No module named '?(vllm)(?!\.)\b",
        Cause("vllm_missing", "vLLM is not installed for the Python that runs engines", "Run the set-up again.", True),
    ),
    _Rule(
        r"invalid ((?:tool call|reasoning) parser: [^\n]{1,80}?) \(chose from",
        Cause(
            "unknown_parser",
            "vLLM knows no {0}",
            "Look up the name in vLLM's documentation, and mend `tool_call_parser` or `reasoning_parser` of the model.",
            True,
        ),
    ),
    _Rule(
        r"(operator torchvision::nms does not exist)",
        Cause(
            "torchvision_mismatch",
            "torchvision was built for another torch than the one installed ({0})",
            "Uninstall torchvision, torchaudio and torchcodec from the engines' Python; text models need none of them.",
            True,
        ),
    ),
    _Rule(
        r"(NVIDIA driver on your system is too old|CUDA driver version is insufficient[^\n]*)",
        Cause("driver_too_old", "the {0}", "Update the NVIDIA driver, or install a vLLM for an older CUDA.", True),
    ),
    _Rule(
        r"(no kernel image is available for execution on the device)",
        Cause("gpu_too_old", "this vLLM was not built for this GPU ({0})", "Use another GPU.", True),
    ),
    _Rule(
        r"(Failed to infer device type|no CUDA-capable device[^\n]*|Found no NVIDIA driver[^\n]*)",
        Cause(
            "no_gpu",
            "vLLM finds no GPU that it can use ({0})",
            "See whether `nvidia-smi` shows the GPU; where there is none, install vLLM for the CPU.",
            True,
        ),
    ),
    _Rule(
        r"(Bfloat16 is only supported on GPUs [^\n]*)",
        Cause("dtype_unsupported", "{0}", "Set dtype: float16 for this model.", True),
    ),
    _Rule(
        r"unrecognized arguments: ([^\n]+)|error: (argument [^\n]+)",
        Cause("unknown_argument", "vLLM does not accept the argument: {0}", "Correct extra_args of this model.", True),
    ),
    _Rule(
        r"trust_remote_code=True|contains custom code which must be executed",
        Cause(
            "remote_code",
            "the checkpoint comes with Python code of its own, which may only run with your consent",
            "Set trust_remote_code: true for this model if you trust where it comes from.",
            True,
        ),
    ),
    _Rule(
        r"max seq len \((\d+)\), \(([\d.]+ GiB) KV cache is needed, which is larger than the available KV cache memory "
        r"\(([\d.]+ GiB)\)",
        Cause(
            "kv_cache_too_small",
            "one request of {0} tokens needs a KV cache of {1}, but the engine was given {2}",
            "Raise kv_cache_bytes or lower max_model_len.",
            True,
        ),
    ),
    _Rule(
        r"User-specified max_model_len \((\d+)\) is greater than the derived max_model_len \((.*?)(?: in model|\)\.)",
        Cause(
            "context_too_long",
            "max_model_len {0} is more than the model was made for ({1})",
            "Lower max_model_len or leave it out.",
            True,
        ),
    ),
    _Rule(
        r"(Total number of attention heads [^\n]+|[^\n]*must be divisible by tensor[^\n]+)",
        Cause("tensor_parallel", "{0}", "Choose another tensor_parallel or number of gpus for this model.", True),
    ),
    _Rule(
        r"(Available memory on node [^\n]*?GiB\)\.|No available memory for the cache blocks|Free memory on device "
        r"[^\n]*?(?:GiB\)\.|$))",
        Cause("no_free_memory", "there is not enough free memory: {0}", _SMALLER),
    ),
    _Rule(
        # "CUDA Error" is said by vLLM's own allocator when it wakes (csrc/cumem_allocator.cpp), "CUDA error" by torch.
        r"(CUDA out of memory\.[^\n]*|torch\.OutOfMemoryError[^\n]*|CUDA [Ee]rror: out of memory"
        r"|NCCL[^\n]*out of memory)",
        Cause("out_of_gpu_memory", "the GPU's memory ran out: {0}", _SMALLER),
    ),
    _Rule(
        r"(std::bad_alloc|DefaultCPUAllocator[^\n]*|can't allocate memory[^\n]*|^MemoryError[^\n]*|"
        r"Cannot allocate memory)",
        Cause("out_of_memory", "the machine's memory ran out: {0}", _SMALLER),
    ),
    _Rule(
        r"(No space left on device)",
        Cause("disk_full", "the disk is full ({0})", "Free space in the temporary folder, the cache and /dev/shm."),
    ),
    _Rule(
        r"Model architectures? (\[.*?\]|\S+) (?:are|is) not supported"
        r"|has model type (`[^`]+`) but Transformers does not",
        Cause(
            "unsupported_architecture",
            "the installed vLLM does not know the model's architecture {0}",
            "Use another model, or a newer vLLM.",
            True,
        ),
    ),
    _Rule(
        r"(Unknown quantization method: [^\n\[]+|Cannot find the config file for \w+"
        r"|Quantization method specified [^\n]+)",
        Cause("quantization", "{0}", "Correct quantization of this model or leave it out.", True),
    ),
    _Rule(
        r"(?:SafetensorError|safetensors_rust\.\w+): ([^\n]+)",
        Cause("corrupt_weights", "a weight file is damaged or incomplete: {0}", _CHECKPOINT, True),
    ),
    _Rule(
        r"(Cannot find any model weights with [^\n]+)",
        Cause("no_weights", "{0}", _CHECKPOINT, True),
    ),
    _Rule(
        r"Repo id must be in the form [^\n]*?: '([^']+)'|Invalid repository ID or local directory specified: '([^']+)'",
        Cause("bad_model_folder", "there is no checkpoint in {0} (it has no config.json)", _CHECKPOINT, True),
    ),
    _Rule(
        r"(config file at '[^']+' is not a valid JSON file)",
        Cause("bad_model_folder", "the {0}", _CHECKPOINT, True),
    ),
    _Rule(
        r"(Couldn't instantiate the backend tokenizer|Can't load tokenizer[^\n]*|Unable to load vocabulary[^\n]*)",
        Cause("no_tokenizer", "the checkpoint has no tokenizer that can be read ({0})", _CHECKPOINT, True),
    ),
    _Rule(
        r"(The supplied chat template[^\n]*|chat template [^\n]*(?:doesn't exist|does not exist|not found)[^\n]*)",
        Cause("chat_template", "{0}", "Correct chat_template of this model.", True),
    ),
    _Rule(
        r"([Aa]ddress already in use[^\n]*)",
        Cause("address_in_use", "the socket or a port is taken by another process ({0})", "Stop the other process."),
    ),
    _Rule(
        r"(Illegal instruction|SIGILL|'EngineCore': -4)",
        Cause(
            "illegal_instruction",
            "the engine used a CPU instruction that this machine lacks ({0})",
            "Another dtype or model shape may avoid it; otherwise vLLM must be built for this CPU.",
            True,
        ),
    ),
    _Rule(  # requests are validated too, so only the classes of options count
        r"^pydantic_core\S*ValidationError: \d+ validation errors? for (\w+(?:Config|Args))\n"
        r"(?:\s+Value error, ([^\n]+?)|(\S[^\n]*\n\s+[^\n]+?))(?: \[type=|$)",
        Cause(
            "invalid_options",
            "vLLM refuses its options: {1} ({0})",
            "Correct the options or extra_args of this model.",
            True,
        ),
    ),
)
OUT_OF_RAM = Cause("out_of_memory", "the kernel killed it because the machine's memory ran out", _SMALLER)
_KILLED = Cause(
    "killed",
    "it was killed (SIGKILL), as the kernel does when the machine's memory runs out",
    f"`dmesg` tells who was killed for lack of memory. {_SMALLER}",
)


OUT_OF_MEMORY = frozenset({"out_of_gpu_memory", "no_free_memory", "out_of_memory"})
"""Codes of the causes that an engine with a smaller KV cache may not meet."""


def likely_cause(log_tail: str, exit_code: int | None) -> Cause:
    """The cause that the end of an engine's log names; where none is recognised, its last error in its own words.

    `exit_code` is 128 + n or -n where signal n ended it, None where it was still running.
    """
    bare = (_DECORATION.sub("", line[:_LONGEST_LINE]).rstrip() for line in log_tail.splitlines())
    lines = [line for line in bare if line and not _CHATTER.search(line)]
    text = "\n".join(lines)
    for rule in _RULES:
        if found := rule.matches(text):
            groups = [" ".join(group.split()) for group in found.groups() if group is not None]
            cause = rule.cause
            return Cause(cause.code, cause.message.format(*groups), cause.hint, cause.permanent)
    if exit_code in (-4, 132):
        return likely_cause("Illegal instruction", None)
    if exit_code in (-9, 137) or "'EngineCore': -9" in text:
        return _KILLED
    ending = "it is still running" if exit_code is None else f"it ended with {_status(exit_code)}"
    words = _last_words(lines)
    if words is None:
        return Cause("unknown", f"{ending} and wrote nothing about why")
    return Cause("unknown", f"{ending}; its last words: {words}")


def _last_words(lines: list[str]) -> str | None:
    for position in range(len(lines) - 1, -1, -1):
        line = lines[position]
        if _EXCEPTION.match(line) and not _POINTER.search(line):
            # pydantic says what is wrong on the line after.
            follows = " ".join(part.strip() for part in lines[position + 1 : position + 2])
            said = f"{line} {follows}" if "validation error" in line else line
            return said.split(" [type=")[0][:500]
    return lines[-1][:500] if lines else None


def _status(code: int) -> str:
    number = -code if code < 0 else code - 128
    return f"signal {number}" if 0 < number < 65 else f"exit status {code}"
