"""`/openapi.json`: what this server answers, for programs that make clients, and tests, of it.

Written down here and not made of the routes: they read their requests raw, so that what engines are asked reaches them
byte by byte. Requests' schemas are those of the classes that check them (`openapi_schemas`). It is made when somebody
first asks. There is no page that shows it: such pages load their scripts from elsewhere.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from local_fusion import __version__
from local_fusion.server.openapi_schemas import NUMBER, TEXT, Schema, ref, schemas
from local_fusion.server.service import Service

_ABOUT = """Panels of local language models as one endpoint, in the dialects of OpenAI, Anthropic, OpenRouter and MCP.

`model` names a fusion or an engine; `GET /v1/models` lists them. What an engine is asked in OpenAI's chat, completions
and embeddings goes to vLLM as it came, so any field that vLLM takes may be in it; all other requests are checked, and a
field that is not known is an error. Everything below `/v1` is at `/session/ID/v1`, too, and counted together under that
id."""
_ERRORS = {
    400: "A field is malformed, unknown or cannot be honoured: `param` names it.",
    401: "The key is missing or wrong.",
    403: "The key, or the page that asks, may not do this.",
    404: "There is no such model or thing.",
    405: "There is no such method.",
    408: "The body did not come in time.",
    413: "The request is larger than the server takes.",
    429: "Over a limit: try again after `Retry-After` seconds.",
    500: "A defect of the server's.",
    502: "An engine or the whole panel failed.",
    503: "Nobody is there to answer for now.",
    504: "It took longer than it may.",
}
_LATER = (429, 503)
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


def openapi_routes(service: Service) -> APIRouter:
    """The document, which says of keys what the server's configuration does."""
    routes = APIRouter()

    @routes.get("/openapi.json")
    async def openapi() -> JSONResponse:
        return JSONResponse(document(keys=service.runtime.config.server.api_keys_file is not None))

    return routes


@cache
def document(*, keys: bool = False) -> dict[str, Any]:
    """The whole of it; with `keys` no request comes without."""
    needed: list[dict[str, list[str]]] = [{name: []} for name in _SECURITY]
    return {
        "openapi": "3.1.0",
        "info": {"title": "local-fusion", "version": __version__, "description": _ABOUT},
        "security": needed if keys else [{}, *needed],
        "paths": _openai() | _anthropic() | _mcp() | _watching() | _administering(),
        "components": {
            "schemas": schemas(),
            "securitySchemes": _SECURITY,
            "headers": {
                "RequestId": {"description": "The request's id, in the log and traces, too.", "schema": TEXT},
                "RetryAfter": {"description": "Seconds after which it may go better.", "schema": NUMBER},
            },
        },
    }


def _openai() -> dict[str, Any]:
    kept = _in_path("name", "A response's id.")
    included = [_in_query("include", {"type": "array", "items": TEXT})]
    pages = [
        _in_query("limit", {"type": "integer", "minimum": 1, "maximum": 100}),
        _in_query("order", {"enum": ["asc", "desc"]}),
        _in_query("after", TEXT),
    ]
    asked = {"anyOf": [ref("ChatRequest"), ref("EngineRequest")]}
    models = [
        _in_query("limit", {"type": "integer", "minimum": 1, "maximum": 1000}),
        _in_query("after_id", TEXT),
        _in_query("before_id", TEXT),
    ]
    chunks = "`chat.completion.chunk` objects, then `[DONE]`; comments while nothing can be told."
    events = "`response.*` events; those of panels are `response.fusion_call.*`."
    return {
        "/v1/chat/completions": {
            "post": _operation(
                "Ask a fusion, or an engine as vLLM is asked", "ChatCompletion", "OpenAI", asked, stream=chunks
            )
        },
        "/v1/completions": {
            "post": _operation(
                "Let an engine go on with a text", "Completion", "OpenAI", ref("EngineRequest"), stream="vLLM's."
            )
        },
        "/v1/embeddings": {
            "post": _operation("Let an engine embed texts", "Embeddings", "OpenAI", ref("EngineRequest"))
        },
        "/v1/responses": {
            "post": _operation(
                "Ask a fusion or an engine", "Response", "OpenAI", ref("ResponsesRequest"), stream=events
            )
        },
        "/v1/responses/input_tokens": {
            "post": _operation("Count the tokens of a request", "InputTokens", "OpenAI", ref("ResponsesRequest"))
        },
        "/v1/responses/{name}": {
            "parameters": [kept],
            "get": _operation("A response that was kept", "Response", "OpenAI", parameters=included),
            "delete": _operation("Forget a response", "Deleted", "OpenAI"),
        },
        "/v1/responses/{name}/cancel": {
            "parameters": [kept],
            "post": _operation("Always an error: nothing is made in the background", None, "OpenAI"),
        },
        "/v1/responses/{name}/input_items": {
            "parameters": [kept],
            "get": _operation("What it answered", "Items", "OpenAI", parameters=[*included, *pages]),
        },
        "/v1/models": {"get": _operation("All fusions and engines", "Models", "OpenAI", parameters=models)},
        "/v1/models/{name}": {
            "parameters": [_in_path("name", "A fusion, an engine or an alias.")],
            "get": _operation("One of them", "Model", "OpenAI"),
        },
    }


def _anthropic() -> dict[str, Any]:
    beta = _in_query("beta", TEXT)
    events = "`message_start` to `message_stop`, or `error`; `ping` while nothing can be told."
    messages = _operation(
        "Ask a fusion or an engine", "Message", "Anthropic", ref("MessagesRequest"), stream=events, parameters=[beta]
    )
    count = _operation(
        "Count the tokens of a request", "TokenCount", "Anthropic", ref("CountableRequest"), parameters=[beta]
    )
    return {"/v1/messages": {"post": messages}, "/v1/messages/count_tokens": {"post": count}}


def _mcp() -> dict[str, Any]:
    """Its own specification says more of it than OpenAPI can: answers and their errors are JSON-RPC's."""
    said = {"description": "As the Model Context Protocol has it."}
    body = {"required": True, "content": {"application/json": {"schema": ref("JsonRpc")}}}
    about = {"tags": ["MCP"], "responses": {"default": said}}
    return {
        "/mcp": {
            "post": {"summary": "A message to the MCP server", "requestBody": body, **about},
            "get": {"summary": "Messages from the MCP server", **about},
            "delete": {"summary": "End a session", **about},
        }
    }


def _watching() -> dict[str, Any]:
    ready = _operation("Whether it would answer", "Ready", "Server", security=[])
    ready["responses"]["503"] = _answer("It would not, and why.", ref("Ready"))
    metrics = _operation("Figures for Prometheus", None, "Server")
    metrics["responses"]["200"] = {
        "description": "Prometheus' text format.",
        "headers": _headers(),
        "content": {"text/plain": {"schema": TEXT}},
    }
    openapi = _operation("This document", None, "Server")
    openapi["responses"]["200"] = _answer("OpenAPI 3.1.", {"type": "object"})
    return {
        "/health": {"get": _operation("Whether the server is alive", "Health", "Server", security=[])},
        "/ready": {"get": ready},
        "/metrics": {"get": metrics},
        "/openapi.json": {"get": openapi},
        "/session/{session}/usage": {
            "parameters": [_in_path("session", "The id that stands in the paths of its requests.")],
            "get": _operation("What a session used so far", "SessionUse", "Server"),
        },
    }


def _administering() -> dict[str, Any]:
    named = _in_path("name", "An engine.")
    action = _in_path("action", "What to do.", {"enum": ["sleep", "wake", "restart", "pin", "unpin"]})
    return {
        "/admin/plan": {"get": _operation("The plan", "Plan", "Administration")},
        "/admin/engines": {"get": _operation("All engines", "Engines", "Administration")},
        "/admin/engines/{name}": {"parameters": [named], "get": _operation("One engine", "Engine", "Administration")},
        "/admin/engines/{name}/{action}": {
            "parameters": [named, action],
            "post": _operation("Do it, and return once it is done", "Engine", "Administration"),
        },
        "/admin/{action}": {
            "parameters": [action],
            "post": _operation("The same, of the engine in the body", "Engine", "Administration", ref("ModelName")),
        },
        "/admin/reload": {"post": _operation("Read the configuration again", "Reloaded", "Administration")},
    }


def _operation(
    summary: str,
    answer: str | None,
    tag: str,
    body: Schema | None = None,
    *,
    stream: str = "",
    parameters: list[Schema] | None = None,
    security: list[Schema] | None = None,
) -> dict[str, Any]:
    """One of a path's methods. `stream`: what comes where the body has `stream: true`."""
    responses: dict[str, Any] = {}
    if answer is not None:
        responses["200"] = _answer("The answer.", ref(answer))
        if stream:
            events: Schema = {"description": f"With `stream: true`: {stream}"}
            responses["200"]["content"]["text/event-stream"] = {"schema": events}
    error = _error(tag, body)
    for status, meaning in _ERRORS.items():
        responses[str(status)] = _answer(meaning, error, later=status in _LATER)
    told: dict[str, Any] = {"summary": summary, "tags": [tag], "responses": responses}
    if body is not None:
        told["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if parameters:
        told["parameters"] = parameters
    return told if security is None else told | {"security": security}


def _error(tag: str, body: Schema | None) -> Schema:
    """The shape of an operation's errors."""
    if tag == "Anthropic":
        return ref("AnthropicError")
    if tag == "OpenAI" and body is None:  # which Anthropic's clients call, too
        return {"anyOf": [ref("Error"), ref("AnthropicError")]}
    to_engines = body is not None and ref("EngineRequest") in (body, *body.get("anyOf", ()))
    return {"anyOf": [ref("Error"), ref("EngineError")]} if to_engines else ref("Error")


def _answer(description: str, schema: Schema, *, later: bool = False) -> Schema:
    return {
        "description": description,
        "headers": _headers(later=later),
        "content": {"application/json": {"schema": schema}},
    }


def _headers(*, later: bool = False) -> Schema:
    told: Schema = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
    return told | ({"Retry-After": {"$ref": "#/components/headers/RetryAfter"}} if later else {})


def _in_path(name: str, description: str, schema: Schema | None = None) -> Schema:
    kind = schema or {**TEXT, "minLength": 1}
    return {"name": name, "in": "path", "required": True, "description": description, "schema": kind}


def _in_query(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "schema": schema}
