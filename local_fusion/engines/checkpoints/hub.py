"""A model of the Hugging Face hub: from its local cache if it is there whole, else downloaded."""

from __future__ import annotations

import threading
from pathlib import Path

from local_fusion.config.problems import shown
from local_fusion.engines.checkpoints.folders import CONFIG, checkpoint_problem
from local_fusion.engines.checkpoints.worker import Progress, run
from local_fusion.errors import ConfigError, SetupError

CONFIG_ONLY = "config-only"
"""Second argument of `hub_fetch`: download no weights."""


def find_on_hub(model_id: str, *, make: bool, progress: Progress, stop: threading.Event | None = None) -> Path:
    """The checkpoint folder of `model_id` in the hub's cache; with `make` downloaded now if it is not there whole.

    Raises `ConfigError` if it is no hub id or the hub has no such checkpoint, `SetupError` if it cannot be had here and
    now.
    """
    folder = _cached_snapshot(model_id)
    problem = checkpoint_problem(folder) if folder else None
    if folder is not None and problem is None:
        return folder
    state = f"is not whole in the Hugging Face cache ({problem})" if folder else "is not in the Hugging Face cache"
    if not make:
        raise SetupError(
            f"{model_id} {state}, and downloading was not asked for",
            hint=f"Run: local-fusion models pull {model_id} — or name a local folder (it starts with / or ./).",
        )
    if _is_offline():
        raise _offline(model_id, state)
    folder = _fetch([model_id], progress=progress, stop=stop)
    if problem := checkpoint_problem(folder):
        raise ConfigError(
            [f"{model_id} is not a whole checkpoint on the hub: {problem}"],
            hint="Use a repository with config.json, weights and a tokenizer.",
        )
    return folder


def find_config(model_id: str, *, fetch: bool, progress: Progress, stop: threading.Event | None = None) -> Path:
    """The folder in the hub's cache with at least the config.json of `model_id`; `fetch` downloads it if need be.

    Raises `ConfigError` if it is no hub id or the hub has no config of it, `SetupError` if it cannot be had here and
    now.
    """
    if (folder := _cached_snapshot(model_id)) is not None:
        return folder
    state = "is not in the Hugging Face cache"
    if not fetch:
        raise SetupError(
            f"{model_id} {state}, so nothing is known of it",
            hint=f"Run: local-fusion models pull --config-only {model_id} — or name a local folder (it starts with / "
            "or ./).",
        )
    if _is_offline():
        raise _offline(model_id, state)
    return _fetch([model_id, CONFIG_ONLY], progress=progress, stop=stop)


def _fetch(arguments: list[str], *, progress: Progress, stop: threading.Event | None) -> Path:
    return Path(
        run(
            "local_fusion.engines.checkpoints.hub_fetch",
            arguments,
            what=f"downloading {arguments[0]}",
            progress=progress,
            stop=stop,
            environment={"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        )
    )


def _offline(model_id: str, state: str) -> SetupError:
    return SetupError(
        f"{model_id} {state}, and HF_HUB_OFFLINE forbids downloading",
        hint="Unset HF_HUB_OFFLINE, or name a local folder (it starts with / or ./).",
    )


# huggingface_hub takes a while to import, and most commands never need it.


def _cached_snapshot(model_id: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(model_id, CONFIG)
    except HFValidationError as error:
        raise ConfigError(
            [f"{shown(model_id)} is no hub id: {str(error).partition(':')[0]}"],
            hint="Write a hub id as ORGANISATION/MODEL, as on the model's page; a local folder starts with / or ./",
        ) from None
    return Path(config).parent if isinstance(config, str) else None


def _is_offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE
