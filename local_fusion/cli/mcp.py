"""`mcp`: the panels as tools of an agent, over standard input and output."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console

from local_fusion.cli.running import run
from local_fusion.cli.standard_input import lines
from local_fusion.config.loading import find_config, load_config
from local_fusion.config.schema import Config
from local_fusion.errors import SetupError
from local_fusion.server.mcp import INSTALL, MISSING, TOOLS

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server


@dataclass(frozen=True, slots=True)
class McpOptions:
    """What the command line said. `url`: of a running server, whose tools are handed on."""

    config: Path | None
    url: str | None


def run_mcp(options: McpOptions) -> None:
    """Answer an agent until it closes standard input; standard output is the protocol's alone.

    Raises what the configuration or the start raise, and `SetupError` where MCP is not installed or nobody answers at
    the address.
    """
    try:
        importlib.import_module(TOOLS)
    except ImportError:
        raise SetupError(MISSING, hint=INSTALL) from None
    run(_own(load_config(find_config(options.config))) if options.url is None else _bridge(options.url))


async def _own(config: Config) -> None:
    """The tools over engines of our own, which start meanwhile: calls wait for them."""
    from local_fusion.runtime import open_runtime
    from local_fusion.server.door import Door
    from local_fusion.server.mcp.tools import mcp_server
    from local_fusion.server.service import Service

    console = Console(stderr=True)
    async with open_runtime(config, tell=lambda text: console.print(text, markup=False, highlight=False)) as runtime:
        # The SDK's own way to run it reads standard input in a thread that nothing can wake.
        await _talk(mcp_server(Service(runtime, Door(runtime)))._lowlevel_server)


async def _bridge(url: str) -> None:
    from local_fusion.cli.mcp_bridge import bridged

    async with bridged(url) as server:
        await _talk(server)


async def _talk(server: Server[Any]) -> None:
    """Until standard input is closed."""
    from mcp.server.stdio import stdio_server

    # All that the SDK does with it is to iterate over its lines.
    async with stdio_server(stdin=cast(Any, lines())) as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())
