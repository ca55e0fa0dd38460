"""Pictures in requests: where they may come from. Nobody makes an engine fetch what the configuration does not name."""

from __future__ import annotations

import binascii
import re

from local_fusion.config.quantities import format_bytes
from local_fusion.config.server import ServerConfig
from local_fusion.errors import RequestError

_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")
_DATA = re.compile(r"data:([a-z]+/[a-z0-9.+-]+);base64,", re.IGNORECASE)
# Stricter than any parser of addresses: where they disagree, one of them could be led elsewhere.
_ADDRESS = re.compile(r"https://([a-z0-9.-]+)(?:[/?#][\x21-\x5b\x5d-\x7e]*)?", re.IGNORECASE)
_LONGEST_ADDRESS = 8192


def check_media_url(url: str, param: str, settings: ServerConfig) -> None:
    """Let pass an image as a data URL, or an https address on one of `server.media_domains`; `param` is the field.

    Raises `RequestError`.
    """
    if url[:5].lower() == "data:":
        _check_data(url, param, settings.max_image_bytes)
    else:
        _check_address(url, param, settings.media_domains)


def _check_data(url: str, param: str, most: int) -> None:
    head = _DATA.match(url)
    if head is None:
        raise RequestError(
            "a data URL needs a type and base64", param=param, hint="write it as data:image/png;base64,iVBORw0…"
        )
    if head[1].lower() not in _TYPES:
        raise RequestError(
            f"{head[1][:40]} is no image that models are shown", param=param, hint=f"send one of {', '.join(_TYPES)}"
        )
    size = (len(url) - head.end()) * 3 // 4 - url[-2:].count("=")
    if size > most:
        raise RequestError(
            f"the image has {format_bytes(size)}, at most {format_bytes(most)} are taken",
            param=param,
            hint="send a smaller one (models look at a few megapixels), or raise server.max_image_bytes",
        )
    try:
        decoded = binascii.a2b_base64(url[head.end() :], strict_mode=True)
    except ValueError:  # of ASCII that is no base64, and of what is not even ASCII
        raise RequestError(
            "the data URL is no valid base64", param=param, hint="encode the image's bytes, without line breaks"
        ) from None
    if not decoded:
        raise RequestError("the image is empty", param=param, hint="encode the image's bytes after 'base64,'")


def _check_address(url: str, param: str, domains: list[str]) -> None:
    inline = "send the image itself, as data:image/png;base64,…"
    if not domains:
        raise RequestError(
            "images are taken as data URLs only; this server fetches nothing",
            param=param,
            hint=f"{inline}, or list the host in server.media_domains",
        )
    address = _ADDRESS.fullmatch(url) if len(url) <= _LONGEST_ADDRESS else None
    if address is None:
        raise RequestError(
            "not an https address of the plain kind (no port, no user, no IP address)", param=param, hint=inline
        )
    if address[1].lower() not in domains:
        raise RequestError(
            f"images are fetched from {', '.join(domains)} only, not from {address[1][:80]}",
            param=param,
            hint=f"{inline}, or list the host in server.media_domains",
        )
