"""Options of the HTTP endpoint."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, model_validator

from local_fusion.config.base import Seconds, Strict
from local_fusion.config.quantities import Bytes
from local_fusion.core.budget import Budget

# A name of at least two parts, in lower case; its last part begins with a letter, so that it is no IP address.
Domain = Annotated[str, Field(max_length=253, pattern=r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]([a-z0-9-]*[a-z0-9])$")]
Address = Annotated[str, Field(max_length=2000, pattern=r"^https?://[^\s?#]+$")]


class ResponsesConfig(Strict):
    """Which answers of `/v1/responses` are kept, so that they can be fetched and conversations go on from them."""

    store: bool = Field(True, description="Keep responses, unless a request says `store: false`. false: keep none.")
    keep_days: float = Field(30, gt=0, description="How long one is kept after it was last gone on from.")
    max_bytes: Bytes = Field(1024**3, description="What all may take; beyond that the longest unused go.")


# What stands before the port in a Host header.
HostName = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
# As browsers write it: scheme, host, and the port where it is not the scheme's own.
Origin = Annotated[str, Field(max_length=300, pattern=r"^(\*|null|[a-z][a-z0-9+.-]*://[a-z0-9._:\[\]-]+)$")]


BOUND_AT_START = ("host", "port", "log_format", "log_level", "telemetry")
"""What a reload does not change, because the server is built on it."""


class TelemetryConfig(Strict):
    """Where traces go. They tell models, tokens and times, and nothing of what was asked or answered."""

    endpoint: Address | None = Field(
        None,
        description="Base address of a collector that takes OTLP over HTTP, such as http://127.0.0.1:4318. "
        "Default: what OTEL_EXPORTER_OTLP_ENDPOINT says.",
    )


class ServerConfig(Strict):
    """The HTTP endpoint."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535, description="0 takes any free port.")
    allow_remote: bool = Field(False, description="Allow a host other than loopback although there are no API keys.")
    api_keys_file: str | None = Field(
        None,
        min_length=1,
        description="File of API keys, relative to the configuration's folder; `local-fusion keys create` writes it. "
        "Without one whoever reaches the server may do anything.",
    )
    allowed_hosts: list[HostName] = Field(
        [],
        max_length=64,
        description="Names by which clients may call the server besides localhost. Without API keys on loopback others "
        "are refused: web pages whose names are made to lead here would use it.",
    )
    cors_origins: list[Origin] = Field(
        [],
        max_length=64,
        description="Origins of web pages that may use the server from a browser, such as https://chat.example.org; "
        "`*` is any, but for /admin.",
    )
    keep_alive_seconds: Seconds = Field(5, description="Between comments sent while a streaming client waits.")
    keep_alive: Literal["comments", "deltas"] = Field(
        "comments",
        description="What keeps a stream of chat completions alive: comments, or empty deltas for clients whose idle "
        "timers do not see comments.",
    )
    request_budget: Budget | None = Field(
        None,
        description="What any one request may cost. Once it is spent, the best answer so far is the answer, and "
        "labelled. Requests that are passed through to an engine are bound by its seconds only.",
    )
    max_body_bytes: Bytes = 16 * 1024**2
    max_messages: int = Field(4096, ge=1, description="Most messages of the conversation in one request.")
    max_tokens: int | None = Field(
        None,
        ge=1,
        description="Most tokens that a request may ask for in one answer, and that it gets where it names no number. "
        "Default: what the model's context holds.",
    )
    max_requests: int = Field(512, ge=1, description="Most requests that are worked on at the same time, in all.")
    max_connections: int = Field(1024, ge=1, description="Most connections that are open at the same time.")
    max_depth: int = Field(
        1,
        ge=0,
        description="How many fusion servers and programs run by them may stand above a request (`X-Fusion-Depth`): "
        "endpoints that ask each other in circles end there.",
    )
    header_seconds: Seconds = Field(15, description="Time in which a request's line and headers must arrive.")
    body_seconds: Seconds = Field(120, description="Time in which a request's body must arrive.")
    log_format: Literal["text", "json"] = Field("text", description="Of the log on stderr; JSON is one object a line.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="What is logged at least. Every request is a line at level info."
    )
    telemetry: TelemetryConfig | None = Field(
        None, description="Send traces to an OpenTelemetry collector; `{}` takes the standard OTEL_* variables."
    )
    max_image_bytes: Bytes = Field(8 * 1024**2, description="Of one image in a request, decoded.")
    media_domains: list[Domain] = Field(
        [],
        max_length=64,
        description="Hosts from which requests may have images fetched, over https. None: only images within requests.",
    )
    stall_seconds: Seconds = Field(
        120, description="A client that takes nothing of its answer for so long is given up: it would hold its engine."
    )
    responses: ResponsesConfig = ResponsesConfig()
    max_request_candidates: int = Field(
        512,
        ge=1,
        description="Most candidates that one request may order by changing a fusion or by `n`: members times samples "
        "times rounds, with those of fusions within it. What a fusion is configured to take is always allowed.",
    )
    drain_seconds: Seconds = Field(20, description="Time that running requests get when the server stops.")

    @model_validator(mode="after")
    def _loopback_unless_told(self) -> ServerConfig:
        if not self.is_loopback and not self.allow_remote and self.api_keys_file is None:
            raise ValueError(
                f"host {self.host} is reachable by others and there are no API keys: use 127.0.0.1, name an "
                "api_keys_file, or set allow_remote: true if something in front of it keeps strangers out"
            )
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
