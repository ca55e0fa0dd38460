"""How likely given answers are to an engine's model (teacher forcing), from the log-probabilities of a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from local_fusion.core.concurrency import together
from local_fusion.core.model import Score
from local_fusion.core.records import Usage
from local_fusion.engines.answering import CallInProgress
from local_fusion.engines.client import EngineClient
from local_fusion.errors import EngineRejected

# vLLM tells the log-probability of every token of a prompt, in 87 bytes of JSON (seen with 0.32); so many at a time.
_BATCH_TOKENS = 32_768

Tokens = tuple[int, ...]


async def scored(
    client: EngineClient,
    conversation: Mapping[str, Any],
    answers: Sequence[str],
    call: CallInProgress,
    **more: str,
) -> tuple[Score, ...]:
    """How likely each of `answers` is after `conversation`; an empty one is certain. What it takes counts in `call`.

    vLLM has to generate one token for each, which is part of that. Raises what `EngineClient.complete` raises.
    """
    asked = (await client.tokenize(conversation)).tokens
    written = await together([_tokens(client, answer) for answer in answers])
    scores, call.total = [Score(0.0, 0)] * len(answers), Usage()
    for batch in _batches([(place, tokens) for place, tokens in enumerate(written) if tokens], len(asked)):
        payload = {"model": client.name, "prompt": [[*asked, *tokens] for _, tokens in batch]}
        options = {"prompt_logprobs": 0, "max_tokens": 1, "temperature": 0, "add_special_tokens": False}
        answer = await client.complete({**payload, **options, **more}, "/v1/completions")
        call.total += Usage(answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"])
        for choice, (place, tokens) in zip(_in_order(answer), batch, strict=True):
            scores[place] = _score(choice, tokens, client.name)
    return tuple(scores)


async def _tokens(client: EngineClient, answer: str) -> Tokens:
    return (await client.tokenize(answer)).tokens if answer else ()


def _batches(answers: Sequence[tuple[int, Tokens]], asked: int) -> Iterator[list[tuple[int, Tokens]]]:
    """Answers in groups that are at most `_BATCH_TOKENS` long together with their questions, or one answer."""
    batch: list[tuple[int, Tokens]] = []
    length = 0
    for place, tokens in answers:
        size = asked + len(tokens)
        if batch and length + size > _BATCH_TOKENS:
            yield batch
            batch, length = [], 0
        batch.append((place, tokens))
        length += size
    if batch:
        yield batch


def _in_order(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(answer["choices"], key=lambda choice: int(choice["index"]))


def _score(choice: Mapping[str, Any], tokens: Tokens, name: str) -> Score:
    """The sum over the last tokens of a prompt, which are the answer's."""
    try:
        told = choice["prompt_logprobs"][-len(tokens) :]
        logprobs = [float(place[str(token)]["logprob"]) for place, token in zip(told, tokens, strict=True)]
    except (KeyError, TypeError, ValueError) as error:
        raise EngineRejected(f"{name} gave no log probabilities for the answers to score") from error
    return Score(sum(logprobs), len(tokens))
