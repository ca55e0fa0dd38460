"""How tokens are drawn: the one place where sampling options are named (config, requests and engine calls share it)."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

Stop = Annotated[str | list[str], Field(description="Text, or up to four texts, that end the answer.")]


class Sampling(BaseModel):
    """Sampling options; `None` leaves the choice to the level below (member, then the model's own default)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy; higher is more varied.")
    top_p: float | None = Field(None, gt=0, le=1, description="Nucleus sampling: keep this share of probability.")
    top_k: int | None = Field(None, ge=-1, description="Keep the k likeliest tokens; 0 or -1 keeps all.")
    min_p: float | None = Field(None, ge=0, le=1, description="Drop tokens below this share of the likeliest one.")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0)
    seed: int | None = Field(None, description="Makes sampling repeatable as far as the engine allows.")
    stop: Stop | None = None
    max_tokens: int | None = Field(None, ge=1, description="Most tokens of one answer.")

    def over(self, below: Sampling) -> Sampling:
        """These options where they are set, `below` where they are not."""
        return Sampling(**{**below.set_fields(), **self.set_fields()})

    def set_fields(self) -> dict[str, Any]:
        """The options that are set, by name."""
        return {name: value for name in Sampling.model_fields if (value := getattr(self, name)) is not None}

    def capped(self, most: int | None) -> Sampling:
        """The same with at most `most` tokens (no change for `None`)."""
        if most is None or (self.max_tokens is not None and self.max_tokens <= most):
            return self
        return self.with_fields(max_tokens=most)

    def with_fields(self, **fields: Any) -> Sampling:
        """The same with some fields set otherwise."""
        return Sampling(**{**self.set_fields(), **fields})

    def shifted(self, number: int) -> Sampling:
        """For sample `number` (from 0) that is asked for by itself: as engines number the seeds of several."""
        return self if self.seed is None else self.with_fields(seed=self.seed + number)

    def apart(self, kind: str, number: int) -> Sampling:
        """For part `number` of some `kind` of parts: another seed, drawn from this one so that no samples of different
        parts share one, nor those of parts of parts.
        """
        if self.seed is None:
            return self
        drawn = hashlib.blake2b(f"{self.seed} {kind} {number}".encode(), digest_size=4).digest()
        return self.with_fields(seed=int.from_bytes(drawn) >> 1)

    @classmethod
    def of(cls, options: Self) -> Sampling:
        """Only the sampling part of a larger model that inherits these fields."""
        return Sampling(**options.set_fields())
