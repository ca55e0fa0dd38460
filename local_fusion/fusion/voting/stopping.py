"""Whether a vote is decided before all votes are in. Pure."""

from __future__ import annotations

from math import exp, fsum, lgamma

from local_fusion.fusion.voting.counting import EVEN, Count

MOST_AHEAD = 1000  # samples that are looked ahead; farther away the probability hardly changes any more


def certain(counted: Count, pending: int, heaviest: float) -> bool:
    """Whether the leading answer wins whatever `pending` more samples say, none of which weighs more than `heaviest`.

    No other answer, known or new, can have as many votes: a tie is waited for, though panel order would break it.
    """
    if not counted.standings:
        return False
    leader, *rivals = (standing.total for standing in counted.standings)
    return not pending or leader - max(rivals, default=0.0) - heaviest * pending > EVEN * leader


def stays_ahead(counted: Count, pending: int) -> float:
    """Probability that the leader has more votes than the next answer after `pending` more samples.

    As in adaptive consistency (arXiv 2305.11860) only these two count, and the leader's share of them has a Beta
    posterior from an even prior. Its probability to be the likelier answer is what that paper asks for; here the vote
    ends with a panel that has an end, so the votes that are still to come are Beta-binomial. Votes are weighed in
    units of the mean vote. 0 where nobody leads.
    """
    if not counted.standings:
        return 0.0
    ballots = [ballot.weight for standing in counted.standings for ballot in standing.ballots]
    unit = fsum(ballots) / len(ballots) or 1.0
    leader, *rivals = (standing.total / unit for standing in counted.standings)
    return ahead_after(leader, max(rivals, default=0.0), min(pending, MOST_AHEAD))


def ahead_after(leader: float, rival: float, pending: int) -> float:
    """The same for the votes of two answers."""
    mine, theirs = leader + 1, rival + 1
    least = (pending - (leader - rival)) / 2  # more of the votes to come than this keep the leader ahead
    return fsum(
        exp(_log_choose(pending, won) + _log_beta(mine + won, theirs + pending - won) - _log_beta(mine, theirs))
        for won in range(pending + 1)
        if won - least > EVEN * (1 + pending)
    )


def _log_choose(of: int, these: int) -> float:
    return lgamma(of + 1) - lgamma(these + 1) - lgamma(of - these + 1)


def _log_beta(one: float, other: float) -> float:
    return lgamma(one) + lgamma(other) - lgamma(one + other)
