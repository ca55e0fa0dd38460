"""A model that may consult a panel: OpenRouter's tool `openrouter:fusion`, which the server runs and not the client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from local_fusion.core.chat import ChatRequest, Message, ToolCall
from local_fusion.core.events import CallEnded, ChoiceEnded, Event, Nested, Noted, TextDelta
from local_fusion.core.model import ChatModel, Choice, Emit, FusionReport, Reply, Room, Score, unheard
from local_fusion.core.records import CallRecord, Failure
from local_fusion.core.sampling import Sampling
from local_fusion.errors import LocalFusionError, PanelFailed
from local_fusion.fusion.prompts.layout import shortened, with_addition
from local_fusion.server.openrouter.result import capped, result_of, result_of_error

NAME = "openrouter_fusion"  # functions have no colons in their names
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "Consult a panel of other models. They read this conversation and answer independently; then "
        "an analyst compares their answers. Returns JSON: `analysis` (consensus, contradictions, partial coverage, "
        "unique insights, blind spots) and `responses`, from which you write your answer. Slow: only for questions "
        "that deserve several opinions (research, critique, comparisons, where being wrong is expensive), never for "
        "short or simple ones, and once at most.",
        "parameters": {
            "type": "object",
            "properties": {
                "prompt": {
                    "type": "string",
                    "description": "What the panel is asked. Default: the user's last message.",
                }
            },
        },
    },
}
LEAST_ROOM = 1024  # tokens for the answer of an outer model whose length nobody limited
MOST_TURNS = 3  # of the outer model: it may ask again in vain, and then writes
SHORTEST = 200  # characters of a response below which showing it is pointless


class Panel(Protocol):
    """A fusion whose panel can be asked without anybody writing an answer; see `FusionModel.compare`."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    async def compare(self, request: ChatRequest, emit: Emit = unheard) -> FusionReport:
        """Raises `PanelFailed`."""
        ...


@dataclass(slots=True)
class Consulting:
    """`outer`, with `panel` at its disposal, for one request. `result` is what the panel found, once it was asked.

    `called`: what the client calls each member, by its label. `writes`: the outer model is an engine, and all its calls
    are for the final answer. `most_tokens`: what a member of the panel may write.
    """

    outer: ChatModel
    panel: Panel
    called: Mapping[str, str]
    writes: bool = True
    most_tokens: int | None = None
    result: dict[str, Any] | None = None
    _asked_by: str | None = None
    _report: FusionReport | None = None
    _calls: list[CallRecord] = field(default_factory=list)
    _notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """See `ChatModel.name`."""
        return self.outer.name

    @property
    def takes_images(self) -> bool:
        """See `ChatModel.takes_images`."""
        return self.outer.takes_images

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        """See `ChatModel.answer`: the outer model's answer, after the panel's result where it asks for that.

        Where it calls tools of the client's as well, these come first: the client answers them, and the model may
        consult the panel then. A panel that fails is told to the model, which goes on. Raises what the outer model
        raises.
        """
        turn = request.but(tools=(*request.tools, TOOL))
        said: list[Choice] = []
        for left in reversed(range(MOST_TURNS)):
            choice, report = await self._turn(turn if left else turn.but(tool_choice="none"), emit, said)
            said.append(choice)
            ours = [call for call in choice.tool_calls if call.name == NAME]
            others = tuple(call for call in choice.tool_calls if call.name != NAME)
            if not ours or others:
                return self._reply(said, others, report, emit, beside=bool(ours))
            answered = [
                Message("tool", await self._consult(call, request, emit), tool_call_id=call.id) for call in ours
            ]
            asked = Message("assistant", choice.text, tool_calls=choice.tool_calls)
            turn = await self._fitted(turn.but(messages=(*turn.messages, asked, *answered), tool_choice=None))
        return self._reply(said, (), report, emit)

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> Mapping[str, float]:
        """See `ChatModel.weigh`."""
        return await self.outer.weigh(request, labels, emit)

    async def score(self, request: ChatRequest, answers: tuple[str, ...], emit: Emit = unheard) -> tuple[Score, ...]:
        """See `ChatModel.score`."""
        return await self.outer.score(request, answers, emit)

    async def measure(self, request: ChatRequest) -> Room:
        """See `ChatModel.measure`."""
        return await self.outer.measure(request)

    def expecting(self, request: ChatRequest) -> AbstractContextManager[None]:
        """See `ChatModel.expecting`."""
        return self.outer.expecting(request)

    async def _turn(self, request: ChatRequest, emit: Emit, said: list[Choice]) -> tuple[Choice, FusionReport | None]:
        """The outer model's next turn, told as it comes, a paragraph after what it has said before."""
        apart = any(choice.text.strip() for choice in said)

        def hear(event: Event) -> None:
            nonlocal apart
            match event:
                case TextDelta(text) if apart and text:
                    apart = False
                    emit(replace(event, text=f"\n\n{text}"))
                case CallEnded(call):
                    self._count(replace(call, stage="synthesis") if self.writes else call, emit)
                case ChoiceEnded():
                    pass  # there may be more turns of it
                case _:
                    emit(event)

        reply = await self.outer.answer(request, hear)
        return reply.choices[0], reply.report

    async def _consult(self, call: ToolCall, request: ChatRequest, emit: Emit) -> str:
        """The panel's result as JSON, as the model is to read it."""
        if self.result is not None:
            return _json(capped())
        self._asked_by = call.id

        def hear(event: Event) -> None:
            match event:
                case CallEnded(ended):
                    self._count(ended, emit)
                case _:
                    emit(Nested(self.panel.name, event))

        # What the answer is to look like, and how long it may be, is the outer model's business.
        asked = ChatRequest(
            messages=_put(request.messages, call),
            sampling=Sampling(seed=request.sampling.seed).apart("panel", 0).capped(self.most_tokens),
            reasoning_effort=request.reasoning_effort,
            request_id=request.request_id,
            depth=request.depth,
            priority=request.priority,
            spending=request.spending,
            described=True,
        )
        try:
            self._report = await self.panel.compare(asked, hear)
            self.result = result_of(self._report, self.called)
        except LocalFusionError as error:
            self.result = result_of_error(error, self.called)
            self._report = _failed(self.panel, request, error)
        return _json(self.result)

    def _count(self, call: CallRecord, emit: Emit) -> None:
        self._calls.append(call)
        emit(CallEnded(call))

    async def _fitted(self, turn: ChatRequest) -> ChatRequest:
        """The same with the panel's responses cut, in their middle, until they leave the outer model room to answer."""
        result = self.result or {}
        most = max((len(each["content"]) for each in result.get("responses", ())), default=0)
        while most > SHORTEST and not await self._has_room(turn):
            most //= 2
            told = _json({**result, "responses": [_cut(each, most) for each in result["responses"]]})
            turn = turn.but(
                messages=tuple(
                    replace(message, content=told) if message.tool_call_id == self._asked_by else message
                    for message in turn.messages
                )
            )
            self._notes = [f"the panel's answers were cut to {most} characters each to fit {self.outer.name}'s context"]
        return turn

    async def _has_room(self, turn: ChatRequest) -> bool:
        try:
            room = await self.outer.measure(turn)
        except LocalFusionError:
            return True  # it will say itself what is wrong
        return room.left >= min(turn.sampling.max_tokens or LEAST_ROOM, room.limit // 4)

    def _reply(
        self,
        said: list[Choice],
        calls: tuple[ToolCall, ...],
        report: FusionReport | None,
        emit: Emit,
        *,
        beside: bool = False,
    ) -> Reply:
        """All turns as one answer, which ends as the last one does."""
        if beside:
            self._notes.append("the model called tools of the client's, too: the panel was not asked yet")
        for note in self._notes:
            emit(Noted(note))
        last = said[-1]
        texts = [choice.text for choice in said if choice.text.strip()]
        thoughts = [choice.reasoning for choice in said if choice.reasoning]
        reason = "stop" if last.finish_reason == "tool_calls" and not calls else last.finish_reason
        choice = Choice("\n\n".join(texts), reason, calls, "".join(thoughts))
        emit(ChoiceEnded(0, choice))
        report = self._report or report
        if report is not None:
            report = replace(report, notes=(*report.notes, *self._notes))
        return Reply((choice,), tuple(self._calls), report)


def _put(messages: tuple[Message, ...], call: ToolCall) -> tuple[Message, ...]:
    """The conversation, and at its end what the model wants to know, unless that is what the user said."""
    try:
        prompt = json.loads(call.arguments or "{}").get("prompt")
    except (ValueError, AttributeError, RecursionError):
        return messages
    if not isinstance(prompt, str) or not prompt.strip() or (messages and prompt.strip() in messages[-1].content):
        return messages
    return with_addition(messages, prompt.strip())


def _failed(panel: Panel, request: ChatRequest, error: LocalFusionError) -> FusionReport:
    """The report of a panel that gave nothing."""
    own = Failure("panel", panel.name, panel.name, error.code, error.message, error.hint)
    failures = error.failures if isinstance(error, PanelFailed) and error.failures else (own,)
    return FusionReport(request.request_id, panel.name, "synthesize", failures, partial=True)


def _cut(response: Mapping[str, Any], most: int) -> dict[str, Any]:
    return {**response, "content": shortened(response["content"], most)}


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)
