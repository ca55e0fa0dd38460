"""API keys and the file that holds their hashes: read, checked, written whole."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from local_fusion.config.base import Strict
from local_fusion.config.document import YamlSyntaxError, read_document
from local_fusion.config.problems import Problem, render_path
from local_fusion.errors import ConfigError

PREFIX = "lf-"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"
PATTERN = r"^[A-Za-z0-9*][A-Za-z0-9._:/*-]{0,127}$"
_MOST_BYTES = 1024**2
_HEAD = """\
# API keys of local-fusion. Only hashes are kept here: a lost key is replaced with `local-fusion keys rotate NAME`.
# A running server takes changes up by itself, within a second or two.
"""

Role = Literal["user", "admin"]


def new_key() -> str:
    """A key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(key: bytes) -> str:
    """What is kept of a key.

    A fast hash is right here: passwords need slow ones because they can be guessed, and 256 random bits cannot.
    """
    return hashlib.sha256(key).hexdigest()


def moment(value: Any) -> Any:
    """A time as people write it (`2027-01-31`, `2027-01-31T12:00:00Z`); UTC where it names no zone."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("expected a time such as 2027-01-31 or 2027-01-31T12:00:00Z") from None
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


Moment = Annotated[datetime, BeforeValidator(moment)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Former(Strict):
    """A key that was replaced and is still good `until` then."""

    sha256: Hash
    until: Moment


class Key(Strict):
    """One name, its key, what it may do and how much of it."""

    name: Annotated[str, Field(pattern=NAME)]
    sha256: Hash
    former: list[Former] = Field([], max_length=16)
    role: Role = "user"
    models: list[Annotated[str, Field(pattern=PATTERN)]] | None = Field(None, min_length=1, max_length=256)
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    concurrent_requests: int | None = Field(None, ge=1)
    expires: Moment | None = None

    @model_validator(mode="after")
    def _admins_may_everything(self) -> Key:
        if self.role == "admin" and self.models is not None:
            raise ValueError("an admin may ask every model; leave `models` out, or make it a user's key")
        return self

    def is_expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= now

    def hashes(self, now: datetime) -> Iterator[str]:
        """Of every key that is good for this name."""
        yield self.sha256
        yield from (former.sha256 for former in self.former if former.until > now)


class Keys(Strict):
    """Everything in the file."""

    keys: list[Key] = Field([], max_length=10_000)

    @model_validator(mode="after")
    def _each_once(self) -> Keys:
        seen: set[str] = set()
        for key in self.keys:
            for each in (key.name, key.sha256, *(former.sha256 for former in key.former)):
                if each in seen:
                    raise ValueError(
                        f"two entries named '{key.name}', or with the same hash; each may stand there once"
                    )
                seen.add(each)
        return self

    def named(self, name: str) -> Key | None:
        """The entry of that name."""
        return next((key for key in self.keys if key.name == name), None)

    def put(self, key: Key) -> Keys:
        """The same with `key` in the place of the one of its name, or at the end."""
        kept = [key if each.name == key.name else each for each in self.keys]
        return Keys(keys=kept if key in kept else [*kept, key])

    def without(self, name: str) -> Keys:
        """The same without that entry."""
        return Keys(keys=[key for key in self.keys if key.name != name])


def read_keys(path: Path) -> tuple[Keys, os.stat_result]:
    """The file's entries, and what the file was when it was read.

    Raises `ConfigError`, in which no value of the file is quoted: it may be a key that was put there by mistake.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            raw = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        hint = "`local-fusion keys create NAME` makes it"
        raise ConfigError([f"{path}: there is no such file of API keys"], file=path, hint=hint) from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError([f"{path}: the API keys cannot be read: {reason}"], file=path) from None
    _must_be_ours_alone(path, status)
    if len(raw) > _MOST_BYTES:
        raise ConfigError([f"{path}: larger than {_MOST_BYTES} bytes: this is no file of API keys"], file=path)
    return _parsed(raw, path), status


def _must_be_ours_alone(path: Path, status: os.stat_result) -> None:
    """Raises `ConfigError` where others could put keys of their own there."""
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        message = f"{path}: others may write this file, and so give themselves keys"
        raise ConfigError([message], file=path, hint=f"chmod 600 {path}")
    if status.st_uid not in (0, os.geteuid()):
        message = f"{path}: this file of API keys belongs to another user (uid {status.st_uid})"
        raise ConfigError([message], file=path, hint=f"chown {os.geteuid()} {path}")


def _parsed(raw: bytes, path: Path) -> Keys:
    try:
        document = read_document(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: not UTF-8; save the file as UTF-8"], file=path) from None
    except YamlSyntaxError as error:
        raise ConfigError([f"{path}:{error.line}: not valid YAML"], file=path) from None
    told = "given twice, or of a kind that has no meaning here"
    problems = [Problem(each.path, told, each.line) for each in document.problems]
    if document.data is not None and not isinstance(document.data, dict):
        problems.append(Problem((), "expected a mapping with `keys:`"))
    if not problems:
        try:
            return Keys.model_validate(document.data or {}, strict=True)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False, include_context=False)
            problems = [Problem(each["loc"], _told(each["type"], each["msg"])) for each in found]
    lines = [
        f"{path}:{each.line or document.line(each.path)}: {render_path(each.path) or 'keys'}: {each.message}"
        for each in problems
    ]
    raise ConfigError(lines, file=path)


def _told(kind: str, message: str) -> str:
    match kind:
        case "string_pattern_mismatch":
            return "not of the form that belongs here (a hash is 64 hexadecimal digits, as `keys create` writes it)"
        case "extra_forbidden":
            return "unknown key"
        case "missing":
            return "missing"
        case _:
            message = message.removeprefix("Value error, ").removeprefix("Input should be ")
            return (
                message
                if message.startswith(("an ", "two ", "expected "))
                else f"expected {message[:1].lower()}{message[1:]}"
            )


def write_keys(path: Path, keys: Keys) -> None:
    """Replace the file at once and whole, readable for its owner alone.

    Raises `ConfigError`.
    """
    entries = [key.model_dump(mode="json", exclude_defaults=True) for key in keys.keys]
    text = _HEAD + yaml.safe_dump({"keys": entries}, sort_keys=False)
    target = path.resolve()
    written = None
    try:
        with tempfile.NamedTemporaryFile("w", dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            written = file.name
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(written, target)
    except OSError as error:
        if written is not None:
            Path(written).unlink(missing_ok=True)
        raise ConfigError([f"{path}: the API keys cannot be written: {error.strerror}"], file=path) from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other commands from changing the file meanwhile; it need not be there yet, its folder must.

    Raises `ConfigError`.
    """
    try:
        folder = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError([f"{path}: its folder cannot be used: {error.strerror}"], file=path) from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
