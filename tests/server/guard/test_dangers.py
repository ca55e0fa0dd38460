"""What no request may make an engine do: run a program, fetch, unpack, talk to other machines."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.config.server import ServerConfig
from local_fusion.errors import RequestError
from local_fusion.server.guard.dangers import refuse_dangerous
from tests.server.guard.guarded import CHAT, guarded

PIXEL = "data:image/png;base64,iVBORw0KGgo="
INTERNAL = "http://169.254.169.254/latest/meta-data"


def parts(*given: Any) -> dict[str, Any]:
    return {"model": "a", "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": list(given)}]}


def check(body: dict[str, Any], **options: Any) -> None:
    refuse_dangerous(body, ServerConfig.model_validate(options))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chat_template", "{{ cycler.__init__.__globals__.os.popen('id').read() }}"),
        ("kv_transfer_params", {"do_remote_prefill": True, "remote_host": "10.0.0.1"}),
        ("ec_transfer_params", {"remote_host": "10.0.0.1"}),
        ("prompt_embeds", "AAAA"),
        ("mm_processor_kwargs", {"max_pixels": 10**12}),
        ("media_io_kwargs", {"video": {"num_frames": 10**9}}),
        ("logits_processors", ["os.system"]),
    ],
)
def test_fields_that_load_or_run_something_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(RequestError) as refused:
        check({**CHAT, field: value})
    assert refused.value.param == field
    assert field in refused.value.message
    assert refused.value.hint
    check({**CHAT, field: None})


@pytest.mark.parametrize("name", ["chat_template", "tokenize", "return_tensors"])
def test_what_templates_are_given_may_not_replace_them(name: str) -> None:
    with pytest.raises(RequestError) as refused:
        check({**CHAT, "chat_template_kwargs": {"enable_thinking": False, name: "{{ x }}"}})
    assert refused.value.param == f"chat_template_kwargs.{name}"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": INTERNAL}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "  " + INTERNAL}},
        {"type": "image_url", "image_url": INTERNAL},
        {"image_url": INTERNAL},
        {"image_url": {"url": INTERNAL}, "uuid": "x"},
        {"type": "text", "text": "x", "uuid": "y", "image_url": INTERNAL},
        {"type": "input_image", "image_url": INTERNAL},
        {"type": "video_url", "video_url": {"url": INTERNAL}},
        {"type": "video_url", "video_url": {"url": "file:///etc/passwd"}},
        {"type": "audio_url", "audio_url": {"url": INTERNAL}},
        {"audio_url": INTERNAL},
        {"type": "image_embeds", "image_embeds": "AAAA"},
        {"type": "prompt_embeds", "prompt_embeds": {"data": "AAAA"}},
        {"type": "tool_result", "content": [{"type": "image_url", "image_url": {"url": INTERNAL}}]},
    ],
)
def test_nothing_is_fetched_and_no_tensor_unpacked_however_a_message_says_it(part: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as refused:
        check(parts({"type": "text", "text": "look"}, part))
    assert str(refused.value.param).startswith("messages[1].content[1]")


def test_embeddings_of_conversations_are_looked_at_too() -> None:
    with pytest.raises(RequestError) as refused:
        check({"model": "a", "input": parts({"type": "image_url", "image_url": {"url": INTERNAL}})["messages"]})
    assert refused.value.param == "input[1].content[0].image_url.url"


def test_what_a_request_brings_itself_is_taken() -> None:
    check(
        parts(
            {"type": "text", "text": f"what is at {INTERNAL}?"},
            {"type": "image_url", "image_url": {"url": PIXEL}},
            {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,UklGRg=="}},
            {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
            {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        )
    )


def test_hosts_that_are_listed_are_fetched_from() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://images.example.org/a.png"}}
    check(parts(part), media_domains=["images.example.org"])
    with pytest.raises(RequestError):
        check(parts(part), media_domains=["other.example.org"])


def test_descriptions_of_tools_are_no_media() -> None:
    schema = {"type": "object", "properties": {"image_url": {"type": "string", "default": INTERNAL}}}
    check({**CHAT, "tools": [{"type": "function", "function": {"name": "show", "parameters": schema}}]})


def test_ordinary_options_of_vllm_pass() -> None:
    check(
        {**CHAT, "chat_template_kwargs": {"enable_thinking": False}, "top_k": 5, "structured_outputs": {"regex": "a"}}
    )


def test_how_deep_messages_go_and_how_many_they_are_is_no_trouble() -> None:
    deep: Any = {"type": "image_url", "image_url": {"url": INTERNAL}}
    for _ in range(100_000):
        deep = [deep]
    too_much: list[Any] = [deep, [{}] * 2_000_000, [[{}] * 1000] * 1000]
    for much in too_much:
        with pytest.raises(RequestError, match="than a conversation does") as refused:
            check({"messages": much})
        assert refused.value.param == "messages"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
async def test_no_path_to_an_engine_takes_them(path: str) -> None:
    server = guarded()
    answer = await server.post(path, {"model": "a", "prompt": "x", "messages": [], "chat_template": "{{ 1 }}"})
    assert (answer.status, answer.error["param"]) == (400, "chat_template")
    assert server.runtime.engines["a"].forwarded == []
