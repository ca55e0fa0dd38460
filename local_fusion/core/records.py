"""What a fusion leaves behind: candidates, failures, verdicts, the calls made and what they used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from local_fusion.core.chat import ToolCall

Stage = Literal["panel", "judge", "synthesis"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call to one engine: for which stage, which model, what it used, in how many seconds, and how it ended.

    `error` and `code` are there where it failed: the cause for people, in which there may be what was asked, and its
    kind for programs.
    """

    stage: Stage
    model: str
    usage: Usage
    seconds: float
    samples: int = 1
    error: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Who failed (`member` is its label in the panel), in which stage, why (`code` for programs), and the way out."""

    stage: Stage
    member: str
    model: str
    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Certainty:
    """How sure a model was of its answer, from its tokens' probabilities; higher is surer.

    `mean_logprob`: of the tokens it chose, at most 0. `self_certainty`: how far its distributions are from even, as the
    mean over tokens of minus the mean log-probability of the `TOP` likeliest (arXiv 2508.15260, "token confidence":
    self-certainty, arXiv 2502.18581, over those). `lowest`: the least mean of that over any `WINDOW` tokens.
    """

    WINDOW: ClassVar[int] = 64
    TOP: ClassVar[int] = 20

    mean_logprob: float
    self_certainty: float
    lowest: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer of one member. `id` is unique in its request; `member` is the panel's label, hidden from judges.

    `round`: in which of a strategy's rounds it was written. `reasoning` is never shown to a judge.
    """

    id: str
    member: str
    model: str
    text: str
    finish_reason: str
    seconds: float
    persona: str | None = None
    round: int = 1
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    certainty: Certainty | None = None
    stopped_by: str | None = None


@dataclass(frozen=True, slots=True)
class Saving:
    """Work that was not done because it could not have changed the outcome, or was no longer waited for.

    `kind`: `decided` (a vote was decided), `straggler` (quorum and grace were over), `hopeless` (a candidate was cut
    early), `agreed` (no judge was needed), `cheap` (the cheap path sufficed). `samples`: answers not asked for, or
    broken off.
    """

    kind: Literal["decided", "straggler", "hopeless", "agreed", "cheap"]
    samples: int
    reason: str


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A topic on which candidates disagree; each stance is (candidate id, what it says)."""

    topic: str
    stances: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Analysis:
    """How the candidates compare, in the shape that OpenRouter's Fusion made common; pairs start with candidate ids."""

    consensus: tuple[str, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()
    partial_coverage: tuple[tuple[tuple[str, ...], str], ...] = ()
    unique_insights: tuple[tuple[str, str], ...] = ()
    blind_spots: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge (or the count of votes) found.

    `winner` is a candidate id where one was chosen. `scores` maps candidate ids to numbers of which more is better:
    votes, mean places, strengths that sum to 1, or, where `absolute`, marks from 0 to 1, each by itself. `votes` maps
    each extracted answer to the candidates that gave it; `abstained` gave none, or could not be judged. `independent`:
    to how many independent judges several that were combined amount. `reasons`: what it has to say about a candidate,
    by its id, where it says something about each by itself.
    """

    judge: str
    winner: str | None = None
    reason: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    votes: dict[str, list[str]] = field(default_factory=dict)
    abstained: tuple[str, ...] = ()
    tied: bool = False
    analysis: Analysis | None = None
    independent: float | None = None
    absolute: bool = False
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trim:
    """A candidate that was cut to fit a reader's context: `kept` of `tokens` tokens were shown to `reader`."""

    candidate: str
    reader: str
    kept: int
    tokens: int
