"""What is known of a checkpoint's weights before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a checkpoint: its name, its safetensors type (`BF16`, `F8_E4M3` …), and its bytes as stored."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def elements(self) -> int:
        """How many elements there are."""
        elements = 1
        for size in self.shape:
            elements *= size
        return elements


@dataclass(frozen=True, slots=True)
class Stored:
    """The weights beside a config.json: tensors from safetensors headers, else bytes of other files (`*.bin`).

    `gguf_elements` counts the elements of a GGUF, which is imported as 16-bit weights. All empty: no weights yet.
    `sentence_transformer`: a `modules.json` lies beside, by which vLLM knows an embedding model.
    """

    tensors: tuple[Tensor, ...] = ()
    files_bytes: int = 0
    gguf_elements: int = 0
    sentence_transformer: bool = False
