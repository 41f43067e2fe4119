"""The file of the store: SQLite's tables, and what can go wrong below them.

Rollback journals, and no write-ahead log: what a log holds can only leave it with room for the database to grow, so on a
full disk not even deleting would work. A journal of deletions is a few pages. For a file that this process alone has it
is in memory; processes that share one need it on the disk, should one of them be killed, where its room is kept.
Pages are written at the end of a transaction alone: SQLite forgets a journal in memory when it fails before.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from pathlib import Path

from dovetail.server.http.errors import ApiError

WAIT_SECONDS = 10.0
"""Seconds to wait for another process's write, which takes milliseconds."""
JOURNAL_BYTES = 1 << 20
"""Room that a shared file's journal keeps on the disk."""
SCHEMA = """
PRAGMA synchronous = OFF;
PRAGMA temp_store = MEMORY;
PRAGMA cache_spill = OFF;
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
REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk cannot be read or written",
    sqlite3.SQLITE_READONLY: "the file cannot be written",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
    sqlite3.SQLITE_CORRUPT: "the file is damaged",
    sqlite3.SQLITE_NOTADB: "the file is damaged",
    sqlite3.SQLITE_BUSY: "another process holds the file",
    sqlite3.SQLITE_LOCKED: "another process holds the file",
    sqlite3.SQLITE_NOMEM: "there is no memory",
}
WITHOUT_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
"""Failures for want of room: a limit of the size of files is reported as an I/O error."""
TOO_LARGE = "it has no room beside what must stay (--max-stored-response-bytes)"
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class StoreUnavailableError(ApiError):
    """Nothing can be read from the store, or written to it, now.

    Attributes:
        reason: why, in a few words.
    """

    def __init__(self, reason: str) -> None:
        message = f"the store of responses and completions cannot be used: {reason}; try again later"
        super().__init__(503, message, code="store_unavailable")
        self.reason = reason


class Database:
    """A connection, opened when it is first needed, and again after it was lost.

    Args:
        path: the file that other processes use, too. Without one it belongs to this process, and its file has no name.
    """

    def __init__(self, path: str = "") -> None:
        self.path = path
        self._db: sqlite3.Connection | None = None
        self._inode = 0

    def connect(self) -> sqlite3.Connection:
        """The connection.

        Raises:
            sqlite3.Error: it cannot be opened.
        """
        if self._db is None:
            if self.path:
                self._db = _open(self.path, "PERSIST")
                self._inode = os.stat(self.path).st_ino if os.path.exists(self.path) else 0
            else:
                self._db = _open_unnamed()
        return self._db

    def is_readable(self) -> bool:
        """Whether the connection still works. After some failures it does not, for good."""
        try:
            self.connect().execute("SELECT COUNT(*) FROM responses").fetchone()
        except sqlite3.Error:
            return False
        return True

    def disconnect(self) -> None:
        """Drop the connection. What only this process has is lost with it."""
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):  # it is dropped all the same
                db.close()

    def replace_damaged(self) -> None:
        """Begin anew with an empty file, unless another process has done so."""
        self.disconnect()
        if self.path and os.path.exists(self.path) and os.stat(self.path).st_ino == self._inode:
            for name in (self.path, f"{self.path}-journal"):
                Path(name).unlink(missing_ok=True)


def create_store_file(folder: Path) -> str:
    """The path for a store that several processes open. Its folder is deleted with the server."""
    path = str(folder / "kept.sqlite")
    db = _open(path, "PERSIST")  # processes that made the tables at the same time would be in each other's way
    # The pages of a deletion are in the journal before they are changed, and it never gives back the room it had.
    db.execute("CREATE TABLE room (bytes BLOB)")
    db.execute("INSERT INTO room VALUES (ZEROBLOB(?))", (JOURNAL_BYTES,))
    db.execute("UPDATE room SET bytes = ZEROBLOB(?)", (JOURNAL_BYTES,))
    db.execute("DROP TABLE room")
    db.close()
    return path


def describe_failure(error: sqlite3.Error) -> str:
    """Why SQLite failed, in a few words."""
    return REASONS.get(primary_code(error), " ".join(str(error).split()))


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's code of an error, without its details; -1 if it has none."""
    code = getattr(error, "sqlite_errorcode", None)
    return -1 if code is None else code & 0xFF


def _open_unnamed() -> sqlite3.Connection:
    try:
        number, path = tempfile.mkstemp(prefix="dovetail-", suffix=".sqlite")
    except OSError:  # no folder for temporary files: then in memory, as long as it suffices
        return _open("", "MEMORY")
    os.close(number)
    try:
        return _open(path, "MEMORY")
    finally:
        os.unlink(path)  # it stays as long as it is open, and nobody finds it afterwards


def _open(path: str, journal: str) -> sqlite3.Connection:
    # It is closed by whichever thread drops it last.
    db = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        db.execute(f"PRAGMA journal_mode = {journal}").fetchone()
        db.executescript(SCHEMA)
    except BaseException:
        db.close()
        raise
    return db
