"""Options of the HTTP endpoint."""

from __future__ import annotations

import ipaddress

from pydantic import Field, model_validator

from local_fusion.config.base import Seconds, Strict
from local_fusion.config.quantities import Bytes


class ServerConfig(Strict):
    """The HTTP endpoint."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535, description="0 takes any free port.")
    allow_remote: bool = Field(False, description="Allow a host other than loopback although there are no API keys.")
    api_keys_file: None = Field(None, description="Reserved for API keys; null is the only value so far.")
    keep_alive_seconds: Seconds = Field(5, description="Between comments sent while a streaming client waits.")
    max_body_bytes: Bytes = 16 * 1024**2
    stall_seconds: Seconds = Field(
        120, description="A client that takes nothing of its answer for so long is given up: it would hold its engine."
    )
    max_request_candidates: int = Field(
        512,
        ge=1,
        description="Most candidates that one request may order by changing a fusion or by `n`: members times samples "
        "times rounds, with those of fusions within it. What a fusion is configured to take is always allowed.",
    )
    drain_seconds: Seconds = Field(20, description="Time that running requests get when the server stops.")

    @model_validator(mode="after")
    def _loopback_unless_told(self) -> ServerConfig:
        try:
            local = ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            local = self.host == "localhost"
        if not local and not self.allow_remote:
            raise ValueError(
                f"host {self.host} is reachable by others and there are no API keys: use 127.0.0.1, "
                "or set allow_remote: true if something in front of it keeps strangers out"
            )
        return self
