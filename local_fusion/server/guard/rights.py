"""What a path asks of whoever calls it. What is not listed is the administrator's."""

from __future__ import annotations

from local_fusion.errors import Forbidden, Unauthorized
from local_fusion.server.context import Caller

# To be seen by whatever looks whether the server is alive; who is no caller of ours sees no details.
OPEN = frozenset({"/health", "/ready"})
_USERS = ("/v1/", "/api/", "/session/", "/mcp/")
_USERS_TOO = frozenset({"/mcp", "/openapi.json", "/v1", "/api"})
# What other people asked, and what was answered.
_NOT_USERS = ("/v1/traces", "/api/v1/traces")


def is_for_users(path: str) -> bool:
    """Whether every key may call the path; by its beginning, so that no odd spelling of another gets in."""
    return (path in _USERS_TOO or path.startswith(_USERS)) and not path.startswith(_NOT_USERS)


def check_rights(caller: Caller, path: str) -> None:
    """Let pass who may call `path`.

    Raises `Unauthorized`, in the same words for no key, a wrong one and one that is good no more; and `Forbidden`.
    """
    if path in OPEN:
        return
    if not caller.known:
        raise Unauthorized(
            "this server takes requests with a valid API key only",
            hint="send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'; whoever runs the server makes one with "
            "`local-fusion keys create NAME`",
        )
    if not caller.admin and not is_for_users(path):
        raise Forbidden(f"this key may not use {path[:200]}", hint="use one that was made with --role admin")
