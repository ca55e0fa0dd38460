"""How large one request may be, in whatever dialect it was made: messages, tokens, and who is in its panel."""

from __future__ import annotations

from typing import Any

from local_fusion.config.problems import render_path
from local_fusion.config.references import named_by, references
from local_fusion.config.schema import Config
from local_fusion.config.server import ServerConfig
from local_fusion.config.strategies import FusionConfig
from local_fusion.core.chat import ChatRequest
from local_fusion.errors import RequestError, TooLarge
from local_fusion.server.bodies import sequences, whole
from local_fusion.server.context import Caller

# By these names a request asks for more or fewer tokens of an answer.
_TOKENS = ("max_tokens", "max_completion_tokens")


def bounded(request: ChatRequest, settings: ServerConfig) -> ChatRequest:
    """The request, which gets no more tokens than `server.max_tokens`, also where it says no number.

    Raises `TooLarge` for too many messages, `RequestError` for too many tokens.
    """
    refuse_many_messages(len(request.messages), settings)
    if not request.up_to_context:  # else the number is a bound, and not what the answer is to have
        refuse_many_tokens(request.sampling.max_tokens, "max_tokens", settings)
    return request.but(sampling=request.sampling.capped(settings.max_tokens))


def bounded_body(raw: bytes, body: dict[str, Any], settings: ServerConfig, *, writes: bool) -> bytes:
    """The same for a request that goes to an engine as it came: `raw`, with a number of tokens where it lacks one.

    `writes`: it asks for text, not for embeddings. Raises `TooLarge` and `RequestError`. What is malformed passes: vLLM
    itself will say what is wrong with it.
    """
    messages = body.get("messages")
    if isinstance(messages, list):
        refuse_many_messages(len(messages), settings)
    if not writes:
        return raw
    if (ordered := sequences(body)) > settings.max_request_candidates:
        raise RequestError(
            f"this orders {ordered:,} answers, and one request may order {settings.max_request_candidates:,}",
            param="n",
            hint="ask for fewer answers or prompts; server.max_request_candidates sets the limit",
        )
    for name in _TOKENS:
        refuse_many_tokens(whole(body.get(name)), name, settings)
    if settings.max_tokens is None or any(body.get(name) is not None for name in _TOKENS):
        return raw
    # At the end, where it counts also after a null; what is in front of it stays as it came.
    return raw.rstrip().removesuffix(b"}") + b',"max_tokens":%d}' % settings.max_tokens


def refuse_many_messages(count: int, settings: ServerConfig) -> None:
    """Raises `TooLarge` for a longer conversation than is taken."""
    if count > settings.max_messages:
        raise TooLarge(
            f"the conversation has {count:,} messages, and {settings.max_messages:,} are taken",
            hint="leave out or sum up older ones, or raise server.max_messages",
        )


def refuse_many_tokens(asked: int | None, param: str, settings: ServerConfig) -> None:
    """Raises `RequestError` for a longer answer than may be asked for."""
    if asked is not None and settings.max_tokens is not None and asked > settings.max_tokens:
        raise RequestError(
            f"'{param}' is {asked:,}, and an answer may have {settings.max_tokens:,} tokens",
            param=param,
            hint="ask for less, or raise server.max_tokens",
        )


def refuse_long_members(fusion: FusionConfig, own: FusionConfig, settings: ServerConfig) -> None:
    """Raises `RequestError` where a request's own `fusion` lets a model write more than may be asked for.

    What the configured fusion, its `own`, lets one write is never too much.
    """
    if settings.max_tokens is None or fusion == own:
        return
    most = max(settings.max_tokens, *(each.max_tokens or 0 for _, each in references(own)), 0)
    for path, each in references(fusion):
        if each.max_tokens is not None and each.max_tokens > most:
            refuse_many_tokens(each.max_tokens, render_path(("fusion", *path, "max_tokens")), settings)


def visible(config: Config, caller: Caller, name: str) -> Config:
    """The configuration as a caller may change the fusion `name` in it: with whom they may ask, and who is in it."""
    if caller.models is None:
        return config
    own = config.fusions.get(name)
    shown = {name, *(inner for _, inner in named_by(own))} if own is not None else {name}
    changed = {
        part: {each: value for each, value in getattr(config, part).items() if each in shown or caller.may_ask(each)}
        for part in ("models", "fusions")
    }
    return config.model_copy(update=changed)
