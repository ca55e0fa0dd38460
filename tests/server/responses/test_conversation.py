"""What becomes of input items: the messages that models read."""

from __future__ import annotations

from typing import Any

from local_fusion.core.chat import Image, Message, ToolCall
from local_fusion.errors import RequestError
from local_fusion.server.openai.responses.conversation import Conversation
from local_fusion.server.openai.responses.items import read_items

PIXEL = "data:image/png;base64,AAAA"


def messages(*items: Any, instructions: str | None = None, before: Any = ()) -> list[Message]:
    return conversation(*items, instructions=instructions, before=before).messages


def conversation(*items: Any, instructions: str | None = None, before: Any = ()) -> Conversation:
    return Conversation.of(instructions, before, read_items(list(items), "r1", lambda url, path: None))


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def called(name: str, call_id: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": "{}"}


def test_a_text_is_a_users_message() -> None:
    items = read_items("Hello", "r1", lambda url, path: None)
    assert items == [
        {
            "id": "msg_r1_0",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_text", "text": "Hello"}],
        }
    ]
    assert Conversation.of(None, [], items).messages == [Message("user", "Hello")]


def test_instructions_come_first_and_are_one_message_with_what_else_is_the_systems() -> None:
    items = ({"role": "developer", "content": "Rhyme."}, user("Hello"), {"role": "system", "content": "Stop."})
    assert messages(*items, instructions="Be brief.") == [
        Message("system", "Be brief.\n\nRhyme."),
        Message("user", "Hello"),
        Message("system", "Stop."),
    ]


def test_a_systems_message_in_the_input_stays_what_it_is_called() -> None:
    assert messages({"role": "developer", "content": "Rhyme."}, user("Hello"))[0] == Message("developer", "Rhyme.")


def test_parts_are_one_text_and_images_keep_their_place() -> None:
    parts = [
        {"type": "input_text", "text": "What is"},
        {"type": "input_image", "image_url": PIXEL, "detail": "low"},
        {"type": "input_text", "text": "this?"},
        {"type": "input_image", "image_url": PIXEL},
    ]
    assert messages({"type": "message", "role": "user", "content": parts}) == [
        Message("user", "What is\nthis?", parts=("What is", Image(PIXEL, "low"), "this?", Image(PIXEL)))
    ]


def test_calls_of_one_turn_are_one_message_and_each_result_is_one() -> None:
    spoken = {"role": "assistant", "content": [{"type": "output_text", "text": "I look."}]}
    result = {"type": "function_call_output", "call_id": "1", "output": "12 °C"}
    parts = {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "20 °C"}]}
    asked = (user("Weather?"), spoken, called("weather", "1"), called("weather", "2"), result, parts)
    first, second = ToolCall("1", "weather", "{}"), ToolCall("2", "weather", "{}")
    assert messages(*asked, called("weather", "3")) == [
        Message("user", "Weather?"),
        Message("assistant", "I look.", tool_calls=(first, second)),
        Message("tool", "12 °C", tool_call_id="1"),
        Message("tool", "20 °C", tool_call_id="2"),
        Message("assistant", "", tool_calls=(ToolCall("3", "weather", "{}"),)),
    ]


def test_thoughts_and_a_panels_findings_are_not_read_back() -> None:
    thoughts = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]}
    findings = {"type": "openrouter:fusion", "status": "completed", "analysis": {}}
    said = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    assert messages(user("Hi"), thoughts, findings, said, user("Why?")) == [
        Message("user", "Hi"),
        Message("assistant", "No."),
        Message("user", "Why?"),
    ]


def test_what_was_said_before_comes_before_the_input_and_after_the_instructions() -> None:
    before = read_items([user("Hi"), {"role": "assistant", "content": "Hello!"}], "r0", lambda url, path: None)
    assert [message.content for message in messages(user("Why?"), instructions="Be brief.", before=before)] == [
        "Be brief.",
        "Hi",
        "Hello!",
        "Why?",
    ]


def test_what_an_answer_of_the_official_client_leaves_in_its_items_is_taken_back() -> None:
    said = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "phase": None,
        "content": [{"type": "output_text", "text": "{}", "annotations": [], "logprobs": [], "parsed": {"a": 1}}],
    }
    call = {**called("weather", "1"), "id": "fc_1", "status": "completed", "parsed_arguments": {}, "async": None}
    assert [message.role for message in messages(user("Hi"), said, call)] == ["user", "assistant"]


def test_errors_about_messages_name_the_item_they_came_from() -> None:
    before = read_items([user("Hi")], "r0", lambda url, path: None)
    made = conversation(called("f", "1"), called("f", "2"), user("Well?"), instructions="Brief.", before=before)

    def told(param: str) -> str | None:
        error = made.in_terms_of_items(RequestError("wrong", param=param))
        assert isinstance(error, RequestError)
        return error.param

    assert told("messages[0].content") == "instructions.content"
    assert told("messages[1].content[1]") == "previous_response_id.content[1]"
    assert told("messages[2].tool_calls") == "input[0].tool_calls"
    assert told("messages[3].content") == "input[2].content"
    assert told("max_tokens") == "max_output_tokens"
    assert told("response_format") == "text.format"
    assert told("fusion.panel") == "fusion.panel"
