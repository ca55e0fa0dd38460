"""A response as OpenAI's clients read it: what was asked, what came out, what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from local_fusion.core.chat import ToolCall
from local_fusion.core.model import Choice, Reply
from local_fusion.server.exchange import Exchange, calls_of
from local_fusion.server.openai.responses.items import RESULT, Item
from local_fusion.server.openai.responses.schema import JsonSchema, ResponsesRequest

PREFIX = "resp_"
INCOMPLETE: dict[str, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}

MakeResult = Callable[[Reply], Mapping[str, Any] | None]
"""How a panel's answers compare, in OpenRouter's shape; None where no panel was asked."""


@dataclass(slots=True)
class Rendering:
    """One exchange as a response. `store`: whether it is going to be kept.

    With `result` the panel's result is among the output.
    """

    asked: ResponsesRequest
    exchange: Exchange
    store: bool
    result: MakeResult | None = None

    @property
    def id(self) -> str:
        """The response's id: its request's, which is the trace's, too."""
        return PREFIX + self.exchange.request.request_id

    def item_id(self, kind: str, index: int) -> str:
        """The id of the output item at `index`."""
        return f"{kind}_{self.exchange.request.request_id}_{index}"

    async def whole(self) -> dict[str, Any]:
        """The response once it is complete.

        Raises what the model raises.
        """
        reply = await self.exchange.reply()
        return self.ended(reply, self._output(reply))

    def begun(self) -> dict[str, Any]:
        """The response while it is being made."""
        return self._response("in_progress", ())

    def ended(self, reply: Reply, output: Sequence[Item]) -> dict[str, Any]:
        """The response of which `output` is all."""
        reason = INCOMPLETE.get(reply.choices[0].finish_reason)
        response = self._response("incomplete" if reason else "completed", output)
        if reason:
            response["incomplete_details"] = {"reason": reason}
        else:
            response["completed_at"] = int(time.time())
        return response | {"usage": usage(reply, self.exchange.thought), "fusion": self.exchange.report(reply)}

    def failed(self, error: dict[str, Any], output: Sequence[Item]) -> dict[str, Any]:
        """The response that could not be made, or not to its end."""
        return self._response("failed", output) | {"error": error}

    def message(self, index: int, text: str, status: str) -> Item:
        """The answer's text as an item."""
        content = [text_part(text)] if text or status != "in_progress" else []
        head = {"id": self.item_id("msg", index), "type": "message", "status": status, "role": "assistant"}
        return {**head, "content": content}

    def reasoning(self, index: int, text: str, status: str) -> Item:
        """Thoughts as an item; a client that asked for a summary looks for them there."""
        item: Item = {"id": self.item_id("rs", index), "type": "reasoning", "status": status, "summary": []}
        if self.asked.summary is not None:
            return {**item, "summary": [{"type": "summary_text", "text": text}] if text else []}
        return {**item, "content": [{"type": "reasoning_text", "text": text}] if text else []}

    def call(self, index: int, call: ToolCall, status: str) -> Item:
        """A function that the client is to call, as an item."""
        head = {"id": self.item_id("fc", index), "type": "function_call", "status": status}
        arguments = "" if status == "in_progress" else call.arguments
        return {**head, "call_id": call.id, "name": call.name, "arguments": arguments}

    def panel(self, index: int, result: Mapping[str, Any] | None) -> Item:
        """The panel's result as an item; without one it is still at work."""
        states = {"ok": "completed", "error": "incomplete"}
        status = "in_progress" if result is None else states[result["status"]]
        return {"id": self.item_id("st_fusion", index), "type": RESULT, **(result or {}), "status": status}

    def _output(self, reply: Reply) -> list[Item]:
        choice = reply.choices[0]
        status = status_of(choice)
        result = self.result(reply) if self.result is not None else None
        output: list[Item] = [] if result is None else [self.panel(0, result)]
        if choice.reasoning:
            said = choice.text or choice.tool_calls
            output.append(self.reasoning(len(output), choice.reasoning, "completed" if said else status))
        if choice.text or not choice.tool_calls:
            output.append(self.message(len(output), choice.text, status))
        for call in choice.tool_calls:
            output.append(self.call(len(output), call, "completed"))
        return output

    def _response(self, status: str, output: Sequence[Item]) -> dict[str, Any]:
        asked = self.asked
        shape, reasoning = asked.text_format, asked.reasoning
        formatted = shape.model_dump(by_alias=True) if isinstance(shape, JsonSchema) else {"type": shape.type}
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.exchange.created,
            "status": status,
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "frequency_penalty": asked.frequency_penalty,  # on which OpenRouter's own client insists
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "max_tool_calls": asked.max_tool_calls,
            "metadata": asked.metadata or {},
            "model": self.exchange.called,
            "output": list(output),
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "presence_penalty": asked.presence_penalty,
            "previous_response_id": asked.previous_response_id,
            "prompt_cache_key": asked.prompt_cache_key,
            "reasoning": {"effort": reasoning.effort if reasoning else None, "summary": asked.summary},
            "safety_identifier": asked.safety_identifier,
            "service_tier": "default" if asked.service_tier in (None, "auto") else asked.service_tier,
            "store": self.store,
            "temperature": asked.temperature,
            "text": {"format": formatted},
            "tool_choice": asked.tool_choice if asked.tool_choice is not None else "auto",
            "tools": [tool.to_response() for tool in asked.checked_tools],
            "top_logprobs": 0,
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": asked.user,
        }


def text_part(text: str) -> dict[str, Any]:
    """Text of an answer, as part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def status_of(choice: Choice) -> str:
    """Whether an answer's last item came to its end."""
    return "incomplete" if choice.finish_reason in INCOMPLETE else "completed"


def usage(reply: Reply, thought: int) -> dict[str, Any]:
    """OpenAI's usage: the honest total over all calls, and under `fusion` each call's share of it.

    Engines do not tell how much of a prompt they had read before: 0, which is what OpenAI's clients need there.
    """
    total = reply.usage
    return {
        "input_tokens": total.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": total.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": min(thought, total.completion_tokens)},
        "total_tokens": total.total_tokens,
        "fusion": {"calls": calls_of(reply)},
    }
