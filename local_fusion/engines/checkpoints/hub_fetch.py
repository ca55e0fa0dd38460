"""Downloads the useful files of a hub repository; runs in a process of its own (see `worker`)."""

from __future__ import annotations

import errno
import fnmatch
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from local_fusion.engines.checkpoints.folders import CONFIG, MODULES
from local_fusion.engines.checkpoints.hub import CONFIG_ONLY
from local_fusion.errors import ConfigError, LocalFusionError, SetupError

_SAFETENSORS = "*.safetensors"
_PYTORCH = "pytorch_model*.bin"
# Config, tokenizer, chat template, and the code that `trust_remote_code` runs.
_BESIDE_WEIGHTS = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.py")
_SKIPPED = ("original/*", "onnx/*", "openvino/*", "consolidated*.safetensors", "*.pth")


def work(arguments: list[str], say: Callable[[str], None]) -> str:
    """Download the model `arguments[0]`, or its config only; the result is its folder in the hub's cache.

    Raises `ConfigError` if the hub has no such checkpoint, `SetupError` if it cannot be had here and now.
    """
    model_id = arguments[0]
    say(f"looking for {model_id} on the hub")
    try:
        info = HfApi().model_info(model_id, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        sizes = _config(sizes, model_id) if CONFIG_ONLY in arguments[1:] else wanted_files(sizes, model_id)
        _check_space(model_id, sizes)
        with _watched(model_id, sum(sizes.values()), say):
            return snapshot_download(model_id, allow_patterns=[_only(name) for name in sizes])
    except LocalFusionError:
        raise
    except Exception as error:
        raise _translated(error, model_id) from error


def _only(name: str) -> str:
    """A pattern that matches `name` and nothing else."""
    return name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")


def _config(sizes: Mapping[str, int], model_id: str) -> dict[str, int]:
    if CONFIG in sizes:
        return {name: sizes[name] for name in (CONFIG, MODULES) if name in sizes}
    raise ConfigError(
        [f"{model_id} has no {CONFIG} on the hub"],
        hint="Use a repository with a checkpoint in transformers' format.",
    )


def wanted_files(sizes: Mapping[str, int], model_id: str) -> dict[str, int]:
    """The files to download, of all files with their bytes: one kind of weights, and what lies beside them.

    Raises `ConfigError` if there are no weights of a kind that can be loaded.
    """
    useful = {name: size for name, size in sizes.items() if not _matches(name, _SKIPPED)}
    weights = {name: size for name, size in useful.items() if "/" not in name and _matches(name, (_SAFETENSORS,))}
    if not weights:
        weights = {name: size for name, size in useful.items() if "/" not in name and _matches(name, (_PYTORCH,))}
    if not weights:
        if ggufs := sorted(name for name in sizes if name.lower().endswith(".gguf")):
            raise ConfigError(
                [f"{model_id} holds only GGUF files on the hub"],
                hint=f"Download the one you want and give its path: hf download {model_id} {ggufs[0]} --local-dir .",
            )
        raise ConfigError(
            [f"{model_id} has no weights (*.safetensors or pytorch_model*.bin) on the hub"],
            hint="Use a repository with a checkpoint in transformers' format.",
        )
    beside = {name: size for name, size in useful.items() if _matches(name, _BESIDE_WEIGHTS)}
    return {**beside, **weights}


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _storage(model_id: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / f"models--{model_id.replace('/', '--')}" / "blobs"


def _bytes_there(model_id: str) -> int:
    # A file may be renamed or removed while we look.
    total = 0
    for path in _storage(model_id).glob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def _check_space(model_id: str, sizes: Mapping[str, int]) -> None:
    folder = Path(constants.HF_HUB_CACHE)
    folder.mkdir(parents=True, exist_ok=True)
    missing = sum(sizes.values()) - _bytes_there(model_id)
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise _no_space(f"{model_id} needs {missing / 1e9:.1f} GB more in {folder}, where {free / 1e9:.1f} GB are free")


def _no_space(message: str) -> SetupError:
    return SetupError(message, hint="Make room there, or set HF_HOME to a folder on another disk.")


@contextmanager
def _watched(model_id: str, total: int, say: Callable[[str], None]) -> Iterator[None]:
    """Tell once a second how much is there."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            say(f"downloading {model_id}: {min(_bytes_there(model_id), total) / 1e9:.2f} of {total / 1e9:.2f} GB")

    say(f"downloading {model_id}: {total / 1e9:.2f} GB")
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _translated(error: Exception, model_id: str) -> LocalFusionError:
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        # Raised for a file that could not be had; why is in its cause.
        error = error.__cause__
    page = f"{constants.ENDPOINT}/{model_id}"
    if isinstance(error, GatedRepoError):
        return SetupError(
            f"{model_id} is gated: the hub gives it only to accounts that accepted its terms",
            hint=f"Accept them at {page}, then log in here (hf auth login) or set HF_TOKEN.",
        )
    if isinstance(error, RepositoryNotFoundError):
        return ConfigError(
            [f"there is no model {model_id} on the hub, or it is private"],
            hint="Check its spelling (ORGANISATION/MODEL, upper and lower case count); a local folder starts with / or "
            "./; for a private model log in (hf auth login) or set HF_TOKEN.",
        )
    if isinstance(error, HfHubHTTPError):
        return _translated_status(error, model_id)
    said = (str(error).strip() or repr(error)).splitlines()[0]
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _no_space(f"no space left on the disk of {constants.HF_HUB_CACHE}")
    if isinstance(error, PermissionError):
        return SetupError(
            f"the Hugging Face cache cannot be written: {said}",
            hint="Make it writable, or set HF_HOME to another folder.",
        )
    return SetupError(
        f"{model_id} cannot be downloaded from {constants.ENDPOINT}: {said}",
        hint="Check the network (behind a proxy: set https_proxy) and run it again; what is there already is kept.",
    )


def _translated_status(error: HfHubHTTPError, model_id: str) -> SetupError:
    status = error.response.status_code if error.response is not None else 0
    if status in (401, 403):
        return SetupError(
            f"the hub refused {model_id} to this account ({status})",
            hint="Log in with an account that may read it (hf auth login), or set HF_TOKEN to a valid token.",
        )
    if status == 429:
        return SetupError("the hub gets too many requests from here (429)", hint="Wait some minutes, or log in.")
    return SetupError(
        f"the hub failed on {model_id} (HTTP {status})", hint="Try again later; what is there already is kept."
    )
