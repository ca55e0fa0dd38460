"""The bytes that tensors take once vLLM has loaded them: cast to one type, some kept at 32 bits, padded, in groups."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from local_fusion.planner.facts.architecture import Architecture
from local_fusion.planner.facts.fields import number, text
from local_fusion.planner.facts.model import Padding, Sharding, WeightGroup
from local_fusion.planner.facts.parameters import Weight
from local_fusion.planner.facts.quantization import (
    ELEMENT_BYTES,
    Quantization,
    is_companion,
    parameters_of,
    stored_as,
)
from local_fusion.planner.facts.sharding import VOCABULARY_ROWS, Place, is_loaded, place, shares
from local_fusion.planner.facts.tensors import Tensor

_FLOATS = ("F64", "F32", "F16", "BF16")
# Kept at 32 bits whatever the model's type: Mamba's and the gated delta rule's A (layers/mamba/), and the bias with
# which DeepSeek's and others' routers choose experts (models/deepseek_v2.py, glm4_moe.py, lfm2_moe.py …).
_FLOAT32 = re.compile(r"(A_log|mamba\.A|mixer\.A|e_score_correction_bias|expert_bias|moe_statics.*)$")


@dataclass(frozen=True, slots=True)
class Loading:
    """How one model is loaded. `element`: bytes of an unquantized weight."""

    shape: Architecture
    quantization: Quantization | None
    element: int
    pooling: bool

    def computed(self, weights: Iterable[Weight]) -> tuple[WeightGroup, ...]:
        """The groups of weights that do not exist yet."""
        return self._groups(self._expanded(weights))

    def stored(self, tensors: Iterable[Tensor], warnings: list[str]) -> tuple[WeightGroup, ...]:
        """The groups of a checkpoint's tensors."""
        loaded = [tensor for tensor in tensors if is_loaded(tensor.name, self.shape.layers)]
        heads = [tensor for tensor in loaded if place(tensor.name).group == "output head"]
        loaded = [tensor for tensor in loaded if not self._is_left_out(tensor.name)]
        if heads and self.shape.tied and not self.pooling:
            # vLLM loads it and drops it only if it equals the embeddings (`maybe_retie_word_embeddings`).
            warnings.append("the checkpoint holds an output head though the embeddings are tied: it is counted")
        if not heads and not self.shape.tied and not self.pooling and self.shape.vocab_size:
            head = Weight("lm_head.weight", (self.shape.vocab_size, self.shape.hidden_size))
            loaded += [tensor for tensor, _ in self._expanded([head])]
        online = self.quantization is not None and not any(_is_packed(tensor) for tensor in loaded)
        return self._groups(self._quantized_online(loaded) if online else ((tensor, 1) for tensor in loaded))

    def _is_left_out(self, name: str) -> bool:
        """Embedding models have no output head, and BERT's pooler is only built for classifying (`models/bert.py`)."""
        group = place(name).group if self.pooling else ""
        return group == "output head" or (group == "pooler" and self.shape.name.endswith("Model"))

    def _expanded(self, weights: Iterable[Weight]) -> Iterator[tuple[Tensor, int]]:
        element = "F32" if self.element == 4 else "BF16"
        for weight in weights:
            if self._is_left_out(weight.name):
                continue
            if weight.linear and self.quantization is not None and self.quantization.covers(weight.name):
                yield from stored_as(weight, self.quantization, element)
            else:
                tensor = Tensor(weight.name, element, weight.shape, 0)
                yield Tensor(weight.name, element, weight.shape, tensor.elements * self.element), weight.count

    def _quantized_online(self, tensors: Iterable[Tensor]) -> Iterator[tuple[Tensor, int]]:
        """A 16-bit checkpoint that vLLM quantizes while it loads: its linear weights shrink."""
        for tensor in tensors:
            found = place(tensor.name)
            linear = found.group in ("attention", "mlp", "experts", "shared experts", "recurrent")
            linear = linear and found.parameter in ("weight", "") and found.role != "whole" and min(tensor.shape) > 1
            quantization = self.quantization
            if quantization is None or not linear or len(tensor.shape) < 2 or not quantization.covers(tensor.name):
                yield tensor, 1
                continue
            *many, outputs, inputs = tensor.shape
            count = tensor.elements // (outputs * inputs) if many else 1
            weight = Weight(tensor.name, (outputs, inputs), True, count)
            yield from stored_as(weight, quantization, "F32" if self.element == 4 else "BF16")

    def _groups(self, tensors: Iterable[tuple[Tensor, int]]) -> tuple[WeightGroup, ...]:
        sums: dict[tuple[str, Sharding], list[float]] = {}
        states = self._shared_states()
        for tensor, count in tensors:
            found = place(tensor.name)
            size, parameters = self._bytes(tensor, found), parameters_of(tensor, self.quantization)
            for sharding, part in shares(found, tensor.shape, self.shape, states):
                entry = sums.setdefault((found.group, sharding), [0, 0])
                entry[0] += size * count * part
                entry[1] += parameters * count * part
        absorbed = self._absorbed()
        if absorbed:
            sums["absorbed attention", "split"] = [absorbed, 0]
        return tuple(
            WeightGroup(name, round(size), round(parameters), sharding, self._padding(name, sharding))
            for (name, sharding), (size, parameters) in sorted(sums.items())
        )

    def _bytes(self, tensor: Tensor, found: Place) -> int:
        elements = tensor.elements
        if found.role == "vocabulary" and tensor.dtype in _FLOATS and tensor.shape:
            rows = tensor.shape[0]
            elements = elements // max(1, rows) * (-(-rows // VOCABULARY_ROWS) * VOCABULARY_ROWS)
        if tensor.dtype not in _FLOATS:
            return tensor.bytes
        router = found.group == "router" and found.parameter == "weight" and "shared" not in tensor.name
        if _FLOAT32.search(tensor.name) or (router and self._wide_router()):
            return elements * 4
        if self.quantization is not None and is_companion(tensor.name):
            return tensor.bytes
        return elements * self.element

    def _padding(self, group: str, sharding: Sharding) -> Padding | None:
        """MXFP4's kernels, as Marlin aligns them, which is what most cards use.

        Hopper's Triton kernels pad less, so that this is up to a tenth too much there. Source:
        `mxfp4_round_up_hidden_size_and_intermediate_size` in `layers/fused_moe/oracle/mxfp4.py`.
        """
        experts, hidden = self.shape.experts, self.shape.hidden_size
        mixed = self.quantization is not None and self.quantization.format == "mxfp4"
        if group != "experts" or sharding != "split" or not mixed or experts is None or not (hidden and experts.inner):
            return None
        return Padding(hidden, 256, experts.inner, 128)

    def _wide_router(self) -> bool:
        wide = self.shape.family.router_float32 or text(self.shape.fields, "moe_router_dtype") == "float32"
        return wide or self.shape.kind == "glm_moe_dsa"

    def _shared_states(self) -> int:
        """Rows of Mamba-2's B and C, which every rank has where there is one group of them (`mamba_mixer2.py`)."""
        fields = self.shape.fields
        if "mamba2" not in self.shape.mixers and "parallel" not in self.shape.mixers:
            return 0
        if (number(fields, "mamba_n_groups", "n_groups") or 1) > 1:
            return 0
        return 2 * (number(fields, "mamba_d_state", "ssm_state_size", "state_size") or 128)

    def _absorbed(self) -> int:
        """MLA multiplies with `kv_b_proj` by halves, which vLLM unpacks beside it if it is quantized.

        Source: `MLAAttention.process_weights_after_loading`; unquantized the halves are views.
        """
        latent, quantization = self.shape.latent, self.quantization
        if latent is None or quantization is None or not quantization.covers("model.layers.0.self_attn.kv_b_proj"):
            return 0
        return self.shape.layers * self.shape.heads * (latent.unrotated + latent.value) * latent.rank * self.element


def _is_packed(tensor: Tensor) -> bool:
    return tensor.dtype not in (*_FLOATS, "I64", "BOOL") and ELEMENT_BYTES.get(tensor.dtype, 0) <= 4
