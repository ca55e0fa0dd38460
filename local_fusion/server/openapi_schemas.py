"""What is sent and answered, as the schemas of `/openapi.json`: requests by the classes that check them."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from local_fusion.server.anthropic.schema import Countable, MessagesRequest
from local_fusion.server.openai.chat_schema import FusionChatRequest
from local_fusion.server.openai.responses.schema import ResponsesRequest

Schema = dict[str, Any]

SCHEMAS = "#/components/schemas/"
_REQUESTS: dict[str, tuple[type[BaseModel], str]] = {
    "ChatRequest": (FusionChatRequest, "What a fusion may be asked. Fields that it does not know are errors."),
    "ResponsesRequest": (
        ResponsesRequest,
        "What a fusion or an engine may be asked, in the form of OpenAI's Responses.",
    ),
    "MessagesRequest": (
        MessagesRequest,
        "What a fusion or an engine may be asked, in the form of Anthropic's Messages.",
    ),
    "CountableRequest": (Countable, "What of such a request can be counted."),
}
# Lists whose entries are checked one by one, each by a class that its `type` names, so that errors name their places.
_BLOCK: Schema = {
    "type": "object",
    "description": "A content block: text, image, document, search_result, tool_use, tool_result, thinking.",
    "properties": {"type": {"type": "string"}},
    "required": ["type"],
}
_SAID: Schema = {
    "type": "object",
    "properties": {
        "role": {"enum": ["user", "assistant", "system"]},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _BLOCK}]},
    },
    "required": ["role", "content"],
    "additionalProperties": False,
}
_ENTRY: Schema = {"type": "object"}


def ref(name: str) -> Schema:
    """A reference to one of `schemas()`."""
    return {"$ref": SCHEMAS + name}


def schemas() -> dict[str, Schema]:
    """All of them by their names."""
    found: dict[str, Schema] = dict(_ANSWERS)
    for name, (kind, description) in _REQUESTS.items():
        found |= _request(name, kind, description)
    return found


def _request(name: str, kind: type[BaseModel], description: str) -> dict[str, Schema]:
    """A request's schema, and those of its parts as `NAME.PART`: parts of two requests may be called the same."""
    made: Schema = kind.model_json_schema(ref_template=f"{SCHEMAS}{name}.{{model}}")
    for field, schema in made["properties"].items():
        for branch in schema.get("anyOf", [schema]):
            if branch.get("items") == {}:
                branch["items"] = _SAID if field == "messages" else _ENTRY
    parts = {f"{name}.{part}": schema for part, schema in made.pop("$defs", {}).items()}
    every = {name: {**made, "description": description}, **parts}
    readable: dict[str, Schema] = json.loads(json.dumps(every).replace(f"{name}._", f"{name}."))
    return readable


def _object(about: str, required: dict[str, Schema] | None = None, /, **optional: Schema) -> Schema:
    """An object that may say more than is listed here."""
    told: Schema = {"type": "object", "description": about, "properties": {**(required or {}), **optional}}
    return told | ({"required": list(required)} if required else {})


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _const(value: str) -> Schema:
    return {"const": value}


TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "integer"}
SECONDS: Schema = {"type": "number", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
MAYBE_TEXT: Schema = {"type": ["string", "null"]}
OBJECT: Schema = {"type": "object"}
_MAYBE_OBJECT: Schema = {"type": ["object", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}

_TOLD = {"message": TEXT, "type": TEXT, "code": TEXT, "fault": {"enum": ["caller", "engine", "us"]}}
_FAILED = _list(_object("A member that failed.", {"member": TEXT, "code": TEXT}))
_FUSION = _object(
    "How the answer came about.",
    {"strategy": MAYBE_TEXT, "trace_id": TEXT, "partial": FLAG, "failed": _list(OBJECT)},
    candidates=_list(OBJECT),
    verdict=_MAYBE_OBJECT,
    trace=OBJECT,
    result=_MAYBE_OBJECT,
)
_MESSAGE = _object(
    "What was answered.",
    {"role": _const("assistant"), "content": MAYBE_TEXT},
    reasoning=MAYBE_TEXT,
    tool_calls={"type": ["array", "null"], "items": OBJECT},
)
_CHOICE = _object(
    "One answer.", {"index": NUMBER, "message": _MESSAGE, "finish_reason": MAYBE_TEXT}, logprobs=_MAYBE_OBJECT
)
_MODEL = _object(
    "A fusion or an engine.",
    {
        "id": TEXT,
        "object": _const("model"),
        "created": NUMBER,
        "owned_by": TEXT,
        "kind": {"enum": ["fusion", "engine"]},
        "max_model_len": {"type": "integer", "description": "Tokens of a conversation and its answer together."},
        "capabilities": OBJECT,
    },
    strategy=TEXT,
    members=_list(TEXT),
    judge=_list(TEXT),
    description=MAYBE_TEXT,
)
_ENGINE = _object(
    "An engine as it is.",
    {
        "name": TEXT,
        "state": TEXT,
        "pid": {"type": ["integer", "null"]},
        "devices": _list(NUMBER),
        "host_bytes": _COUNT,
        "pinned": FLAG,
        "queue": _object("Calls.", {"running": _COUNT, "waiting": _COUNT, "batch": _COUNT}),
    },
)
_USE = {
    "calls": _COUNT,
    "failed": _COUNT,
    "prompt_tokens": _COUNT,
    "completion_tokens": _COUNT,
    "seconds": SECONDS,
}

_ANSWERS: dict[str, Schema] = {
    "Error": _object(
        "What went wrong, whose fault it is, and after an arrow what to do next.",
        {"error": _object("", {**_TOLD, "param": MAYBE_TEXT}, failed=_FAILED)},
    ),
    "AnthropicError": _object(
        "The same in Anthropic's shape, for its paths and for requests with an `anthropic-version` header.",
        {
            "type": _const("error"),
            "error": _object("", _TOLD, param=MAYBE_TEXT, details=OBJECT, failed=_FAILED),
            "request_id": TEXT,
        },
    ),
    "EngineError": _object(
        "What vLLM itself finds wrong with a request that went to it as it came.",
        {"error": _object("", {"message": TEXT, "type": TEXT, "code": NUMBER}, param=MAYBE_TEXT)},
    ),
    "EngineRequest": _object(
        "What an engine is asked goes to vLLM as it came, so every field that vLLM takes may be in it, but for those "
        "that would make it run or fetch something.",
        {"model": TEXT},
    ),
    "ModelName": _object("Which engine.", {"model": {**TEXT, "minLength": 1}}),
    "ChatCompletion": _object(
        "A chat completion as OpenAI has it.",
        {
            "id": TEXT,
            "object": _const("chat.completion"),
            "created": NUMBER,
            "model": TEXT,
            "choices": _list(_CHOICE),
        },
        usage=_MAYBE_OBJECT,
        fusion=_FUSION,
    ),
    "Completion": _object("A text completion as OpenAI has it.", {"choices": _list(OBJECT)}, usage=_MAYBE_OBJECT),
    "Embeddings": _object("Embeddings as OpenAI has them.", {"data": _list(OBJECT)}, usage=_MAYBE_OBJECT),
    "Response": _object(
        "A response as OpenAI has it.",
        {
            "id": TEXT,
            "object": _const("response"),
            "created_at": NUMBER,
            "status": {"enum": ["completed", "incomplete", "in_progress", "failed"]},
            "model": TEXT,
            "output": _list(_object("An item.", {"type": TEXT, "id": TEXT})),
            "store": FLAG,
        },
        usage=_MAYBE_OBJECT,
        fusion=_FUSION,
    ),
    "InputTokens": _object(
        "How long the input is.", {"object": _const("response.input_tokens"), "input_tokens": _COUNT}
    ),
    "Deleted": _object("That it is gone.", {"id": TEXT, "object": _const("response"), "deleted": {"const": True}}),
    "Items": _object(
        "A page of what was said.",
        {
            "object": _const("list"),
            "data": _list(_object("An item.", {"type": TEXT, "id": TEXT})),
            "has_more": FLAG,
            "first_id": MAYBE_TEXT,
            "last_id": MAYBE_TEXT,
        },
    ),
    "Message": _object(
        "An answer as Anthropic has it.",
        {
            "id": TEXT,
            "type": _const("message"),
            "role": _const("assistant"),
            "model": TEXT,
            "content": _list(_object("A block.", {"type": {"enum": ["text", "thinking", "tool_use"]}})),
            "stop_reason": {"enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"]},
            "stop_sequence": MAYBE_TEXT,
            "usage": _object("", {"input_tokens": _COUNT, "output_tokens": _COUNT}),
        },
        fusion=_FUSION,
    ),
    "TokenCount": _object("How long the conversation is.", {"input_tokens": _COUNT}),
    "Model": _MODEL,
    "Models": _object(
        "All that may be asked, fusions first.",
        {
            "object": _const("list"),
            "data": _list(ref("Model")),
            "has_more": FLAG,
            "first_id": MAYBE_TEXT,
            "last_id": MAYBE_TEXT,
        },
    ),
    "SessionUse": _object(
        "What a session used.",
        {"session": TEXT, "running": _COUNT, "requests": _COUNT, **_USE, "models": OBJECT},
        began={"type": ["integer", "null"]},
    ),
    "Health": _object("That the server is alive.", {"status": _const("ok"), "version": TEXT}),
    "Ready": _object("Whether it would answer, and why not.", {"ready": FLAG, "reason": MAYBE_TEXT}),
    "Engine": _ENGINE,
    "Engines": _object("All engines.", {"engines": _list(ref("Engine"))}),
    "Plan": _object("Where each engine is, and why."),
    "Reloaded": _object(
        "What a new configuration changed.",
        {
            "kept": _list(TEXT),
            "started": _list(TEXT),
            "stopped": _list(TEXT),
            "restarted": _object("Engines, and why each could not be kept."),
            "fusions": _object(
                "What became of them.", {"added": _list(TEXT), "removed": _list(TEXT), "changed": _list(TEXT)}
            ),
            "settings": _list(TEXT),
            "needs_restart": _list(TEXT),
            "notes": _list(TEXT),
            "plan": OBJECT,
        },
    ),
    "JsonRpc": _object("A message of the Model Context Protocol.", {"jsonrpc": _const("2.0")}),
}
