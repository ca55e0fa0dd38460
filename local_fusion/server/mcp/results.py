"""What the tools answer: as data for programs, and as text for the model that reads it."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from local_fusion.core.model import Reply
from local_fusion.core.records import Analysis, Verdict


class Cost(BaseModel):
    """What an answer took, over all calls of all models."""

    calls: int
    tokens_read: int
    tokens_written: int
    seconds: float

    @classmethod
    def of(cls, reply: Reply, seconds: float) -> Cost:
        """The cost of a reply that came after so many seconds."""
        usage = reply.usage
        return cls(
            calls=len(reply.calls),
            tokens_read=usage.prompt_tokens,
            tokens_written=usage.completion_tokens,
            seconds=round(seconds, 3),
        )

    def __str__(self) -> str:
        tokens = f"{self.tokens_read} tokens read and {self.tokens_written} written"
        return f"{self.calls} calls, {tokens}, {self.seconds:.1f} s"


class Differences(BaseModel):
    """How the members' answers compare, as the judge saw it."""

    consensus: list[str] = []
    contradictions: list[str] = []
    unique_insights: list[str] = []
    blind_spots: list[str] = []

    @classmethod
    def of(cls, analysis: Analysis) -> Differences:
        """A judge's analysis without who said what, which means nothing outside."""
        return cls(
            consensus=list(analysis.consensus),
            contradictions=[
                f"{each.topic}: {' | '.join(stance for _, stance in each.stances)}" for each in analysis.contradictions
            ],
            unique_insights=[insight for _, insight in analysis.unique_insights],
            blind_spots=list(analysis.blind_spots),
        )

    def __str__(self) -> str:
        parts = [
            ("Agreed by all", self.consensus),
            ("Disputed", self.contradictions),
            ("Seen by one only", self.unique_insights),
            ("Seen by nobody", self.blind_spots),
        ]
        return "\n".join(f"{title}:\n" + "\n".join(f"- {point}" for point in told) for title, told in parts if told)


class Consulted(BaseModel):
    """What every answer of a panel tells beside itself."""

    fusion: str = Field(description="The panel that was asked.")
    partial: bool = Field(description="Whether some member, or the judge, failed: the answer is that of the others.")
    failed: list[str] = Field(description="Who failed, and why.")
    notes: list[str] = Field(description="What else to know of it, such as that it was cut off.")
    cost: Cost

    def footnotes(self) -> str:
        """All that for people, short."""
        lines = [f"(partial: {'; '.join(self.failed)})"] if self.partial else []
        return "\n".join([*lines, *(f"({note})" for note in self.notes), f"({self.fusion}: {self.cost})"])


class PanelAnswer(Consulted):
    """The answer of a panel."""

    answer: str
    differences: Differences | None = Field(
        None, description="How the members' answers compare, where a judge said so."
    )
    candidates: list[str] = Field([], description="The members' own answers, where they were asked for.")

    def __str__(self) -> str:
        own = [f"Member {number} said:\n{text}" for number, text in enumerate(self.candidates, start=1)]
        told = "" if self.differences is None else str(self.differences)
        return "\n\n".join(part for part in (self.answer, told, *own, self.footnotes()) if part)


class DocumentReview(Consulted):
    """What reviewers found in a document."""

    report: str = Field(description="Markdown: agreed problems first, disputed ones, single findings, blind spots.")

    def __str__(self) -> str:
        return f"{self.report}\n\n{self.footnotes()}"


class Comparison(Consulted):
    """Which of several answers is best."""

    winner: int = Field(description="Number of the best answer, from 1; the first of the best where they are tied.")
    tied: bool
    scores: list[float] = Field(description="Strength of each answer, in their order; they sum to 1.")
    judge: str
    reason: str

    @classmethod
    def numbers(cls, verdict: Verdict, count: int) -> tuple[int, list[float]]:
        """The winner's number, and scores of all, of a verdict about c1, c2, …; even scores where all are the same."""
        if not verdict.scores:
            return 1, [round(1 / count, 4)] * count
        scores = [round(verdict.scores.get(f"c{number}", 0.0), 4) for number in range(1, count + 1)]
        return int((verdict.winner or "c1").removeprefix("c")), scores

    def __str__(self) -> str:
        ranking = sorted(range(len(self.scores)), key=lambda index: -self.scores[index])
        told = ", ".join(f"answer {index + 1} ({self.scores[index]:.2f})" for index in ranking)
        best = (
            f"Tied; the first of the best is answer {self.winner}." if self.tied else f"Answer {self.winner} is best."
        )
        return f"{best}\nRanking by {self.judge}: {told}\n{self.reason}\n\n{self.footnotes()}"


class Panel(BaseModel):
    """One fusion that can be asked."""

    name: str
    description: str | None
    strategy: str
    members: list[str]
    ready: bool = Field(description="Whether it can answer now; False while engines start, or if they failed.")
    lacking: str | None = Field(description="Why it is not ready, or what it does without.")


class Panels(BaseModel):
    """Everything that can be asked."""

    default: str | None = Field(description="Who is asked where no fusion is named; null where nobody can be.")
    fusions: list[Panel]
    models: list[str] = Field(description="Single models; each can be named in place of a fusion, too.")

    def __str__(self) -> str:
        return "\n".join([*(_line(panel) for panel in self.fusions), f"Single models: {_told(self.models)}"])


def _line(panel: Panel) -> str:
    described = f": {panel.description}" if panel.description else ""
    lacking = f" [{panel.lacking}]" if panel.lacking else ""
    return f"{panel.name} ({panel.strategy} of {_told(panel.members)}){described}{lacking}"


def _told(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
