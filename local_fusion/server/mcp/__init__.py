"""MCP: the panels as tools of an agent that is stuck, over stdio and streamable HTTP."""

GONE = "mcp client gone"
"""Where a request's state has the event that its client has closed the connection."""

TOOLS = "local_fusion.server.mcp.tools"
"""The module that needs the SDK, of version 2 or later; importing it takes long, or is not possible."""

MISSING, INSTALL = "MCP is not installed here, or older than its version 2", "pip install 'local-fusion[mcp]'"
"""What there is to say then, and the way out."""
