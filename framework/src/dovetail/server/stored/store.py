"""The database of stored responses and chat completions: SQLite, shared by all API processes of a server.

It is a temporary file that is deleted with the server. All access is from one thread of its own, so that no stream
waits for it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

UNFINISHED = ("queued", "in_progress")
WAIT_SECONDS = 30.0
"""Seconds to wait for another process's write, which takes milliseconds."""
SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
PRAGMA foreign_keys = ON;
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY,
    previous TEXT,
    status TEXT NOT NULL,
    owner INTEGER NOT NULL,
    used INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    response BLOB NOT NULL,
    input BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS responses_by_use ON responses (used, status, bytes);
CREATE TABLE IF NOT EXISTS items (
    id TEXT PRIMARY KEY,
    response TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS by_response ON items (response);
CREATE TABLE IF NOT EXISTS events (
    response TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE,
    last INTEGER NOT NULL,
    events BLOB NOT NULL,
    PRIMARY KEY (response, last)
);
CREATE TABLE IF NOT EXISTS chats (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL,
    model TEXT NOT NULL,
    used INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    metadata BLOB NOT NULL,
    chat BLOB NOT NULL,
    messages BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS chats_by_use ON chats (used, bytes);
CREATE INDEX IF NOT EXISTS by_time ON chats (created, number);
CREATE VIEW IF NOT EXISTS next_use (number) AS
    SELECT COALESCE(MAX(used), 0) + 1
    FROM (SELECT MAX(used) AS used FROM responses UNION ALL SELECT MAX(used) FROM chats);
"""
TOTALS = """
SELECT SUM(answers), SUM(bytes) FROM (
    SELECT COUNT(*) AS answers, COALESCE(SUM(bytes), 0) AS bytes FROM responses
    UNION ALL SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM chats
)
"""
LEAST_USED = f"""
SELECT * FROM (SELECT 'responses', id, bytes, used FROM responses WHERE status NOT IN {UNFINISHED} ORDER BY used LIMIT 1)
UNION ALL SELECT * FROM (SELECT 'chats', id, bytes, used FROM chats ORDER BY used LIMIT 1)
ORDER BY used LIMIT 1
"""
"""One query per table, because SQLite would not use the indices for a joint one."""


def create_store_file(folder: Path) -> str:
    """The path for a store that several processes open. Its folder is deleted with the server."""
    path = str(folder / "kept.sqlite")
    _open(path).close()  # processes that made the tables at the same time would be in each other's way
    return path


class MissingError(Exception):
    """There is no stored response or completion with this id.

    Attributes:
        id: the missing one.
    """

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.id = id


class Store:
    """The database. If a limit is exceeded, the least recently used finished entries are deleted.

    Args:
        max_answers: maximum number of stored responses and completions.
        max_bytes: maximum total size, as JSON with the inputs.
        path: the file that other processes use, too. Without one the store belongs to this process: in memory, and in
            an unnamed temporary file as it grows.
    """

    def __init__(self, max_answers: int, max_bytes: int, path: str = "") -> None:
        self.max_answers = max_answers
        self._max_bytes = max_bytes
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dovetail-store")

    async def run(self, work: Callable[[sqlite3.Connection], T], *, writes: bool = True) -> T:
        """Run a function in one transaction, on the store's thread."""

        def run() -> T:
            with self._transaction("IMMEDIATE" if writes else "DEFERRED") as db:
                return work(db)

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    def evict(self, db: sqlite3.Connection) -> None:
        """Delete what exceeds the limits. Called in the transaction that has added something."""
        count, size = db.execute(TOTALS).fetchone()
        while count > self.max_answers or size > self._max_bytes:
            row = db.execute(LEAST_USED).fetchone()
            if row is None:
                return
            table, id, freed, _ = row
            db.execute(f"DELETE FROM {table} WHERE id = ?", (id,))
            count, size = count - 1, size - freed

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
        if self._db is None:
            self._db = _open(self._path)
        db = self._db
        db.execute(f"BEGIN {kind}")
        try:
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")


def _open(path: str) -> sqlite3.Connection:
    # It is closed by whichever thread drops it last.
    db = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    db.executescript(SCHEMA)
    return db
