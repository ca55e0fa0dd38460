"""`ask`: one question, from here or through a running server, shown as it happens."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from local_fusion.cli.board import Board
from local_fusion.cli.findings import finding, print_summary
from local_fusion.cli.running import run
from local_fusion.config.loading import find_config, load_config
from local_fusion.core import events
from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.depth import depth_here
from local_fusion.core.events import Answered, Event, TextDelta
from local_fusion.core.model import Reply
from local_fusion.core.sampling import Sampling
from local_fusion.errors import TooDeep


@dataclass(frozen=True, slots=True)
class AskOptions:
    """What the command line said."""

    prompt: str
    config: Path | None
    url: str | None
    fusion: str | None
    system: str | None
    max_tokens: int | None
    temperature: float | None
    seed: int | None
    as_json: bool

    def request(self) -> ChatRequest:
        """The question as a request."""
        system = () if self.system is None else (Message("system", self.system),)
        sampling = Sampling(max_tokens=self.max_tokens, temperature=self.temperature, seed=self.seed)
        return ChatRequest(
            messages=(*system, Message("user", self.prompt)),
            sampling=sampling,
            request_id=secrets.token_hex(12),
            depth=depth_here(),
        )


def run_ask(options: AskOptions) -> None:
    """Ask and print the answer.

    Raises what the fusion, its engines or the configuration raise.
    """
    run(_ask(options))


async def _ask(options: AskOptions) -> None:
    console = Console(stderr=True)
    async with AsyncExitStack() as stack:
        board = stack.enter_context(Board(console))
        happening = await _remote(options) if options.url is not None else await _local(options, board, stack)
        reply = await _show(happening, board, options)
        board.close()
        if options.as_json:
            print(json.dumps(_as_json(options, reply), ensure_ascii=False, indent=2))
        else:
            print_summary(reply, console)


async def _local(options: AskOptions, board: Board, stack: AsyncExitStack) -> AsyncGenerator[Event]:
    """The events of asking engines that are started for this question and stopped after it."""
    config, request = load_config(find_config(options.config)), options.request()
    if request.depth > config.server.max_depth:  # a program that checks candidates asks what it checks for
        raise TooDeep(
            f"{request.depth} fusions stand above this question, each run by a program of another",
            hint="look for programs that ask the fusion which runs them; server.max_depth sets the limit",
        )
    name = options.fusion or config.default_fusion()
    # Only now what takes long to import: a wrong configuration is told at once.
    from local_fusion.cli.starting import watch_start
    from local_fusion.runtime import open_runtime

    runtime = await stack.enter_async_context(open_runtime(config, only=[name], tell=board.note))
    await watch_start(runtime, board)
    return events.stream(runtime.model(name), request)


async def _remote(options: AskOptions) -> AsyncGenerator[Event]:
    from local_fusion.cli.remote import stream_remote

    assert options.url is not None
    return stream_remote(options.url, options.fusion, options.request())


async def _show(happening: AsyncGenerator[Event], board: Board, options: AskOptions) -> Reply:
    """Render the events; the reply at their end."""
    streaming = False
    async with aclosing(happening) as happening:
        async for event in happening:
            board.show(event)
            match event:
                case TextDelta(text) if text and not options.as_json:
                    if not streaming:
                        board.close()
                        streaming = True
                    sys.stdout.write(text)
                    sys.stdout.flush()
                case Answered(reply):
                    if streaming:
                        sys.stdout.write("\n")
                        sys.stdout.flush()
                    return reply
                case events.MemberFinished() | events.VerdictReached() if not options.as_json:
                    board.print(finding(event))
    raise AssertionError("the event stream ends with Answered or raises")


def _as_json(options: AskOptions, reply: Reply) -> dict[str, object]:
    usage = reply.usage
    return {
        "prompt": options.prompt,
        "answer": reply.choices[0].text,
        "finish_reason": reply.choices[0].finish_reason,
        "usage": {**asdict(usage), "total_tokens": usage.total_tokens},
        "calls": [asdict(call) for call in reply.calls],
        "fusion": asdict(reply.report) if reply.report else None,
    }
