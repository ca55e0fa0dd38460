"""Quantized weights: what a linear layer is stored as, and how many parameters a packed tensor stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from local_fusion.planner.facts.fields import Fields, flag, number, numbers, section, text, words
from local_fusion.planner.facts.parameters import Weight
from local_fusion.planner.facts.tensors import Tensor

Format = Literal["awq", "gptq", "fp8", "int8", "packed", "nvfp4", "mxfp4", "bitsandbytes"]

ELEMENT_BYTES = {
    **{"F64": 8.0, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2},
    **{"F8_E4M3": 1.0, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1, "F6_E2M3": 0.75, "F4": 0.5},
}

# Tensors that go with a quantized weight and are no parameters of the model.
_COMPANIONS = re.compile(
    r"(scale|scales|scale_inv|scale_2|global_scale|zeros|qzeros|zero_point|g_idx|weight_shape|SCB|absmax|quant_map)$"
    r"|quant_state\.|_scales$|(^|\.)(k|v|kv|input|output)_scale$"
)
_LONGEST_PATTERN = 200  # characters
_ANYTHING = re.compile(r"(?<!\\)\.[*+]\??")
# Each alternative starts with a sign of its own, so that these two do not backtrack themselves.
_SIGN = r"(?:[\w.:/-]|\\[.:/_w-]|(?:\\d|\[[\w-]+\])\+?)"
_PIECE = re.compile(rf"{_SIGN}*(?:\((?:\?:)?(?:{_SIGN}|\|)*\){_SIGN}*)?\$?")
_REPEATED = re.compile(r"(\\d|\[[\w-]+\])\+")
_ONLINE = {
    # vLLM quantizes while it loads (`vllm/config/quantization.py`); fp8_per_block keeps 128 x 128 blocks.
    **dict.fromkeys(("fp8", "fp8_per_tensor", "fp8_per_channel", "online"), "fp8"),
    "fp8_per_block": "fp8",
    **dict.fromkeys(("int8_per_channel_weight_only", "experts_int8"), "int8"),
    "bitsandbytes": "bitsandbytes",
    **dict.fromkeys(("mxfp4", "gpt_oss_mxfp4"), "mxfp4"),
    **dict.fromkeys(("nvfp4_per_token",), "nvfp4"),
}


@dataclass(frozen=True, slots=True)
class Quantization:
    """How linear weights are stored. `group` weights share a scale (0: an output channel does); `block` is fp8's.

    `skips` are module names, parts of them, or patterns that stay unquantized. `exact`: the format is one we know.
    """

    method: str
    format: Format
    bits: int = 8
    group: int = 0
    block: tuple[int, int] | None = None
    symmetric: bool = True
    double: bool = False
    per_tensor: bool = False
    experts_only: bool = False
    skips: tuple[str, ...] = ()
    exact: bool = True

    def covers(self, name: str) -> bool:
        """Whether the linear weight of this name is quantized."""
        module = name.removesuffix(".weight")
        if self.experts_only and ".experts" not in module:
            return False
        return not any(_matches(pattern, module) for pattern in self.skips)

    def unit(self) -> int:
        """What a rank's share of a linear layer's inner side must be a multiple of: no scale is shared by two ranks."""
        if self.format in ("awq", "gptq", "packed", "nvfp4", "mxfp4"):
            return self.group or 1
        return self.block[1] if self.block else 1


def read_quantization(config: Fields, fields: Fields, option: str | None) -> Quantization | None:
    """How the checkpoint is quantized, or how the option asks vLLM to quantize it; None: not at all."""
    found = section(config, "quantization_config") or section(fields, "quantization_config")
    found = found or section(config, "compression_config")
    if found:
        stored = _stored(found, option or "")
        understood = all(_pieces(pattern) is not None for pattern in stored.skips if pattern.startswith("re:"))
        return replace(stored, exact=stored.exact and understood)
    if option is None or option == "auto":
        return None
    if option not in _ONLINE:
        return _stored({}, option)
    block = (128, 128) if option == "fp8_per_block" else None
    kind: Format = _ONLINE[option]  # type: ignore[assignment]
    groups = {"bitsandbytes": 64, "nvfp4": 16, "mxfp4": 32}
    bits = 8 if kind in ("fp8", "int8") else 4
    experts = option in ("experts_int8", "mxfp4", "gpt_oss_mxfp4")
    return Quantization(option, kind, bits, groups.get(kind, 0), block, per_tensor=block is None, experts_only=experts)


def _stored(found: Fields, option: str) -> Quantization:
    method = text(found, "quant_method") or option
    skips = tuple(
        entry
        for name in ("modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules", "llm_int8_skip_modules")
        for entry in words(found, name)
    )
    if method in ("awq", "awq_marlin", "auto_awq"):
        group = number(found, "group_size", "q_group_size")
        bits = number(found, "bits", "w_bit") or 4
        return Quantization(method, "awq", bits, group, symmetric=False, skips=skips)
    if method in ("gptq", "gptq_marlin", "auto_gptq", "auto-round", "inc"):
        rules = tuple(f"re:{key[2:]}" for key in section(found, "dynamic") if key.startswith("-:"))
        symmetric = False  # zero points are stored whether or not they are needed
        group = number(found, "group_size")
        return Quantization(method, "gptq", number(found, "bits") or 4, group, symmetric=symmetric, skips=skips + rules)
    if method == "fp8" or method == "fbgemm_fp8":
        size = numbers(found, "weight_block_size")
        block = (size[0], size[1]) if len(size) == 2 and min(size) > 0 else None
        return Quantization(method, "fp8", block=block, per_tensor=block is None and method == "fp8", skips=skips)
    if method == "compressed-tensors":
        return _compressed(found, skips)
    if method.startswith("modelopt"):
        algorithm = text(found, "quant_algo") or text(section(found, "quantization"), "quant_algo")
        skips += words(section(found, "quantization"), "exclude_modules")
        if "FP4" in algorithm.upper() or method == "modelopt_fp4":
            return Quantization(method, "nvfp4", 4, number(found, "group_size") or 16, skips=skips)
        return Quantization(method, "fp8", per_tensor=True, skips=skips, exact="MIX" not in algorithm.upper())
    if method == "mxfp4":
        return Quantization(method, "mxfp4", 4, 32, experts_only=True, skips=skips)
    if method == "bitsandbytes":
        if flag(found, "load_in_8bit") or flag(found, "_load_in_8bit"):
            return Quantization(method, "int8", skips=skips)
        double = flag(found, "bnb_4bit_use_double_quant")
        return Quantization(method, "bitsandbytes", 4, 64, double=double, skips=skips)
    # Not known: as many bits as it names with a scale and a zero point for every 32 weights, else nothing is saved.
    bits = number(found, "bits", "w_bit", "weight_bits")
    skips = skips if 0 < bits <= 8 else ("re:.*",)
    return Quantization(method, "packed", 4 if bits <= 4 else 8, 32, symmetric=False, skips=skips, exact=False)


def _compressed(found: Fields, skips: tuple[str, ...]) -> Quantization:
    groups = [group for group in section(found, "config_groups").values() if isinstance(group, dict)]
    schemes = [section(group, "weights") for group in groups]
    weights = max(schemes, key=lambda scheme: number(scheme, "num_bits"), default={})
    exact = len({number(scheme, "num_bits") for scheme in schemes}) == 1
    bits = number(weights, "num_bits") or 8
    strategy = text(weights, "strategy")
    size = numbers(weights, "block_structure")
    block = (size[0], size[1]) if strategy == "block" and len(size) == 2 and min(size) > 0 else None
    group = number(weights, "group_size") if "group" in strategy else 0
    tensor = strategy == "tensor"
    if text(weights, "type") == "float":
        if bits == 4:
            kind: Format = "mxfp4" if group == 32 else "nvfp4"
            return Quantization("compressed-tensors", kind, 4, group or 16, skips=skips, exact=exact)
        return Quantization("compressed-tensors", "fp8", 8, 0, block, per_tensor=tensor, skips=skips, exact=exact)
    symmetric = flag(weights, "symmetric", True)
    if "pack" in (text(found, "format") or text(groups[0], "format") if groups else ""):
        return Quantization("compressed-tensors", "packed", bits, group, symmetric=symmetric, skips=skips, exact=exact)
    return Quantization("compressed-tensors", "int8", 8, group, symmetric=symmetric, skips=skips, exact=exact)


def stored_as(weight: Weight, quantization: Quantization, element: str) -> Iterator[tuple[Tensor, int]]:
    """The tensors, each with how many there are of it, that a quantized linear weight is stored as.

    `element` is the type of scales. Shapes: `create_weights` in `vllm/model_executor/layers/quantization/`.
    """
    base = weight.name.removesuffix(".weight")
    outputs, inputs = weight.shape
    group = quantization.group or max(1, inputs)
    groups = -(-inputs // group)
    bits = quantization.bits

    def part(suffix: str, dtype: str, *shape: int) -> tuple[Tensor, int]:
        tensor = Tensor(f"{base}.{suffix}", dtype, shape, 0)
        size = int(tensor.elements * ELEMENT_BYTES[dtype])
        return Tensor(tensor.name, dtype, shape, size), weight.count

    packed = -(-inputs * bits // 32)
    match quantization.format:
        case "awq":
            yield part("qweight", "I32", inputs, -(-outputs * bits // 32))
            yield part("scales", element, groups, outputs)
            yield part("qzeros", "I32", groups, -(-outputs * bits // 32))
        case "gptq":
            yield part("qweight", "I32", packed, outputs)
            yield part("scales", element, groups, outputs)
            yield part("qzeros", "I32", groups, -(-outputs * bits // 32))
            yield part("g_idx", "I32", inputs)
        case "packed":
            yield part("weight_packed", "I32", outputs, packed)
            yield part("weight_scale", element, outputs, groups)
            yield part("weight_shape", "I64", 2)
            if not quantization.symmetric:
                yield part("weight_zero_point", "I32", -(-outputs * bits // 32), groups)
        case "fp8" if quantization.block:
            rows, columns = quantization.block
            yield part("weight", "F8_E4M3", outputs, inputs)
            yield part("weight_scale_inv", "F32", -(-outputs // rows), -(-inputs // columns))
        case "fp8" | "int8":
            yield part("weight", "F8_E4M3" if quantization.format == "fp8" else "I8", outputs, inputs)
            yield part("weight_scale", "F32", *(() if quantization.per_tensor else (outputs, groups)))
        case "nvfp4":
            yield part("weight_packed", "U8", outputs, -(-inputs // 2))
            yield part("weight_scale", "F8_E4M3", outputs, groups)
            yield part("weight_global_scale", "F32")
            yield part("input_global_scale", "F32")
        case "mxfp4":
            yield part("weight_packed", "U8", outputs, -(-inputs // 2))
            yield part("weight_scale", "U8", outputs, groups)
        case "bitsandbytes":
            blocks = -(-outputs * inputs // 64)
            yield part("weight", "U8", -(-outputs * inputs // 2), 1)
            # Double quantization keeps a byte a block and 4 bytes for every 256 blocks.
            yield part("weight.absmax", "U8" if quantization.double else "F32", blocks)
            if quantization.double:
                yield part("weight.nested_absmax", "F32", -(-blocks // 256))


def is_companion(name: str) -> bool:
    """Whether a tensor is a scale, a zero point or another aid of a quantized weight."""
    return _COMPANIONS.search(name) is not None


def parameters_of(tensor: Tensor, quantization: Quantization | None) -> int:
    """How many parameters a stored tensor stands for: packed types hold several in an element, scales are none."""
    if quantization is None:
        return tensor.elements
    if is_companion(tensor.name):
        return 0
    if tensor.dtype in ("I32", "U32"):
        return tensor.elements * 32 // quantization.bits
    if tensor.dtype in ("U8", "I8") and quantization.bits == 4:
        return tensor.elements * 2
    return tensor.elements


def _matches(pattern: str, module: str) -> bool:
    if not pattern.startswith("re:") and "*" not in pattern:
        return module == pattern or module.startswith(f"{pattern}.") or f".{pattern}." in f".{module}."
    pieces = _pieces(pattern)
    if pieces is None:
        return False
    end = 0
    for piece in pieces:
        if (found := piece.search(module, end)) is None:
            return False
        end = found.end()
    return True


@lru_cache(maxsize=4096)
def _pieces(pattern: str) -> tuple[re.Pattern[str], ...] | None:
    """What has to follow one another in a module's name, with anything between; None for what is not understood.

    Patterns come from files nobody vouches for, so only such are followed that take time linear in the name's length:
    the first place where a piece fits is as good as any, and within a piece there is nothing to try but one group.
    """
    if len(pattern) > _LONGEST_PATTERN:
        return None
    if not pattern.startswith("re:"):
        first, *others = (re.escape(part) for part in pattern.split("*"))
        return tuple(re.compile(part) for part in (rf"\A{first}", *others))
    parts = _ANYTHING.split(pattern[3:].removeprefix("^"))
    if not all(_PIECE.fullmatch(part) for part in parts) or any(part.endswith("$") for part in parts[:-1]):
        return None
    try:
        # No model has more layers or experts than four digits tell; possessive, so that they are not given back.
        first, *others = (_REPEATED.sub(r"\1{1,4}+", part) for part in parts)
        return tuple(re.compile(part) for part in (rf"\A{first}", *others))
    except re.error:  # a range of signs that ends before it starts
        return None
