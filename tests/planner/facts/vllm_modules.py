"""Run as a program: builds vLLM's own model classes without memory, as one of several ranks, and weighs them.

Reads `[[name, config, sizes], …]` from stdin; writes `{name: {size: bytes, or why vLLM refuses}}` as the last line.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}


def weigh(config: dict[str, Any], sizes: list[int]) -> dict[int, int | str]:
    """Bytes of all parameters of a rank, for each tensor-parallel size."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.distributed import parallel_state
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        settings = EngineArgs(
            model=folder, skip_tokenizer_init=True, enforce_eager=True, max_model_len=512
        ).create_engine_config()
    found: dict[int, int | str] = {}
    with set_current_vllm_config(settings):
        if parallel_state._WORLD is None:
            with tempfile.NamedTemporaryFile() as meeting:
                parallel_state.init_distributed_environment(1, 0, f"file://{meeting.name}.store", 0, "gloo")
            parallel_state.ensure_model_parallel_initialized(1, 1)
            parallel_state._EP = parallel_state._TP
        group: Any = parallel_state._TP
        dtype: Any = settings.model_config.dtype
        for size in sizes:
            group.world_size = size  # all that the layers ask for to know their share
            settings.compilation_config.static_forward_context.clear()
            try:
                with set_default_torch_dtype(dtype), torch.device("meta"):
                    model = initialize_model(vllm_config=settings)
                parameters = {id(parameter): parameter for parameter in model.parameters()}.values()
                found[size] = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
            except (AssertionError, ValueError, ZeroDivisionError, NotImplementedError) as error:
                found[size] = f"{type(error).__name__}: {error}"
            finally:
                group.world_size = 1
    return found


if __name__ == "__main__":
    weighed = {name: weigh(config, sizes) for name, config, sizes in json.load(sys.stdin)}
    print(json.dumps(weighed))
