"""Votes: what counts, who is ahead, when that can be said before all votes are in."""
