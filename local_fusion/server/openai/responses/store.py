"""Responses that are kept: in SQLite, for whoever made them, until they are old, too many or deleted.

Every operation opens the file anew, in a thread: nothing is held that a killed server could leave half done, and
servers beside each other share one file.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from local_fusion.errors import SetupError, TooLarge
from local_fusion.server.openai.responses.items import Item

VARIABLE = "LOCAL_FUSION_STATE"
SCHEMA = 1  # counted up with every change of the tables
_DAY = 24 * 60 * 60
_BUSY_SECONDS = 10.0
_MAKING = threading.Lock()
_TABLES = (
    """CREATE TABLE responses (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        previous TEXT,
        used REAL NOT NULL,  -- when it was made, or last went on from
        bytes INTEGER NOT NULL,
        value TEXT NOT NULL  -- the response as JSON, without its output
    )""",
    "CREATE INDEX responses_by_use ON responses (used, bytes)",
    """CREATE TABLE items (
        response TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        is_output INTEGER NOT NULL,
        id TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (response, number)
    ) WITHOUT ROWID""",
    "CREATE INDEX items_by_id ON items (id)",
)
# The response and those that it goes on from, `depth` steps back. One whose owner is another's is not there.
_CHAIN = """WITH RECURSIVE chain (id, previous, depth) AS (
    SELECT id, previous, 0 FROM responses WHERE id = :id AND owner = :owner
    UNION ALL
    SELECT responses.id, responses.previous, chain.depth + 1
    FROM chain JOIN responses ON responses.id = chain.previous AND responses.owner = :owner
)"""

Result = TypeVar("Result")


def state_folder() -> Path:
    """Where the server keeps what outlives it: `$LOCAL_FUSION_STATE`, else the user's folder for such.

    Raises `SetupError` if that is in a home folder that does not exist.
    """
    own = os.environ.get(VARIABLE)
    try:
        if own:
            return Path(own).expanduser().absolute()
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state").absolute() / "local-fusion"
    except RuntimeError:
        raise SetupError(
            "there is no home folder to keep responses in", hint=f"Set {VARIABLE} to the whole path of a folder."
        ) from None


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a response is kept after its last use, and how many bytes all of them may take."""

    keep_seconds: float
    most_bytes: int


@dataclass(frozen=True, slots=True)
class Store:
    """The responses in one file. `owner` is whoever made one; to others it is not there.

    Every method raises `SetupError` where the file cannot be used.
    """

    file: Path

    async def put(self, owner: str, response: Mapping[str, Any], items: Sequence[Item], limits: Limits) -> None:
        """Keep a response that was made of `items`; what is too old or too much goes.

        Raises `TooLarge` for one that is more than may be kept in all.
        """

        def write(base: sqlite3.Connection) -> None:
            head = _dump({name: value for name, value in response.items() if name != "output"})
            kept = [(0, item["id"], _dump(item)) for item in items]
            kept += [(1, item["id"], _dump(item)) for item in response["output"]]
            size = len(head.encode()) + sum(len(value.encode()) for _, _, value in kept)
            if size > limits.most_bytes:
                raise TooLarge(f"a response of {size} bytes is not kept", hint="raise server.responses.max_bytes")
            now = time.time()
            previous = response["previous_response_id"]
            base.execute(
                "INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?)", (response["id"], owner, previous, now, size, head)
            )
            base.executemany(
                "INSERT INTO items VALUES (?, ?, ?, ?, ?)",
                [(response["id"], number, *item) for number, item in enumerate(kept)],
            )
            if previous is not None:
                base.execute(
                    f"{_CHAIN} UPDATE responses SET used = :now WHERE id IN (SELECT id FROM chain)",
                    {"id": previous, "owner": owner, "now": now},
                )
            _prune(base, now, limits)

        await self._do(write, writing=True)

    async def get(self, owner: str, name: str) -> dict[str, Any] | None:
        """The response called `name`, if `owner` has one."""

        def read(base: sqlite3.Connection) -> dict[str, Any] | None:
            row = base.execute("SELECT value FROM responses WHERE id = ? AND owner = ?", (name, owner)).fetchone()
            if row is None:
                return None
            output = base.execute(
                "SELECT value FROM items WHERE response = ? AND is_output ORDER BY number", (name,)
            ).fetchall()
            return {**json.loads(row[0]), "output": [json.loads(value) for (value,) in output]}

        return await self._do(read)

    async def delete(self, owner: str, name: str) -> bool:
        """Delete a response; False where `owner` has none of that name. What went on from it cannot any more."""

        def remove(base: sqlite3.Connection) -> bool:
            done = base.execute("DELETE FROM responses WHERE id = ? AND owner = ?", (name, owner))
            return done.rowcount > 0

        return await self._do(remove, writing=True)

    async def conversation(
        self, owner: str, name: str, most_bytes: int | None = None, *, with_output: bool = True
    ) -> list[Item] | None:
        """All that was said up to the response called `name`, oldest first, with its own output or without.

        None where part of it is not there (any more). Raises `TooLarge` beyond `most_bytes`.
        """
        asked = {"id": name, "owner": owner}

        def read(base: sqlite3.Connection) -> list[Item] | None:
            ends = base.execute(f"{_CHAIN} SELECT previous FROM chain ORDER BY depth DESC LIMIT 1", asked).fetchone()
            if ends is None or ends[0] is not None:
                return None
            if most_bytes is not None:
                total = f"{_CHAIN} SELECT SUM(bytes) FROM responses WHERE id IN (SELECT id FROM chain)"
                size = base.execute(total, asked).fetchone()[0]
                if size > most_bytes:
                    raise TooLarge(
                        f"the conversation before has {size} bytes, at most {most_bytes} are read",
                        hint="raise server.max_body_bytes, or begin a new conversation",
                    )
            rows = base.execute(
                f"{_CHAIN} SELECT items.value, is_output AND depth = 0 FROM chain JOIN items ON response = chain.id "
                "ORDER BY depth DESC, number",
                asked,
            )
            return [json.loads(value) for value, own_output in rows if with_output or not own_output]

        return await self._do(read)

    async def items(self, owner: str, names: Sequence[str], most_bytes: int) -> dict[str, Item]:
        """The newest item of each of these names in responses of `owner`, up to the first name of which there is none.

        Raises `TooLarge` where they have more than `most_bytes`, each counted as often as it is named.
        """
        newest = (
            "SELECT items.value FROM items JOIN responses ON responses.id = response "
            "WHERE items.id = ? AND owner = ? ORDER BY used DESC LIMIT 1"
        )

        def read(base: sqlite3.Connection) -> dict[str, Item]:
            found: dict[str, Item] = {}
            sizes: dict[str, int] = {}
            total = 0
            for name in names:
                if name not in found:
                    row = base.execute(newest, (name, owner)).fetchone()
                    if row is None:
                        break
                    found[name], sizes[name] = json.loads(row[0]), len(row[0].encode())
                total += sizes[name]
                if total > most_bytes:
                    raise TooLarge(
                        f"the items that are referred to have more than {most_bytes} bytes",
                        hint="raise server.max_body_bytes, or refer to fewer items",
                    )
            return found

        return await self._do(read)

    async def _do(self, work: Callable[[sqlite3.Connection], Result], *, writing: bool = False) -> Result:
        return await asyncio.to_thread(self._done, work, writing)

    def _done(self, work: Callable[[sqlite3.Connection], Result], writing: bool) -> Result:
        try:
            with self._opened() as base:
                base.execute("BEGIN IMMEDIATE" if writing else "BEGIN")
                try:
                    result = work(base)
                except BaseException:
                    base.execute("ROLLBACK")
                    raise
                base.execute("COMMIT")
                return result
        except (sqlite3.Error, OSError) as error:
            raise SetupError(
                f"the store of responses, {self.file}, cannot be used: {error}",
                hint=f"mend or delete that file, set {VARIABLE} to another folder, or server.responses.store: false",
            ) from error

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """A connection to the file, made with its folder where there is none; both are for this user alone."""
        self._make()
        base = sqlite3.connect(self.file, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            base.execute("PRAGMA journal_mode = WAL")
            base.execute("PRAGMA synchronous = NORMAL")
            base.execute("PRAGMA foreign_keys = ON")
            base.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten, not only forgotten
            if _version(base) != SCHEMA:
                _prepare(base)
            yield base
        finally:
            base.close()

    def _make(self) -> None:
        """The file, empty, where there is none.

        No file that SQLite has open in this process may be opened and closed here: that ends all its locks.
        """
        with _MAKING:
            if not self.file.exists():
                self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with suppress(FileExistsError):  # another server was quicker
                    os.close(os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _version(base: sqlite3.Connection) -> int:
    return int(base.execute("PRAGMA user_version").fetchone()[0])


def _prepare(base: sqlite3.Connection) -> None:
    """Make the tables, unless somebody else has just done so."""
    base.execute("BEGIN IMMEDIATE")
    try:
        found = _version(base)
        if found > SCHEMA:
            raise sqlite3.DatabaseError(f"a newer version of local-fusion made it (tables of version {found})")
        if found == 0:
            for statement in _TABLES:
                base.execute(statement)
            base.execute(f"PRAGMA user_version = {SCHEMA}")
        base.execute("COMMIT")
    except BaseException:
        base.execute("ROLLBACK")
        raise


def _prune(base: sqlite3.Connection, now: float, limits: Limits) -> None:
    base.execute("DELETE FROM responses WHERE used < ?", (now - limits.keep_seconds,))
    total = base.execute("SELECT TOTAL(bytes) FROM responses").fetchone()[0]
    if total <= limits.most_bytes:
        return
    for name, size in base.execute("SELECT id, bytes FROM responses ORDER BY used").fetchall():
        base.execute("DELETE FROM responses WHERE id = ?", (name,))
        total -= size
        if total <= limits.most_bytes:
            return


def _dump(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
