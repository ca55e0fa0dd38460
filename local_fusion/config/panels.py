"""Who answers: members, and what all strategies share."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from local_fusion.config.base import Model, Reference, Seconds, Strict, named
from local_fusion.core.budget import Budget

Stage = Literal["panel", "judge", "synthesis"]
Cadence = Literal["every", "first", "final"]


class MemberConfig(Reference):
    """A member of a panel: it gives `samples` candidates."""

    samples: int = Field(1, ge=1, le=256, description="Answers wanted from this member.")
    persona: str | None = Field(None, description="Name of a persona (built in, or from `personas`).")
    rephrase: bool = Field(
        False,
        description="Let the member put the last question in other words before each answer (the first sees it as it "
        "is).",
    )


Member = Annotated[MemberConfig, BeforeValidator(named)]


class Deadlines(Strict):
    """Seconds after which a call of a stage is cut short; waiting for an engine counts. None for batch requests."""

    panel: Seconds = 600
    judge: Seconds = 300
    synthesis: Seconds = 600


class FusionBase(Strict):
    """What all strategies share: a panel, how many candidates are needed, and deadlines."""

    # The stages that this strategy may have, and the fewest and most candidates that its panel may give.
    stages: ClassVar[frozenset[Stage]] = frozenset({"panel"})
    fewest: ClassVar[int] = 1
    most: ClassVar[int | None] = None

    description: str | None = Field(None, description="Shown by clients that list models.")
    panel: list[Member] = Field(min_length=1, max_length=512, description="The members, asked at the same time.")
    quorum: int = Field(1, ge=1, description="Fewest candidates with which the fusion goes on.")
    grace_seconds: Seconds | None = Field(
        None,
        description="Members that have not answered so long after the quorum was reached are given up. Default: never.",
    )
    cadence: Cadence = Field(
        "every",
        description="Which turns of an agent convene the panel: `every` one; the `first` after each message of the "
        "user's; or the `final` ones, in which `solo` calls no tool. The other turns are answered by `solo` alone.",
    )
    solo: Model | None = Field(
        None, description="Answers the turns for which the panel is not convened. Default: the first member's model."
    )
    member_format: bool = Field(
        False,
        description="Bind the members too by a request's response_format, not only whoever writes the final answer.",
    )
    deadlines: Deadlines = Deadlines()
    budget: Budget | None = Field(
        None,
        description="What one answer may cost, over all calls made for it and all answers of one request. Once it is "
        "spent, the best answer so far is the answer, and labelled. A request can only lower it.",
    )
    progress: Literal["comments", "reasoning"] = Field(
        "comments",
        description="How clients that stream are told of the panel's work: by comments that they skip, or in short "
        "lines as reasoning, which ordinary chat pages show.",
    )

    @property
    def candidates(self) -> int:
        """How many candidates the panel gives when nobody fails."""
        return sum(member.samples for member in self.panel)

    @property
    def stages_used(self) -> frozenset[Stage]:
        """Those of the `stages` in which these options have a model called."""
        return self.stages
