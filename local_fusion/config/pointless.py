"""Options of one fusion that could have no effect, or contradict each other: better refused than ignored."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from local_fusion.config.base import Reference
from local_fusion.config.judging import LikelihoodJudge, PairwiseJudge, PointwiseJudge
from local_fusion.config.problems import KeyPath, Problem
from local_fusion.config.references import parts_of, references
from local_fusion.config.strategies import (
    CouncilConfig,
    EvolveConfig,
    FusionConfig,
    MuseConfig,
    RelayConfig,
    ReviewConfig,
    SingleConfig,
    SynthesizeConfig,
    VoteConfig,
)

_NO_EFFECT = "so it has no effect; remove it"


def contradictions(fusion: FusionConfig) -> Iterator[Problem]:
    """What cannot work as it stands, at key paths within the fusion."""
    if fusion.candidates < fusion.fewest:
        message = (
            f"the panel gives one candidate only, so strategy {fusion.strategy} has nothing to choose from or compare; "
            "add members, raise the member's `samples`, or use strategy single"
        )
        yield Problem(("panel",), message)
    elif isinstance(fusion, CouncilConfig) and len(fusion.panel) > 1 and _others(fusion) < 2:
        message = (
            "nobody has two answers of others, so there is nothing to rank; add a member, raise `samples`, or use "
            "strategy synthesize"
        )
        yield Problem(("panel",), message)
    if fusion.quorum > fusion.candidates and not _gives_one(fusion):
        message = f"{fusion.quorum} candidates are needed but the panel gives {fusion.candidates}"
        yield Problem(("quorum",), message)
    if fusion.most is not None and len(fusion.panel) > fusion.most:
        yield Problem(("panel",), f"strategy {fusion.strategy} takes one member, got {len(fusion.panel)}; leave one")
    for path, part in ((), fusion), *parts_of(fusion):
        if isinstance(part, LikelihoodJudge):
            yield from _of_likelihood(path, part)
        for option, several in part:
            for index, each in enumerate(several if isinstance(several, list) and option != "panel" else ()):
                if isinstance(each, BaseModel) and each in several[:index] and not isinstance(part, LikelihoodJudge):
                    yield Problem((*path, option, index), "the same once more, which adds nothing; remove it")


def _others(fusion: FusionConfig) -> int:
    """How many answers of others the member with the fewest of its own sees."""
    return fusion.candidates - min(member.samples for member in fusion.panel)


def _of_likelihood(path: KeyPath, judge: LikelihoodJudge) -> Iterator[Problem]:
    names = [reference.model for reference in judge.models or ()]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Problem((*path, "models", index), f"'{name}' scores already; each model counts once")


def pointless(fusion: FusionConfig) -> Iterator[Problem]:
    """What has no effect, at the key path of the option to be removed."""
    yield from _of_the_panel(fusion)
    yield from _of_the_frame(fusion)
    yield from _of_judges(fusion)
    yield from _of_strategies(fusion)


def _of_the_panel(fusion: FusionConfig) -> Iterator[Problem]:
    strategy = fusion.strategy
    for index, member in enumerate(fusion.panel):
        one = _gives_one(fusion) or isinstance(fusion, RelayConfig)
        if member.samples > 1 and one:
            told = "asks each member for one draft at a time" if isinstance(fusion, RelayConfig) else "gives one answer"
            message = f"strategy {strategy} {told}, so {member.samples} samples have no use; remove `samples`"
            yield Problem(("panel", index, "samples"), message)
        if member.rephrase and (member.samples == 1 or one):
            message = f"the first answer sees the question as it is, and this member gives one only, {_NO_EFFECT}"
            yield Problem(("panel", index, "rephrase"), message)
        elif member.rephrase and isinstance(fusion, ReviewConfig):
            yield Problem(("panel", index, "rephrase"), f"a document is never put in other words, {_NO_EFFECT}")
        if isinstance(fusion, RelayConfig) and member.max_tokens is not None:
            yield Problem(("panel", index, "max_tokens"), f"`segment_tokens` says how long drafts are, {_NO_EFFECT}")


def _gives_one(fusion: FusionConfig) -> bool:
    """Whether a strategy needs one answer of its panel and no more."""
    return isinstance(fusion, SingleConfig) or fusion.most == 1


def _of_the_frame(fusion: FusionConfig) -> Iterator[Problem]:
    """What all strategies have beside the panel."""
    strategy = fusion.strategy
    if fusion.quorum > 1 and _gives_one(fusion):
        message = f"strategy {strategy} gives one answer, so {fusion.quorum} cannot be reached; remove `quorum`"
        yield Problem(("quorum",), message)
    if fusion.grace_seconds is not None and _gives_one(fusion):
        yield Problem(("grace_seconds",), f"strategy {strategy} waits for one answer at a time, {_NO_EFFECT}")
    elif fusion.grace_seconds is not None and fusion.quorum == fusion.candidates:
        message = f"has no use while all {fusion.candidates} candidates are needed; lower the quorum or remove it"
        yield Problem(("grace_seconds",), message)
    if isinstance(fusion, SingleConfig | MuseConfig) and fusion.cadence != "every":
        yield Problem(("cadence",), f"strategy {strategy} calls one model in every turn, {_NO_EFFECT}")
    elif isinstance(fusion, ReviewConfig) and "cadence" in fusion.model_fields_set:
        yield Problem(("cadence",), f"a review is no turn of an agent's, {_NO_EFFECT}")
    if fusion.solo is not None and fusion.cadence == "every":
        yield Problem(("solo",), "has no use with cadence every; remove it, or choose first or final")
    if fusion.member_format and isinstance(fusion, ReviewConfig):
        yield Problem(("member_format",), f"reviewers write in a format of the review's own, {_NO_EFFECT}")
    elif fusion.member_format and not _writes_anew(fusion):
        yield Problem(("member_format",), f"members' answers are returned, and bound, as they are, {_NO_EFFECT}")
    for stage in sorted(fusion.deadlines.model_fields_set):
        if stage not in fusion.stages:
            yield Problem(("deadlines", stage), f"strategy {strategy} has no such stage; remove it")
        elif stage not in fusion.stages_used:
            yield Problem(("deadlines", stage), f"no model is called in this stage with these options, {_NO_EFFECT}")


def _writes_anew(fusion: FusionConfig) -> bool:
    """Whether the final answer is someone else's than a member's."""
    return "synthesis" in fusion.stages_used and not isinstance(fusion, EvolveConfig)


def _of_judges(fusion: FusionConfig) -> Iterator[Problem]:
    for path, reference in _silent(fusion):
        for option in reference.set_fields():
            yield Problem((*path, option), f"nothing is generated by this judge, {_NO_EFFECT}")


def _silent(fusion: FusionConfig) -> Iterator[tuple[KeyPath, Reference]]:
    """The references to models that write nothing: they read probabilities."""
    for path, part in parts_of(fusion):
        if isinstance(part, PairwiseJudge | PointwiseJudge):
            yield path, part
        elif isinstance(part, LikelihoodJudge):
            yield from (((*path, *deeper), reference) for deeper, reference in references(part))
        elif path[0] == "judge" and isinstance(part, Reference) and isinstance(fusion, SynthesizeConfig):
            yield from () if fusion.analysis else [(path, part)]


def _of_strategies(fusion: FusionConfig) -> Iterator[Problem]:
    if isinstance(fusion, VoteConfig):
        for option, needed in (("verifier", "code"), ("judge", "cluster")):
            if getattr(fusion, option) is not None and fusion.extract != needed:
                message = f"has no use with extract {fusion.extract}; remove it, or extract {needed}"
                yield Problem((option,), message)
        if fusion.adaptive is not None and fusion.extract in ("cluster", "code"):
            message = f"answers can only be counted one by one, so not with extract {fusion.extract}; remove it"
            yield Problem(("adaptive",), message)
        elif fusion.adaptive is not None and fusion.adaptive.wave >= fusion.candidates:
            message = (
                f"its first wave of {fusion.adaptive.wave} is the whole panel of {fusion.candidates}; lower `wave`"
            )
            yield Problem(("adaptive",), message)
    if isinstance(fusion, EvolveConfig) and "migrate_every" in fusion.model_fields_set:
        if fusion.islands == 1:
            yield Problem(("migrate_every",), f"there is one island only, {_NO_EFFECT}")
        elif fusion.migrate_every > fusion.generations:
            message = f"the search ends after {fusion.generations} generations; lower it, or remove it"
            yield Problem(("migrate_every",), message)
