"""The strategies' options, a class for each."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import regex
from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from local_fusion.config.base import Command, Model, Models, Reference, Strict, named
from local_fusion.config.judging import AnyJudge, JointJudge, Judges
from local_fusion.config.panels import FusionBase, Stage

EXTRACTIONS = ("auto", "number", "choice", "text", "code", "cluster")
_EXTRACT = (
    "What counts as a candidate's answer: `number` (the last one), `choice` (a letter A to Z), `text` (all of it), "
    "`json:FIELD` (a field of the last JSON object, `a.b` for one within another), `regex:PATTERN` (the last match; "
    "its first group if it has one), or `auto` (\\boxed{…}, else after 'answer:', else the last number, else all of it)"
)


def known_extraction(value: str, among: tuple[str, ...]) -> str:
    """`value`, if it says how to extract an answer; raises ValueError otherwise."""
    kind, _, rest = value.partition(":")
    if kind == "regex" and rest:
        try:
            regex.compile(rest)
        except regex.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
    elif not (kind == "json" and rest) and value not in among:
        raise ValueError(f"expected {', '.join(among)}, json:FIELD or regex:PATTERN")
    return value


def calls_models(judges: list[AnyJudge]) -> bool:
    """Whether any of these judges is more than a program."""
    return any(
        calls_models(judge.judges) if isinstance(judge, JointJudge) else not isinstance(judge, Command)
        for judge in judges
    )


def must_know_good_enough(threshold: float | None, judges: list[AnyJudge]) -> None:
    """Raises ValueError where a threshold is set for a judge whose scores say nothing but who is better than whom."""
    for judge in judges:
        if isinstance(judge, JointJudge):
            must_know_good_enough(threshold, judge.judges)
        elif threshold is not None and judge.kind in ("pairwise", "likelihood"):
            raise ValueError(
                f"threshold: a {judge.kind} judge only compares, it knows no good enough; use pointwise, rubric or "
                "command"
            )


class SingleConfig(FusionBase):
    """The first member answers, streamed; the next one only where it fails. No judge."""

    strategy: Literal["single"]


class BestOfConfig(FusionBase):
    """One candidate is returned verbatim: the one that a judge prefers."""

    stages: ClassVar[frozenset[Stage]] = frozenset({"panel", "judge"})
    fewest: ClassVar[int] = 2
    strategy: Literal["best_of"]
    judge: Judges = Field(description="Chooses. A list: the next one judges where those before it fail.")

    @property
    def stages_used(self) -> frozenset[Stage]:
        """Programs have seconds of their own."""
        return self.stages if calls_models(self.judge) else self.stages - {"judge"}


class Adaptive(Strict):
    """Stop asking for samples once the vote is decided (arXiv 2305.11860)."""

    confidence: float = Field(
        0.98,
        gt=0.5,
        le=1,
        description="Probability with which the leader stays ahead; 1 stops only where nobody can catch up.",
    )
    wave: int = Field(4, ge=1, le=256, description="Samples asked for at a time.")


class EarlyCut(Strict):
    """Cut candidates that become less sure than most of the first ones were (arXiv 2508.15260)."""

    warmup: int = Field(4, ge=2, le=256, description="Candidates that are written whole and set the bar.")
    keep: float = Field(0.9, gt=0, lt=1, description="Share of the warm-up that is at least as sure as the bar.")


class VoteConfig(FusionBase):
    """The answer most candidates give, compared exactly after extraction; one such candidate is returned verbatim."""

    stages: ClassVar[frozenset[Stage]] = frozenset({"panel", "judge"})
    fewest: ClassVar[int] = 2
    strategy: Literal["vote"]
    extract: str = Field(
        "auto",
        description=f"{_EXTRACT}. `code`: the last code block, of which those that `verifier` accepts are one answer. "
        "`cluster`: a judge says which candidates agree (universal self-consistency, for free text).",
    )
    verifier: Command | None = Field(None, description="Tests code; for `extract: code` only.")
    judge: Model | None = Field(None, description="Says which candidates agree; for `extract: cluster` only.")
    weights: Literal["none", "logprob", "certainty"] = Field(
        "none",
        description="What a vote counts: one; how likely its tokens were (`logprob`: the mean token's probability); or "
        "how sure the model was (`certainty`: self-certainty over its 20 likeliest tokens).",
    )
    adaptive: Adaptive | None = Field(None, description="Stop once the vote is decided. `{}` for the defaults.")
    early_cut: EarlyCut | None = Field(None, description="Cut hopeless candidates. `{}` for the defaults.")

    @field_validator("extract")
    @classmethod
    def _known_extraction(cls, value: str) -> str:
        return known_extraction(value, EXTRACTIONS)

    @model_validator(mode="after")
    def _parts_belong_together(self) -> VoteConfig:
        for option, value, needed in (("verifier", self.verifier, "code"), ("judge", self.judge, "cluster")):
            if value is None and self.extract == needed:
                raise ValueError(f"extract: {needed} needs a `{option}`")
        if self.early_cut is not None and self.early_cut.warmup >= self.candidates:
            raise ValueError(
                f"early_cut: its warm-up of {self.early_cut.warmup} is the whole panel of {self.candidates}; lower "
                "`warmup`"
            )
        return self

    @property
    def stages_used(self) -> frozenset[Stage]:
        """Answers that are compared exactly need no judge."""
        return self.stages if self.extract == "cluster" else self.stages - {"judge"}


class SynthesizeConfig(FusionBase):
    """A judge analyses the candidates, then a synthesizer writes the final answer from them, streamed."""

    stages: ClassVar[frozenset[Stage]] = frozenset({"panel", "judge", "synthesis"})
    strategy: Literal["synthesize"]
    judge: Models = Field(description="Analyses. A list: the next one does where those before it fail.")
    synthesizer: Models | None = Field(
        None, description="Writes the final answer; a list as for `judge`. Default: the judge's model."
    )
    analysis: bool = Field(True, description="Analyse the candidates first; false goes straight to writing.")
    layers: int = Field(
        1,
        ge=1,
        le=8,
        description="Times the panel answers, from the second on with all answers of the one before "
        "(Mixture-of-Agents).",
    )

    @property
    def stages_used(self) -> frozenset[Stage]:
        """Without an analysis the judge has nothing to do."""
        return self.stages if self.analysis else self.stages - {"judge"}


class CouncilConfig(FusionBase):
    """Every member ranks the others' anonymous answers; a chairman writes the final one, knowing the ranking."""

    stages: ClassVar[frozenset[Stage]] = frozenset({"panel", "judge", "synthesis"})
    fewest: ClassVar[int] = 2
    strategy: Literal["council"]
    chairman: Models | None = Field(
        None, description="Writes the final answer. Default: the model of the best-ranked answer."
    )


class DebateConfig(FusionBase):
    """Members see the others' answers and revise their own, round by round, until nobody changes; then they vote."""

    stages: ClassVar[frozenset[Stage]] = frozenset({"panel", "synthesis"})
    fewest: ClassVar[int] = 2
    strategy: Literal["debate"]
    max_rounds: int = Field(3, ge=2, le=16, description="Most rounds, the first answers included.")
    extract: str = Field("auto", description=f"{_EXTRACT}: what must be the same for two answers to agree.")
    moderator: Model | None = Field(None, description="Writes the final answer from the last round, instead of a vote.")

    @field_validator("extract")
    @classmethod
    def _known_extraction(cls, value: str) -> str:
        return known_extraction(value, EXTRACTIONS[:4])

    @property
    def stages_used(self) -> frozenset[Stage]:
        """Without a moderator nobody writes anew."""
        return self.stages if self.moderator is not None else self.stages - {"synthesis"}


class ConvergeConfig(FusionBase):
    """Members review and revise in rounds; returned is the judge's favourite, once it stays or is good enough."""

    stages: ClassVar[frozenset[Stage]] = frozenset({"panel", "judge"})
    fewest: ClassVar[int] = 2
    strategy: Literal["converge"]
    judge: Judges | None = Field(
        None, description="Scores every round. Default: the members, each the others' answers (pointwise)."
    )
    max_rounds: int = Field(3, ge=2, le=16, description="Most rounds, the first answers included.")
    stable_rounds: int = Field(2, ge=2, le=16, description="Rounds in a row with the same member in front that end it.")
    threshold: float | None = Field(
        None, gt=0, le=1, description="A score, from 0 to 1, with which the best answer is good enough at once."
    )

    @model_validator(mode="after")
    def _ends_can_be_reached(self) -> ConvergeConfig:
        if self.stable_rounds > self.max_rounds:
            raise ValueError(
                f"stable_rounds: {self.stable_rounds} rounds are never reached with max_rounds {self.max_rounds}"
            )
        must_know_good_enough(self.threshold, self.judge or [])
        return self

    @property
    def stages_used(self) -> frozenset[Stage]:
        """Programs have seconds of their own."""
        return self.stages if self.judge is None or calls_models(self.judge) else self.stages - {"judge"}


def _reviewer(value: Any) -> str:
    return "command" if isinstance(value, Command) or (isinstance(value, dict) and "command" in value) else "model"


# A tag, so that only the branch that was meant reports what is wrong with it.
Reviewer = Annotated[
    Annotated[Reference, Tag("model")] | Annotated[Command, Tag("command")],
    Discriminator(_reviewer),
    BeforeValidator(named),
]


class RefineConfig(FusionBase):
    """An author writes, a reviewer accepts or says what is wrong, and the author tries again."""

    stages: ClassVar[frozenset[Stage]] = frozenset({"panel", "judge"})
    most: ClassVar[int | None] = 1
    strategy: Literal["refine"]
    reviewer: Reviewer = Field(description="A model, a fusion, or a `command`. Best another model than the author.")
    max_rounds: int = Field(3, ge=2, le=32, description="Most answers of the author, the first included.")

    @property
    def stages_used(self) -> frozenset[Stage]:
        """Programs have seconds of their own."""
        return self.stages if isinstance(self.reviewer, Reference) else self.stages - {"judge"}


class EvolveConfig(FusionBase):
    """A genetic search: candidates are criticised, improved and combined over generations (arXiv 2501.09891)."""

    stages: ClassVar[frozenset[Stage]] = frozenset({"panel", "judge", "synthesis"})
    fewest: ClassVar[int] = 2
    strategy: Literal["evolve"]
    judge: Judges = Field(
        description="Scores candidates; a `command` that verifies is best, and one that accepts ends the search."
    )
    critic: Model | None = Field(None, description="Says what is wrong with a parent. Default: its author's model.")
    generations: int = Field(4, ge=1, le=64, description="Most generations after the first candidates.")
    population: int = Field(
        4, ge=2, le=128, description="Candidates kept on each island from one generation to the next."
    )
    islands: int = Field(2, ge=1, le=16, description="Populations that evolve apart.")
    migrate_every: int = Field(
        2, ge=1, le=64, description="Generations between which the best of each island visits the next."
    )
    tournament: int = Field(2, ge=2, le=16, description="Candidates of which the best becomes a parent.")
    threshold: float | None = Field(None, gt=0, le=1, description="A score, from 0 to 1, that ends the search.")

    @property
    def stages_used(self) -> frozenset[Stage]:
        """Programs have seconds of their own."""
        return self.stages if calls_models(self.judge) else self.stages - {"judge"}

    @model_validator(mode="after")
    def _can_be_played(self) -> EvolveConfig:
        must_know_good_enough(self.threshold, self.judge)
        if self.tournament > self.population:
            raise ValueError(f"tournament: {self.tournament} candidates of a population of {self.population}; lower it")
        if self.islands > self.candidates:
            raise ValueError(f"islands: {self.islands} for the panel's {self.candidates} candidates; lower it")
        return self


class ReviewConfig(FusionBase):
    """No answer but a review of the document in the request: agreed problems, disputed ones, blind spots."""

    # A JSON schema of the client's is filled in by the judge, as a synthesizer would.
    stages: ClassVar[frozenset[Stage]] = frozenset({"panel", "judge", "synthesis"})
    strategy: Literal["review"]
    judge: Models = Field(
        description="Brings the members' findings together. A list: the next one where those before it fail."
    )


class Trigger(Strict):
    """When the muse speaks; several may be given."""

    repetition: bool = Field(True, description="The answer begins to repeat itself.")
    every: int | None = Field(None, ge=1, description="In every so manieth turn of the conversation.")
    random: float | None = Field(None, gt=0, le=1, description="With this probability in any turn.")

    @model_validator(mode="after")
    def _some(self) -> Trigger:
        if not self.repetition and self.every is None and self.random is None:
            raise ValueError("the muse would never speak: give `repetition`, `every` or `random`")
        return self


class MuseConfig(FusionBase):
    """The panel's one member answers, streamed, while on a trigger another model's short note is put in its ear."""

    most: ClassVar[int | None] = 1
    strategy: Literal["muse"]
    muse: Model = Field(description="Writes the note: a model that thinks differently.")
    trigger: Trigger = Trigger()
    max_notes: int = Field(2, ge=1, le=8, description="Most notes in one answer.")


class RelayConfig(FusionBase):
    """Experimental, for members of like strength: they draft the next segment, all score each draft, the best stays."""

    fewest: ClassVar[int] = 2
    strategy: Literal["relay"]
    segment_tokens: int = Field(32, ge=4, le=512, description="Length of a draft.")
    max_tokens: int = Field(1024, ge=1, description="Most tokens of the whole answer, where the request does not say.")


class RouteConfig(FusionBase):
    """The cheap path first: where a small set of samples agrees, that is the answer; else `otherwise` answers."""

    fewest: ClassVar[int] = 2
    strategy: Literal["route"]
    otherwise: Model = Field(description="The fusion (or model) for questions on which the samples disagree.")
    extract: str = Field("auto", description=f"{_EXTRACT}: what must be the same for two answers to agree.")
    agreement: float = Field(1, gt=0.5, le=1, description="Share of the samples that must agree.")
    confidence: float | None = Field(
        None, gt=0, le=1, description="Mean probability of a token that the agreed answer must reach too."
    )

    @field_validator("extract")
    @classmethod
    def _known_extraction(cls, value: str) -> str:
        return known_extraction(value, EXTRACTIONS[:4])


FusionConfig = Annotated[
    SingleConfig
    | BestOfConfig
    | VoteConfig
    | SynthesizeConfig
    | CouncilConfig
    | DebateConfig
    | ConvergeConfig
    | RefineConfig
    | EvolveConfig
    | ReviewConfig
    | MuseConfig
    | RelayConfig
    | RouteConfig,
    Field(discriminator="strategy"),
]

STRATEGY_CONFIGS: dict[str, type[FusionBase]] = {
    "single": SingleConfig,
    "best_of": BestOfConfig,
    "vote": VoteConfig,
    "synthesize": SynthesizeConfig,
    "council": CouncilConfig,
    "debate": DebateConfig,
    "converge": ConvergeConfig,
    "refine": RefineConfig,
    "evolve": EvolveConfig,
    "review": ReviewConfig,
    "muse": MuseConfig,
    "relay": RelayConfig,
    "route": RouteConfig,
}
