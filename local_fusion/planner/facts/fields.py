"""Reading a config.json that nobody vouches for: a field is a sensible value of the right type, or it is absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from local_fusion.config.problems import printable
from local_fusion.planner.facts.families import DEFAULTS

Fields = Mapping[str, Any]

MOST_LAYERS = 1024
"""No decoder and no vision tower is deeper; what is, is nonsense."""

HIDDEN_SIZES = ("hidden_size", "n_embd", "d_model", "dim")
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HEAD_COUNTS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
VOCABULARY_SIZES = ("vocab_size", "padded_vocab_size")
"""What families call these dimensions; the first name is the usual one."""

_MOST = 10**9  # no dimension of a model is larger; what is, is nonsense
_NESTED = ("text_config", "llm_config", "language_config", "thinker_config", "language_model")


def number(fields: Fields, *names: str) -> int:
    """The first of these fields that is a positive whole number, 0 if none is. Of a list the largest counts."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, list) and value and all(type(item) is int for item in value):
            value = max(value)
        if type(value) is int and 0 < value <= _MOST:
            return value
    return 0


def real(fields: Fields, name: str, default: float) -> float:
    """A positive number, or the default."""
    value = fields.get(name)
    return float(value) if isinstance(value, int | float) and 0 < value <= _MOST else default


def flag(fields: Fields, name: str, default: bool = False) -> bool:
    """A truth value, or the default."""
    value = fields.get(name)
    return value if isinstance(value, bool) else default


def numbers(fields: Fields, name: str) -> tuple[int, ...]:
    """A list of whole numbers, empty if it is anything else."""
    value = fields.get(name)
    return tuple(value) if isinstance(value, list) and all(type(item) is int for item in value) else ()


def words(fields: Fields, name: str) -> tuple[str, ...]:
    """A list of printable texts, empty if it is anything else."""
    value = fields.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return ()
    return tuple(printable(item) for item in value)


def text(fields: Fields, name: str) -> str:
    """A printable text, or the empty one."""
    value = fields.get(name)
    return printable(value) if isinstance(value, str) else ""


def layer_count(fields: Fields) -> int:
    """How many layers the language model has, 0 where nothing sensible tells."""
    count = number(fields, *LAYER_COUNTS)
    count = count or len(words(fields, "layers_block_type") or text(fields, "hybrid_override_pattern"))
    return count if count <= MOST_LAYERS else 0


def section(fields: Fields, name: str) -> Fields:
    """An object within the object, or the empty one."""
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def text_fields(config: Fields) -> Fields:
    """The language model's fields: its own section where there is one, over the outer ones, over its class's defaults.

    transformers leaves out of a saved config.json what equals the default of the class (`to_diff_dict`).
    """
    fields: dict[str, Any] = dict(config)
    outer = fields
    for _ in range(2):  # Qwen-Omni nests twice: thinker_config.text_config
        nested = next((value for name in _NESTED if isinstance(value := outer.get(name), dict)), None)
        if nested is None:
            break
        fields = {**fields, **nested}
        outer = nested
    present = {name: value for name, value in fields.items() if value is not None}
    return {**DEFAULTS.get(text(fields, "model_type"), {}), **present}
