"""`keys` and its commands; what they do is in `keys.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from local_fusion.cli.options import ConfigOption, JsonOption

keys_app = typer.Typer(no_args_is_help=True, help="API keys: who may use a server, and how much.")

KeysFileOption = Annotated[
    Path | None, typer.Option("--file", help="File of keys. Default: the configuration's server.api_keys_file.")
]
ExpiresOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="From when on it is good no more: 2027-01-31, or 90d from now.")
]


@keys_app.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="Whose key it is: logs and lists show the name.")],
    role: Annotated[
        str, typer.Option(help="user asks models; admin also controls engines, reads metrics and traces.")
    ] = "user",
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Fusion or model it may ask, `*` for any part. Default: all.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Most requests a minute.")] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Most tokens a minute, read and written by all engines for its requests.")
    ] = None,
    concurrent_requests: Annotated[int | None, typer.Option(min=1, help="Most requests at the same time.")] = None,
    expires: ExpiresOption = None,
    config: ConfigOption = None,
    file: KeysFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key and print it, this once. A running server takes it within two seconds."""
    from local_fusion.cli.keys import Where, run_create

    run_create(
        Where(config, file),
        name,
        models=model or [],
        expires=expires,
        as_json=as_json,
        role=role,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrent_requests=concurrent_requests,
    )


@keys_app.command("list")
def keys_list(config: ConfigOption = None, file: KeysFileOption = None, as_json: JsonOption = False) -> None:
    """Every key's name, rights and limits; never a key."""
    from local_fusion.cli.keys import Where, run_list

    run_list(Where(config, file), as_json=as_json)


@keys_app.command("rotate")
def keys_rotate(
    name: Annotated[str, typer.Argument(help="Whose key is replaced.")],
    grace: Annotated[
        str, typer.Option(metavar="TIME", help="How long the key before stays good: 24h, 30m, 0.")
    ] = "24h",
    expires: ExpiresOption = None,
    config: ConfigOption = None,
    file: KeysFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make another key for a name and print it, this once; both are good for a while. Limits are those of the name."""
    from local_fusion.cli.keys import Where, run_rotate

    run_rotate(Where(config, file), name, grace=grace, expires=expires, as_json=as_json)


@keys_app.command("revoke")
def keys_revoke(
    name: Annotated[str, typer.Argument(help="Whose key is taken away.")],
    config: ConfigOption = None,
    file: KeysFileOption = None,
) -> None:
    """Take a key away; a running server knows within two seconds."""
    from local_fusion.cli.keys import Where, run_revoke

    run_revoke(Where(config, file), name)
