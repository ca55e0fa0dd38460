"""The weights of encoders: models that turn a text into one vector or score and keep nothing between requests."""

from __future__ import annotations

from collections.abc import Iterator

from local_fusion.planner.facts.architecture import Architecture
from local_fusion.planner.facts.fields import flag, number
from local_fusion.planner.facts.parameters import Weight, linear, norm


def encoder(shape: Architecture) -> Iterator[Weight]:
    """All weights of BERT's relatives, with the pooler that many of their checkpoints hold."""
    if shape.family.encoder == "modernbert":
        yield from _modern(shape)
        return
    hidden, nomic = shape.hidden_size, shape.family.encoder == "nomic"
    positions = number(shape.fields, "max_position_embeddings")
    yield Weight("embeddings.word_embeddings.weight", (shape.vocab_size, hidden))
    if not nomic:
        yield Weight("embeddings.position_embeddings.weight", (positions, hidden))
    yield Weight("embeddings.token_type_embeddings.weight", (number(shape.fields, "type_vocab_size") or 1, hidden))
    yield from norm("embeddings.LayerNorm", hidden, bias=True)
    for index in range(shape.layers):
        layer = f"encoder.layer.{index}."
        bias = not nomic or flag(shape.fields, "qkv_proj_bias")
        for name in ("query", "key", "value"):
            yield from linear(f"{layer}attention.self.{name}", hidden, hidden, bias)
        yield from linear(f"{layer}attention.output.dense", hidden, hidden, bias)
        for fed in range(2 if nomic else 1):
            yield from linear(f"{layer}intermediate.{fed}.dense", shape.inner_size, hidden, not nomic)
        yield from linear(f"{layer}output.dense", hidden, shape.inner_size, not nomic)
        yield from norm(f"{layer}attention.output.LayerNorm", hidden, bias=True)
        yield from norm(f"{layer}output.LayerNorm", hidden, bias=True)
    if not nomic:
        yield from linear("pooler.dense", hidden, hidden, bias=True)


def _modern(shape: Architecture) -> Iterator[Weight]:
    hidden, inner = shape.hidden_size, shape.inner_size
    attention, feeder = flag(shape.fields, "attention_bias"), flag(shape.fields, "mlp_bias")
    norms = flag(shape.fields, "norm_bias")
    yield Weight("embeddings.tok_embeddings.weight", (shape.vocab_size, hidden))
    yield from norm("embeddings.norm", hidden, norms)
    for index in range(shape.layers):
        layer = f"layers.{index}."
        if index:
            yield from norm(f"{layer}attn_norm", hidden, norms)
        yield from linear(f"{layer}attn.Wqkv", 3 * hidden, hidden, attention)
        yield from linear(f"{layer}attn.Wo", hidden, hidden, attention)
        yield from norm(f"{layer}mlp_norm", hidden, norms)
        yield from linear(f"{layer}mlp.Wi", 2 * inner, hidden, feeder)
        yield from linear(f"{layer}mlp.Wo", hidden, inner, feeder)
    yield from norm("final_norm", hidden, norms)
