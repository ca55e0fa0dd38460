"""The tools as the official SDK offers them: names, descriptions (a model reads them), limits, progress, errors."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

from mcp.server.mcpserver import Context as ToolContext
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from local_fusion import __version__
from local_fusion.core.depth import depth_here
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.comparing import FEWEST, MOST
from local_fusion.server.context import Context, context_of
from local_fusion.server.mcp import GONE
from local_fusion.server.mcp.consulting import Consultant, Tell
from local_fusion.server.mcp.results import Comparison, DocumentReview, PanelAnswer, Panels
from local_fusion.server.service import Service

Result = TypeVar("Result", bound=BaseModel)

INSTRUCTIONS = (
    "Panels of local language models. Consult them when you are stuck, unsure, or about to do something that is hard "
    "to undo: several models answer independently, and what they agree and disagree on is told. A panel sees nothing "
    "but what you send: give it everything that matters. It takes from seconds to minutes."
)
# Nothing is changed anywhere, and the same question may get another answer.
_READS = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
_LONGEST = 2_000_000  # characters; what is too long for a model's context is told by its engine

Text = Annotated[str, Field(min_length=1, max_length=_LONGEST)]
Fusion = Annotated[
    str | None, Field(description="Name of a panel, as list_fusions tells them. Default: the first of them.")
]


def mcp_server(service: Service) -> MCPServer[Any]:
    """A server of the four tools over `service`, for any transport."""
    consultant = Consultant(service)

    async def ask_panel(
        ctx: ToolContext[Any, Any],
        question: Annotated[Text, Field(description="What you want to know, complete in itself.")],
        context: Annotated[
            str, Field(max_length=_LONGEST, description="Code, errors, facts: all that the panel is to know beside it.")
        ] = "",
        fusion: Fusion = None,
        candidates: Annotated[bool, Field(description="Also return every member's own answer.")] = False,
    ) -> Annotated[CallToolResult, PanelAnswer]:
        """Put a hard question to a panel of language models: they answer independently, a judge compares, and one
        answer comes back, with what they agreed and disagreed on. Use it when you are stuck or unsure, or before a
        decision that is hard to undo; not for what you can look up or compute yourself.
        """
        return await _answer(
            ctx, lambda asked, tell: consultant.ask_panel(asked, question, context, fusion, candidates, tell)
        )

    async def review_document(
        ctx: ToolContext[Any, Any],
        document: Annotated[Text, Field(description="The whole text: a plan, a specification, a patch, an answer.")],
        focus: Annotated[
            str, Field(max_length=10_000, description="What to look at above all, such as security or edge cases.")
        ] = "",
        fusion: Annotated[
            str | None, Field(description="A panel whose strategy is review. Default: a configured one, or all models.")
        ] = None,
    ) -> Annotated[CallToolResult, DocumentReview]:
        """Have a panel look for what is wrong with a text before anybody works from it: problems that several reviewers
        found, disputed ones, single findings, and what nobody looked at. It finds problems and does not rewrite.
        """
        return await _answer(ctx, lambda asked, tell: consultant.review_document(asked, document, focus, fusion, tell))

    async def compare_answers(
        ctx: ToolContext[Any, Any],
        question: Annotated[Text, Field(description="The question that all of them answer.")],
        answers: Annotated[
            list[Text], Field(min_length=FEWEST, max_length=MOST, description="The answers, without their authors.")
        ],
        judge: Annotated[
            str | None, Field(description="A model or panel that judges. Default: the members of the first panel.")
        ] = None,
    ) -> Annotated[CallToolResult, Comparison]:
        """Find out which of several answers to the same question is best. The judge compares all pairs in both orders
        and is not told who wrote what; one that follows the order instead of the content counts as a tie.
        """
        return await _answer(ctx, lambda asked, tell: consultant.compare_answers(asked, question, answers, judge, tell))

    async def list_fusions(ctx: ToolContext[Any, Any]) -> Annotated[CallToolResult, Panels]:
        """Which panels and models can be asked, how each works, and whether it is ready."""

        async def told(asked: Context, _: Tell) -> Panels:
            return consultant.list_fusions(asked)

        return await _answer(ctx, told)

    return MCPServer(
        "local-fusion",
        instructions=INSTRUCTIONS,
        version=__version__,
        log_level="WARNING",
        subscriptions=False,  # the tools are always the same: who listened for changes would only hold a connection
        tools=[
            _tool(ask_panel, "Ask a panel of models"),
            _tool(review_document, "Have a document reviewed by a panel"),
            _tool(compare_answers, "Compare answers"),
            _tool(list_fusions, "List panels"),
        ],
    )


def _tool(function: Callable[..., Any], title: str) -> Tool:
    """A tool that refuses arguments which it does not know: the SDK's own would drop them without a word."""
    described = inspect.getdoc(function)
    tool = Tool.from_function(function, title=title, description=described, annotations=_READS)
    known = tool.fn_metadata.arg_model
    tool.fn_metadata.arg_model = type(known.__name__, (known,), {"model_config": ConfigDict(extra="forbid")})
    tool.parameters["additionalProperties"] = False
    return tool


async def _answer(
    ctx: ToolContext[Any, Any], ask: Callable[[Context, Tell], Coroutine[Any, Any, Result]]
) -> CallToolResult:
    """A tool's result as data and as text; what goes wrong is told to the model, with the way out."""
    told = 0

    async def tell(line: str) -> None:
        nonlocal told
        told += 1  # how many more there will be, nobody knows
        await ctx.report_progress(told, message=line)

    request = ctx.request_context.request
    try:
        result = await _unless_gone(request, ask(_context(request), tell))
    except LocalFusionError as error:
        raise ToolError(f"{error.message} → {error.hint}" if error.hint else error.message) from None
    return CallToolResult(
        content=[TextContent(type="text", text=str(result))], structured_content=result.model_dump(mode="json")
    )


def _context(request: object) -> Context:
    """The context of the HTTP request that brought a call; where none did, whoever owns this process asks."""
    return context_of(request) if isinstance(request, Request) else Context(depth=depth_here())


async def _unless_gone(request: object, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client of `request` closes its connection.

    A session of the SDK's outlives its connections, and with it every call in it. Raises `ToolError` then, to nobody.
    """
    gone = request.scope["state"].get(GONE) if isinstance(request, Request) else None
    if gone is None:
        return await work
    task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone.wait())
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ToolError("the client has gone")
    finally:
        for each in (task, leaving):
            each.cancel()
        await asyncio.wait({task, leaving})
