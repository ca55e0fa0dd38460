"""The keys that are good just now: looked up in constant time, and read again when their file has changed."""

from __future__ import annotations

import hmac
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from local_fusion.errors import ConfigError
from local_fusion.server.guard.keys import Key, Keys, hash_of, read_keys

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between looks at the file: a request pays at most for one `stat`


def _now() -> datetime:
    return datetime.now(UTC)


class Keyring:
    """The entries of the file at `path`.

    Raises `ConfigError` where it cannot be read at first. Later on a broken file changes nothing, and the log says why.
    """

    def __init__(
        self, path: Path, now: Callable[[], datetime] = _now, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self._now = now
        self._clock = clock
        keys, status = read_keys(path)
        self._seen: object = _identity(status)
        self._looked = clock()
        self._take(keys, status)

    @property
    def keys(self) -> Sequence[Key]:
        """Every entry, the expired ones, too."""
        return self._keys.keys

    def who(self, presented: Iterable[bytes]) -> Key | None:
        """Whose key is among those presented; None for none that is good, and for those of several people.

        Every hash is compared, whichever fits, so that the time it takes tells nothing.
        """
        self.look()
        now = self._now()
        digests = [hash_of(key) for key in presented]
        found: list[Key] = []
        for key in self._keys.keys:
            fits = False
            for known in key.hashes(now):
                for digest in digests:
                    fits |= hmac.compare_digest(digest, known)
            if fits and not key.is_expired(now):
                found.append(key)
        return found[0] if len(found) == 1 else None

    def look(self, *, at_once: bool = False) -> None:
        """Read the file again if it has changed; at most once a second, unless `at_once`."""
        now = self._clock()
        if not at_once and now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        try:
            identity: object = _identity(self.path.stat())
        except OSError as error:
            identity = error.strerror
        if identity == self._seen:
            return
        self._seen = identity
        try:
            keys, status = read_keys(self.path)
        except ConfigError as error:
            logger.error("the API keys stay as they were: %s", error.message)
            return
        self._seen = _identity(status)
        self._take(keys, status)
        logger.warning("API keys read again from %s: %d", self.path, len(keys.keys))

    def _take(self, keys: Keys, status: os.stat_result) -> None:
        self._keys = keys
        if status.st_mode & (stat.S_IRGRP | stat.S_IROTH):
            logger.warning("others may read the hashes of API keys: chmod 600 %s", self.path)
        if not keys.keys:
            logger.warning("%s holds no API keys, so nobody may ask anything", self.path)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode, status.st_uid
