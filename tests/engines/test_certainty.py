from __future__ import annotations

from local_fusion.core.records import Certainty, Usage
from local_fusion.engines.certainty import CertaintySoFar
from local_fusion.engines.chunks import Chunk, TokenLogprobs, chunks_of


def certainty_of(*values: float, chosen: float = -1.0) -> Certainty | None:
    """Of an answer whose tokens are so certain one after the other."""
    so_far = CertaintySoFar()
    for value in values:
        assert so_far.add(TokenLogprobs(chosen, (-value - 1, -value + 1))) == (value,)
    return so_far.total()


def test_the_lowest_certainty_is_that_of_the_worst_window() -> None:
    dip = [3.0] * 100 + [1.0] * 32 + [3.0] * 100
    total = certainty_of(*dip)
    assert total == Certainty(-1.0, (200 * 3 + 32) / 232, (32 * 3 + 32) / 64, 232)
    turned = certainty_of(*[1.0] * 64, *[3.0] * 64)
    assert turned is not None
    assert turned.lowest == 1


def test_a_short_answer_is_one_window() -> None:
    assert certainty_of(1.0, 4.0) == Certainty(-1.0, 2.5, 2.5, 2)


def test_where_no_token_was_told_there_is_no_certainty() -> None:
    assert certainty_of() is None


def test_tokens_that_a_format_left_no_choice_about_say_nothing() -> None:
    possible = {"logprob": -0.5, "top_logprobs": [{"logprob": -0.5}, {"logprob": -1.5}, {"logprob": -9999.0}]}
    forced = {"logprob": 0.0, "top_logprobs": [{"logprob": 0.0}, {"logprob": -9999.0}]}
    event = {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [possible, forced]}}]}
    (chunk,) = chunks_of(event)
    assert chunk.logprobs == (TokenLogprobs(-0.5, (-0.5, -1.5)), TokenLogprobs(0.0, (0.0,)))
    so_far = CertaintySoFar()
    assert [so_far.add(token) for token in chunk.logprobs] == [(1.0,), ()]
    assert so_far.total() == Certainty(-0.25, 1.0, 1.0, 2)


def test_thoughts_are_understood_under_their_older_name_too() -> None:
    event = {"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]}
    assert list(chunks_of(event)) == [Chunk(0, "", None, Usage(), reasoning="hm")]
