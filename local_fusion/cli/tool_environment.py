"""The environment in which tools find our endpoint: which variables, with which values, and why."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NO_KEY = "local"  # clients insist on one also where the server wants none


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable, its value (None: taken away), and what it is for."""

    name: str
    value: str | None
    why: str


def tool_variables(base: str, model: str, key: str, environ: Mapping[str, str]) -> tuple[Variable, ...]:
    """What a tool needs to use `model` at the server at `base` (an address without /v1), instead of its vendor's."""
    openai, in_place_of = f"{base}/v1", "the model in place of"
    return (
        Variable("OPENAI_BASE_URL", openai, "OpenAI's clients"),
        Variable("OPENAI_API_BASE", openai, "the same, as LiteLLM, aider and older clients call it"),
        Variable("OPENAI_API_KEY", key, "the server's key; any text where it wants none"),
        Variable("OPENAI_MODEL", model, "tools that read their model from here"),
        Variable("ANTHROPIC_BASE_URL", base, "Anthropic's clients and Claude Code"),
        Variable("ANTHROPIC_AUTH_TOKEN", key, "the server's key, as a bearer token: Claude Code asks nothing about it"),
        Variable("ANTHROPIC_API_KEY", None, "would win over the token, and Claude Code warns of the two"),
        Variable("ANTHROPIC_MODEL", model, "Claude Code's model"),
        Variable("ANTHROPIC_DEFAULT_OPUS_MODEL", model, f"{in_place_of} opus"),
        Variable("ANTHROPIC_DEFAULT_SONNET_MODEL", model, f"{in_place_of} sonnet"),
        Variable("ANTHROPIC_DEFAULT_HAIKU_MODEL", model, f"{in_place_of} haiku, which does small work aside"),
        Variable("ANTHROPIC_SMALL_FAST_MODEL", model, "the same in older versions"),
        Variable("CLAUDE_CODE_SUBAGENT_MODEL", model, f"{in_place_of} subagents"),
        Variable("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1", "no telemetry, error reports or updates"),
        Variable(
            "CLAUDE_CODE_ATTRIBUTION_HEADER", "0", "a line that changes at the prompt's start: no prefix is cached"
        ),
        Variable("CLAUDE_CODE_USE_BEDROCK", None, "Claude Code would ask that cloud, not us"),
        Variable("CLAUDE_CODE_USE_VERTEX", None, "likewise"),
        Variable("CLAUDE_CODE_USE_FOUNDRY", None, "likewise"),
        Variable("API_TIMEOUT_MS", environ.get("API_TIMEOUT_MS", "3600000"), "a panel may take longer than 10 minutes"),
        *_past_proxies(environ),
    )


def _past_proxies(environ: Mapping[str, str]) -> Sequence[Variable]:
    """Where there is a proxy, our own machine's addresses are not for it."""
    if not any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in environ):
        return ()
    before = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    hosts = ",".join(filter(None, [before, "127.0.0.1,localhost"]))
    why = "requests to this machine go past the proxy"
    return Variable("NO_PROXY", hosts, why), Variable("no_proxy", hosts, why)


def applied(variables: Sequence[Variable], environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` with the variables."""
    named = {variable.name for variable in variables}
    kept = {name: value for name, value in environ.items() if name not in named}
    return kept | {variable.name: variable.value for variable in variables if variable.value is not None}


def as_shell(variables: Sequence[Variable]) -> str:
    """The variables as lines that a POSIX shell reads."""
    lines = []
    for variable in variables:
        line = f"unset {variable.name}"
        if variable.value is not None:
            line = f"export {variable.name}={shlex.quote(variable.value)}"
        lines.append(f"{line}  # {variable.why}")
    return "\n".join(lines)
