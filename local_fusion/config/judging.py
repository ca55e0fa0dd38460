"""Judges: each way of comparing candidates, by its `kind`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from local_fusion.config.base import Command, Model, Reference, Strict, listed

Criterion = Annotated[str, Field(min_length=1, max_length=500)]


class PairwiseJudge(Reference):
    """Reads the probabilities of "A" and "B" for pairs of candidates, in both orders; a flip between them is a tie.

    Nothing is generated. The best kind for large models.
    """

    kind: Literal["pairwise"] = "pairwise"
    neighbours: int = Field(
        3, ge=1, le=64, description="Of more than eight candidates each is compared with twice so many others."
    )


class PointwiseJudge(Reference):
    """Reads the probabilities of the scores 1 to 9 for each candidate by itself; their mean is its score.

    Nothing is generated. The best kind for small models.
    """

    kind: Literal["pointwise"] = "pointwise"
    criteria: list[Criterion] = Field(
        [], max_length=16, description="What counts. Default: correct, complete, to the point."
    )


class RubricJudge(Reference):
    """Writes a grade from 1 to 9 for each candidate and criterion, as constrained JSON, with a reason first."""

    kind: Literal["rubric"] = "rubric"
    criteria: list[Criterion] = Field(
        ["correctness", "completeness", "following the instructions"],
        min_length=1,
        max_length=16,
        description="What is graded, each by itself.",
    )


class LikelihoodJudge(Strict):
    """The candidate that is likeliest to all models, whoever wrote it; each model's scale is calibrated by its mean.

    Nothing is generated (arXiv 2510.02377). A model has no say about what it wrote itself where others have one.
    """

    kind: Literal["likelihood"] = "likelihood"
    models: list[Model] | None = Field(
        None, min_length=1, max_length=32, description="Who scores. Default: the panel's models."
    )


class CommandJudge(Command):
    """A program accepts or rejects each candidate; see `command`. Accepted ones are equally good."""

    kind: Literal["command"] = "command"


class JointJudge(Strict):
    """Several judges at once: their scores, brought to the same scale, are averaged.

    Where all of them give marks (pointwise, rubric, command), the marks are averaged as they are.
    """

    kind: Literal["joint"] = "joint"
    judges: list[AnyJudge] = Field(min_length=2, max_length=16, description="Two or three dissimilar judges suffice.")


JUDGES: dict[str, type[Strict] | type[Reference]] = {
    "pairwise": PairwiseJudge,
    "pointwise": PointwiseJudge,
    "rubric": RubricJudge,
    "likelihood": LikelihoodJudge,
    "command": CommandJudge,
    "joint": JointJudge,
}


def kind_of(value: Any) -> Any:
    """A judge in full: `gemma` is `{kind: pairwise, model: gemma}`, a `command` or a list of `judges` says its kind."""
    if isinstance(value, str):
        return {"kind": "pairwise", "model": value}
    if isinstance(value, dict) and "kind" not in value:
        return {"kind": default_kind(value), **value}
    return value


def default_kind(value: dict[str, Any]) -> str:
    """The kind of a judge that does not say it."""
    return "command" if "command" in value else "joint" if "judges" in value else "pairwise"


JudgeConfig = Annotated[
    PairwiseJudge | PointwiseJudge | RubricJudge | LikelihoodJudge | CommandJudge | JointJudge,
    Field(discriminator="kind"),
]
AnyJudge = Annotated[JudgeConfig, BeforeValidator(kind_of)]
# In order: the next one judges only where those before it failed.
Judges = Annotated[
    list[AnyJudge],
    BeforeValidator(listed, json_schema_input_type=AnyJudge | list[AnyJudge]),
    Field(min_length=1, max_length=8),
]
JointJudge.model_rebuild()
