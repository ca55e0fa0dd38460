"""Members as they sit in one panel: told apart by label, each with its samples and how it draws them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from local_fusion.config.panels import MemberConfig
from local_fusion.core.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Seat:
    """A member, or a part of its samples: the `index` of the member, the numbers of its candidates from `first`.

    `offset` samples of this member are asked for elsewhere, before these.
    """

    label: str
    member: MemberConfig
    index: int
    first: int
    samples: int
    offset: int = 0

    def part(self, start: int, samples: int) -> Seat:
        """`samples` of its samples, from number `start` (0 is the first)."""
        return replace(self, first=self.first + start, samples=samples, offset=self.offset + start)

    def writing_at_most(self, tokens: int) -> Seat:
        """The same with that limit on each answer."""
        return replace(self, member=self.member.model_copy(update={"max_tokens": tokens}))


def seats_of(panel: Sequence[MemberConfig]) -> list[Seat]:
    """Labels tell members apart: the model's name, its persona, and a number where that is still not enough."""
    plain = [f"{member.model} ({member.persona})" if member.persona else member.model for member in panel]
    twice = {label for label, count in Counter(plain).items() if count > 1}
    seen: Counter[str] = Counter()
    seats, first = [], 1
    for index, (label, member) in enumerate(zip(plain, panel, strict=True)):
        seen[label] += 1
        told = f"{label} #{seen[label]}" if label in twice else label
        seats.append(Seat(told, member, index, first, member.samples))
        first += member.samples
    return seats


def sampling_of(seat: Seat, asked: Sampling, *, verbatim: bool) -> Sampling:
    """How a member samples: its own settings, then the client's; a client's seed differs for every member.

    `verbatim`: a candidate may become the answer as it stands, so the client's `max_tokens` and `stop` bind it too.
    """
    own = Sampling.of(seat.member)
    sampling = own.over(asked)
    if own.seed is None:
        sampling = sampling.apart("member", seat.index)
    sampling = sampling.shifted(seat.offset)
    if not verbatim:  # where the answer is to stop is no business of a draft
        return sampling.model_copy(update={"stop": own.stop})
    if own.stop is not None and asked.stop is not None:
        sampling = sampling.with_fields(stop=list(dict.fromkeys([*stops_of(own), *stops_of(asked)])))
    return sampling.capped(asked.max_tokens)


def stops_of(sampling: Sampling) -> list[str]:
    """The texts that end an answer."""
    return [sampling.stop] if isinstance(sampling.stop, str) else sampling.stop or []
