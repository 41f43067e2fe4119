"""The store of responses and chat completions: a database, shared by all API processes of a server.

It is a temporary file that is deleted with the server. All access is from one thread of its own, so that no stream
waits for it. A disk that fails takes nothing but the store: what is asked of it then raises one error, and the log has
a line of it now and then.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from dovetail.server.stored.database import (
    DAMAGED,
    REASONS,
    WITHOUT_ROOM,
    Database,
    StoreUnavailableError,
    describe_failure,
    primary_code,
)

T = TypeVar("T")
logger = logging.getLogger("dovetail.server")

UNFINISHED = ("queued", "in_progress")
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
MAX_ATTEMPTS = 3
"""How often a write is tried on a full disk, with older entries deleted before each further time."""
LEAST_ROOM = 64 << 10
"""Bytes to make room for, beside what is to be written."""
LOG_SECONDS = 60.0
"""Least time between two lines in the log about the same failure."""


class MissingError(Exception):
    """There is no stored response or completion with this id.

    Attributes:
        id: the missing one.
    """

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.id = id


class DuplicateIdError(Exception):
    """There is a stored response or completion with this id."""


class Store:
    """The database. If a limit is exceeded, the least recently used finished entries are deleted; as well if the disk is
    full, until there is room.

    Args:
        max_answers: maximum number of stored responses and completions.
        max_bytes: maximum total size, as JSON with the inputs.
        path: the file that other processes use, too. Without one the store belongs to this process.
    """

    def __init__(self, max_answers: int, max_bytes: int, path: str = "") -> None:
        self.max_answers = max_answers
        self.max_bytes = max_bytes
        self._database = Database(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dovetail-store")
        self._logged: dict[str, float] = {}

    async def run(
        self, work: Callable[[sqlite3.Connection], T], *, writes: bool = True, size: Callable[[], int] = int
    ) -> T:
        """Run a function in one transaction, on the store's thread. It is run again after room was made for it.

        Args:
            size: tells how many bytes the function adds; about as much of what is stored gives way to it on a full disk.

        Raises:
            StoreUnavailableError: the database cannot be used, or has no room.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work, writes, size)

    def evict(self, db: sqlite3.Connection) -> None:
        """Delete what exceeds the limits. Called in the transaction that has added something."""
        count, size = db.execute(TOTALS).fetchone()
        while count > self.max_answers or size > self.max_bytes:
            freed = _delete_least_used(db)
            if freed is None:
                return
            count, size = count - 1, size - freed

    def _run(self, work: Callable[[sqlite3.Connection], T], writes: bool, size: Callable[[], int]) -> T:
        attempts = MAX_ATTEMPTS if writes else 1
        for attempt in range(1, attempts + 1):
            try:
                with self._transaction("IMMEDIATE" if writes else "DEFERRED") as db:
                    return work(db)
            except sqlite3.Error as error:
                code, reason = primary_code(error), describe_failure(error)
                if code not in REASONS:  # a mistake of ours
                    raise
            if code not in WITHOUT_ROOM or attempt == attempts or not self._make_room(size() + LEAST_ROOM):
                break
            self._log("room", f"{reason} under the stored responses and completions: older ones are deleted")
        self._log("failed", f"the store of responses and completions cannot be used: {reason}")
        self._drop_broken(code)
        raise StoreUnavailableError(reason)

    def _make_room(self, size: int) -> bool:
        """Delete the least used entries. Returns whether there were any, and enough of them.

        Args:
            size: bytes to free, of what was counted for the entries.
        """
        try:
            with self._transaction("IMMEDIATE") as db:
                if db.execute(TOTALS).fetchone()[1] < size:
                    return False
                left = size
                while left > 0 and (freed := _delete_least_used(db)) is not None:
                    left -= freed
        except sqlite3.Error:
            return False
        return left < size

    def _drop_broken(self, code: int) -> None:
        """After a failure, drop a connection that will never work again, and a file that cannot be read."""
        if code in DAMAGED:
            self._database.replace_damaged()
        elif not self._database.is_readable():
            self._database.disconnect()
        else:
            return
        self._log("anew", "the store of responses and completions is opened anew")

    def _log(self, kind: str, message: str) -> None:
        now = time.monotonic()
        if now - self._logged.get(kind, -LOG_SECONDS) >= LOG_SECONDS:
            self._logged[kind] = now
            logger.warning("%s", message)

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
        db = self._database.connect()
        db.execute(f"BEGIN {kind}")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # after some failures SQLite has rolled back already
                db.execute("ROLLBACK")
            raise


def _delete_least_used(db: sqlite3.Connection) -> int | None:
    """Delete the least recently used finished entry. Returns its size, None if there is none."""
    row: tuple[str, str, int, int] | None = db.execute(LEAST_USED).fetchone()
    if row is None:
        return None
    table, id, size, _ = row
    db.execute(f"DELETE FROM {table} WHERE id = ?", (id,))
    return size
