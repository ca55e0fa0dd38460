"""Where pictures may come from: within the request, or hosts that the configuration names."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from local_fusion.config.server import ServerConfig
from local_fusion.errors import RequestError
from local_fusion.server.media import check_media_url

FIELD = "messages[0].content[1].image_url.url"
CLOSED = ServerConfig()
OPEN = ServerConfig(media_domains=["example.org", "img.example.org"])
SMALL = ServerConfig(max_image_bytes=10)


def data_url(image: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(image).decode()}"


def refusal(url: str, settings: ServerConfig) -> RequestError:
    with pytest.raises(RequestError) as refused:
        check_media_url(url, FIELD, settings)
    assert refused.value.param == FIELD
    assert refused.value.hint
    return refused.value


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "image/webp", "image/gif", "IMAGE/PNG"])
@pytest.mark.parametrize("settings", [CLOSED, OPEN], ids=["closed", "open"])
def test_an_image_within_the_request_is_taken(kind: str, settings: ServerConfig) -> None:
    check_media_url(data_url(b"\x89PNG picture", kind), FIELD, settings)


@given(st.binary(min_size=1, max_size=40))
def test_the_bound_on_size_counts_the_images_own_bytes(image: bytes) -> None:
    if len(image) <= 10:
        check_media_url(data_url(image), FIELD, SMALL)
    else:
        with pytest.raises(RequestError):
            check_media_url(data_url(image), FIELD, SMALL)


def test_an_image_over_the_bound_is_refused_with_the_option_that_raises_it() -> None:
    assert "server.max_image_bytes" in refusal(data_url(bytes(11)), SMALL).hint


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:,",
        "data:image/png,abc",
        "data:image/png;base64",
        "data:image/png;charset=utf-8;base64,QUJD",
        "data:image/png;base64,",
        "data:image/png;base64,QUJ",
        "data:image/png;base64,QU JD",
        "data:image/png;base64,QUJD\n",
        "data:image/png;base64,QU=D",
        "data:image/png;base64,QUJDé",
        "data:image/svg+xml;base64,QUJD",
        "data:text/html;base64,QUJD",
        "data:video/mp4;base64,QUJD",
    ],
)
def test_a_data_url_that_is_no_image_in_base64_is_refused(url: str) -> None:
    refusal(url, OPEN)


@pytest.mark.parametrize("url", ["https://example.org/a.png", "http://example.org/a.png", "HTTPS://EXAMPLE.ORG/"])
def test_by_default_nothing_is_fetched(url: str) -> None:
    refused = refusal(url, CLOSED)
    assert "fetches nothing" in refused.message
    assert "server.media_domains" in refused.hint


@pytest.mark.parametrize(
    "url",
    ["https://example.org", "https://example.org/a.png?b=c#d", "https://img.example.org/%20", "HTTPS://EXAMPLE.ORG/"],
)
def test_a_host_that_is_listed_is_fetched_from_over_https(url: str) -> None:
    check_media_url(url, FIELD, OPEN)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org/a.png",
        "//example.org/a.png",
        "http://example.org/a.png",
        "ftp://example.org/a.png",
        "file:///etc/passwd",
        "file://example.org/etc/passwd",
        "https://example.org:443/a.png",
        "https://example.org:8443/a.png",
        "https://example.org@evil.org/",
        "https://user:word@example.org/",
        "https://example.org.evil.org/",
        "https://evil.org/example.org",
        "https://other.example.org/",
        "https://example.org./",
        "https://evil.org#example.org",
        "https://evil.org\\@example.org/",
        "https://example.org\\.evil.org/",
        "https://example.org\t/",
        "https://exam\nple.org/",
        " https://example.org/",
        "https://example.org/a b",
        "https://example.org/\u202e",
        "https://127.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://0x7f000001/",
        "https://2130706433/",
        "https://localhost/",
        "https://examрle.org/",
        "blob:https://example.org/1",
        "https://example.org/" + "a" * 9000,
    ],
)
def test_every_other_address_is_refused(url: str) -> None:
    refusal(url, OPEN)


@pytest.mark.parametrize(
    "domain",
    [
        "127.0.0.1",
        "localhost",
        "10.0.0.1",
        "[::1]",
        "a.org:80",
        "https://a.org",
        "*.org",
        "A.org",
        "a..org",
        "-a.org",
        "a.1",
        "",
    ],
)
def test_only_full_names_of_hosts_can_be_listed(domain: str) -> None:
    with pytest.raises(ValidationError):
        ServerConfig(media_domains=[domain])
