"""Which names the server answers to, and which web pages may use it: browsers reach it from any page they show."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from local_fusion.config.server import ServerConfig
from local_fusion.errors import Forbidden, RequestError

Header = tuple[bytes, bytes]
_EXPOSED = (
    "X-Request-Id, Request-Id, Retry-After, X-RateLimit-Limit-Requests, X-RateLimit-Remaining-Requests, "
    "X-RateLimit-Reset-Requests, X-RateLimit-Limit-Tokens, X-RateLimit-Remaining-Tokens, X-RateLimit-Reset-Tokens"
)
_REMEMBERED_SECONDS = "600"


def check_host(hosts: Sequence[bytes], settings: ServerConfig) -> None:
    """Let pass a request that calls the server by one of its names; one that says no name comes from no browser.

    A page whose own name is made to lead to this machine (DNS rebinding) is of the same origin for the browser; its
    name in the Host header is what gives it away. It has no key, so with keys names do not matter.

    Raises `Forbidden`, and `RequestError` for several names.
    """
    if len(hosts) > 1:
        raise RequestError("the request has several Host headers", hint="send one")
    if not hosts or not (settings.allowed_hosts or (settings.is_loopback and settings.api_keys_file is None)):
        return
    name = _name(hosts[0])
    if name not in settings.allowed_hosts and not _is_here(name):
        raise Forbidden(
            f"this server does not go by the name '{name[:100]}'",
            hint="call it localhost or 127.0.0.1, or list the name in server.allowed_hosts",
        )


def _name(host: bytes) -> str:
    """The name alone: no port, no dot at the end, in small letters."""
    text = host.decode("latin-1").strip().lower()
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        return address if not rest or rest.startswith(":") else text
    return text.partition(":")[0].rstrip(".")


def _is_here(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def check_origin(origins: Sequence[bytes], hosts: Sequence[bytes], path: str, settings: ServerConfig) -> str | None:
    """The origin of the web page that makes the request, where it may and is not of this server; None for no such page.

    Raises `Forbidden` for a page that may not, and `RequestError` for several.
    """
    if not origins:
        return None
    if len(origins) > 1:
        raise RequestError("the request has several Origin headers", hint="send one")
    origin = origins[0].decode("latin-1").strip()
    if hosts and origin.partition("://")[2].lower() == hosts[0].decode("latin-1").strip().lower():
        return None
    listed = settings.cors_origins
    if origin.lower() in listed or ("*" in listed and not path.startswith("/admin")):
        return origin
    raise Forbidden(
        f"web pages of {origin[:100]} may not use this server",
        hint="list the origin in server.cors_origins if they are to; programs send no Origin header",
    )


def preflight(asked: Sequence[bytes], *, private: bool) -> list[Header]:
    """What answers a browser that wants to know first whether a page may; `asked`: headers that it is going to send."""
    allowed = b", ".join(asked) or b"Authorization, Content-Type"
    told = [
        (b"access-control-allow-methods", b"GET, POST, DELETE"),
        (b"access-control-allow-headers", allowed),
        (b"access-control-max-age", _REMEMBERED_SECONDS.encode()),
    ]
    return [*told, (b"access-control-allow-private-network", b"true")] if private else told


def cors(origin: str) -> list[Header]:
    """What a browser needs to see in every answer before it lets the page read it."""
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", _EXPOSED.encode()),
        (b"vary", b"Origin"),
    ]
