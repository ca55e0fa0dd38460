"""MCP: the panels as tools of an agent that is stuck, over stdio and streamable HTTP."""

GONE = "mcp client gone"
"""Where a request's state has the event that its client has closed the connection."""
