"""`keys`: who may use a server. Keys are shown once, when they are made; only their hashes are kept."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from local_fusion.config.loading import find_config, load_config
from local_fusion.config.problems import suggestion
from local_fusion.config.schema import Config
from local_fusion.errors import CallerError, ConfigError
from local_fusion.server.guard.keys import Former, Key, Keys, hash_of, locked, moment, new_key, read_keys, write_keys

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SPAN = re.compile(r"(\d{1,9})([smhdw])")


@dataclass(frozen=True, slots=True)
class Where:
    """Which file of keys is meant: `file`, else the one that the configuration names."""

    config: Path | None = None
    file: Path | None = None

    def path(self) -> Path:
        """The file.

        Raises `ConfigError` where the configuration names none.
        """
        if self.file is not None:
            return self.file
        found = find_config(self.config)
        config = load_config(found)
        if config.server.api_keys_file is None:
            raise ConfigError(
                [f"{found}: server.api_keys_file: names no file, so there are no API keys"],
                file=found,
                hint="add `api_keys_file: keys.yaml` below `server:`, or name a file with --file",
            )
        return Path(config.server.api_keys_file)

    def configuration(self) -> Config | None:
        """The configuration whose models the keys are for; None where only a file was named."""
        return None if self.file is not None and self.config is None else load_config(find_config(self.config))


def run_create(
    where: Where, name: str, *, models: list[str], expires: str | None, as_json: bool, **limits: Any
) -> None:
    """Make a key and print it.

    Raises `CallerError` where there is one of that name, or where what it is to be is wrong.
    """
    path, key = where.path(), new_key()
    entry = _entry(
        name=name,
        sha256=hash_of(key.encode()),
        models=models or None,
        expires=None if expires is None else _time(expires),
        **limits,
    )
    _must_fit(models, where.configuration())
    with locked(path):
        keys = read_keys(path)[0] if path.exists() else Keys()
        if keys.named(name) is not None:
            raise CallerError(
                f"there is a key named '{name}' already",
                hint=f"replace it with `local-fusion keys rotate {name}`, or remove it with `keys revoke {name}`",
            )
        write_keys(path, keys.put(entry))
    _show(key, entry, path, as_json=as_json)


def run_rotate(where: Where, name: str, *, grace: str, expires: str | None, as_json: bool) -> None:
    """Make another key for a name and print it; the one before stays good for the time of `grace`.

    Raises `CallerError` for a name that is not there.
    """
    path, key, now = where.path(), new_key(), datetime.now(UTC).replace(microsecond=0)
    until = now + _span(grace, "--grace")
    with locked(path):
        keys = read_keys(path)[0]
        entry = _named(keys, name)
        former = [*(each for each in entry.former if each.until > now), Former(sha256=entry.sha256, until=until)]
        changes: dict[str, Any] = {
            "sha256": hash_of(key.encode()),
            "former": [each for each in former if each.until > now],
        }
        if expires is not None:
            changes["expires"] = _time(expires)
        entry = _entry(**{**entry.model_dump(), **changes})
        write_keys(path, keys.put(entry))
    _show(key, entry, path, as_json=as_json)


def run_revoke(where: Where, name: str) -> None:
    """Take a key away, with those it was rotated from.

    Raises `CallerError` for a name that is not there.
    """
    path = where.path()
    with locked(path):
        keys = read_keys(path)[0]
        _named(keys, name)
        write_keys(path, keys.without(name))
    print(f"{name} may do nothing any more; a running server knows within two seconds", file=sys.stderr)


def run_list(where: Where, *, as_json: bool) -> None:
    """Every key's name, rights and limits, and whether it is good; no key and no hash."""
    keys, now = read_keys(where.path())[0], datetime.now(UTC)
    if as_json:
        print(json.dumps({"keys": [_as_json(key, now) for key in keys.keys]}, indent=2))
        return
    table = Table(
        "name", "role", "models", "requests/min", "tokens/min", "at once", "state", box=None, header_style="bold"
    )
    for key in keys.keys:
        told = (key.requests_per_minute, key.tokens_per_minute, key.concurrent_requests)
        limits = ("any" if each is None else f"{each:,}" for each in told)
        table.add_row(key.name, key.role, ", ".join(key.models or ["all"]), *limits, _state(key, now))
    Console().print(table)


def _as_json(key: Key, now: datetime) -> dict[str, Any]:
    shown = key.model_dump(mode="json", exclude={"sha256", "former"})
    return {**shown, "state": _state(key, now), "former_keys": sum(each.until > now for each in key.former)}


def _state(key: Key, now: datetime) -> str:
    if key.is_expired(now):
        return "expired"
    until = f"good until {key.expires:%Y-%m-%d %H:%M} UTC" if key.expires is not None else "good"
    former = max((each.until for each in key.former if each.until > now), default=None)
    return until if former is None else f"{until}, the key before until {former:%Y-%m-%d %H:%M} UTC"


def _show(key: str, entry: Key, path: Path, *, as_json: bool) -> None:
    """The key alone on stdout, so that it can be put somewhere; what to know about it on stderr."""
    if as_json:
        print(json.dumps({"key": key, **_as_json(entry, datetime.now(UTC))}, indent=2))
    else:
        print(key)
    print(f"the key of {entry.name}: it is shown this once; {path} holds its hash only", file=sys.stderr)


def _entry(**fields: Any) -> Key:
    """An entry of the file.

    Raises `CallerError` that says which option is wrong.
    """
    try:
        return Key.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        option = str(first["loc"][0]).replace("_", "-") if first["loc"] else ""
        where = {"name": "NAME: ", "models": "--model: ", "": ""}.get(option, f"--{option}: ")
        meant = {
            "name": "letters, digits and . _ @ - are taken, at most 64, a letter or digit first",
            "models": "expected the name of a model or fusion, in which * stands for any part",
        }
        told = meant.get(option) if first["type"] == "string_pattern_mismatch" else None
        raise CallerError(f"{where}{told or first['msg'].removeprefix('Value error, ')}") from None


def _must_fit(patterns: list[str], config: Config | None) -> None:
    """Raises `CallerError` for a pattern without `*` that names nothing which is configured."""
    names = [] if config is None else [*config.fusions, *config.models]
    for pattern in patterns:
        if names and "*" not in pattern and pattern not in names:
            near = suggestion(pattern, names, plural="models and fusions")
            raise CallerError(f"--model: no model or fusion is called '{pattern}'{near}")


def _named(keys: Keys, name: str) -> Key:
    key = keys.named(name)
    if key is None:
        raise CallerError(
            f"there is no key named '{name}'{suggestion(name, [each.name for each in keys.keys], plural='names')}"
        )
    return key


def _time(text: str) -> datetime:
    """A time that is still to come: a date, or so long from now (`90d`).

    Raises `CallerError`.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        until = now + _span(text, "--expires") if _SPAN.fullmatch(text) else moment(text)
    except (ValueError, OverflowError):
        raise CallerError(f"--expires: expected a time such as 2027-01-31 or 90d, got '{text}'") from None
    if until <= now:
        raise CallerError(f"--expires: {text} is over already")
    assert isinstance(until, datetime)
    return until


def _span(text: str, option: str) -> timedelta:
    """How long `24h`, `30m`, `7d` or `0` is.

    Raises `CallerError`.
    """
    found = _SPAN.fullmatch(text)
    if found is None and text != "0":
        raise CallerError(f"{option}: expected a time such as 24h, 30m, 7d or 0, got '{text}'")
    seconds = int(found[1]) * _UNITS[found[2]] if found is not None else 0
    if seconds > 3650 * _UNITS["d"]:
        raise CallerError(f"{option}: {text} is more than ten years")
    return timedelta(seconds=seconds)
