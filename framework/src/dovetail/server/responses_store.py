"""Keeps responses of the Responses API: for clients to read, to go on from, and to cancel where they run in the background.

All API processes of a server share one store, an SQLite database in a file that goes with the server. It is used from a thread of its
own, so that no stream waits for it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
Response = dict[str, Any]
Items = list[dict[str, Any]]

UNFINISHED = ("queued", "in_progress")
WAIT_SECONDS = 30.0
"""For another process that writes, which takes milliseconds."""
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
CREATE INDEX IF NOT EXISTS by_use ON responses (used, status, bytes);
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
"""
PUT = """
INSERT INTO responses VALUES (?, ?, ?, ?, (SELECT COALESCE(MAX(used), 0) + 1 FROM responses), ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET previous = excluded.previous, status = excluded.status, owner = excluded.owner, used = excluded.used,
    bytes = excluded.bytes, response = excluded.response, input = excluded.input
"""
"""Replacing the row would take its events along."""


def make_store(folder: Path) -> str:
    """The file of a store that several processes open, in a folder that goes with the server."""
    path = str(folder / "responses.sqlite")
    _open(path).close()  # processes that made the tables at the same time would be in each other's way
    return path


@dataclass(frozen=True)
class Kept:
    """A response, and the items of its request."""

    response: Response
    input: Items


@dataclass(frozen=True)
class Told:
    """Events of a response that is streamed in the background, which came together.

    Attributes:
        last: the number of the last of them.
        events: as they are sent.
    """

    last: int
    events: bytes


class MissingError(Exception):
    """There is no such response.

    Attributes:
        id: which.
    """

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.id = id


class FullError(Exception):
    """As many responses are being made in the background as are kept."""


class TakenError(Exception):
    """There is a response with this id."""


class ResponseStore:
    """What is kept. Once there is too much, the responses go that were longest out of use.

    Args:
        most: responses.
        most_bytes: of all of them, as JSON with their input.
        path: of the file that other processes use, too. Without one the store is this process's alone, in memory and, as it grows, in
            a file without a name.
        owner: the number of this process.
    """

    def __init__(self, most: int, most_bytes: int, path: str = "", owner: int = 0) -> None:
        self.most = most
        self._most_bytes = most_bytes
        self._path = path
        self._owner = owner
        self._db: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dovetail-responses")

    async def put(self, response: Response, given: Items) -> None:
        """Keep a response, together with the items of its request."""
        await self._run(lambda db: self._put(db, response, given))

    async def begin(self, response: Response, given: Items, told: Told | None = None) -> None:
        """Keep one that is still to be made, and what is told of it.

        Raises:
            FullError: there are too many of those.
            TakenError: there is one with its id.
        """

        def begin(db: sqlite3.Connection) -> None:
            (count,) = db.execute("SELECT COUNT(*) FROM responses WHERE status IN (?, ?)", UNFINISHED).fetchone()
            if count >= self.most:
                raise FullError
            if db.execute("SELECT 1 FROM responses WHERE id = ?", (response["id"],)).fetchone() is not None:
                raise TakenError
            self._put(db, response, given)
            _tell(db, response["id"], told)

        await self._run(begin)

    async def update(self, response: Response, told: Told | None = None) -> bool:
        """Change one that is not finished, and tell of it; False if it was cancelled or deleted."""

        def update(db: sqlite3.Connection) -> bool:
            query = "SELECT input FROM responses WHERE id = ? AND status IN (?, ?)"
            row = db.execute(query, (response["id"], *UNFINISHED)).fetchone()
            if row is None:
                return False
            _tell(db, response["id"], told)
            self._put(db, response, msgspec.json.decode(row[0]))
            return True

        return await self._run(update)

    async def tell(self, id: str, told: Told) -> None:
        """Keep what is told of one that is being made."""

        def tell(db: sqlite3.Connection) -> None:
            query = "SELECT 1 FROM responses WHERE id = ? AND status IN (?, ?)"
            if db.execute(query, (id, *UNFINISHED)).fetchone() is not None:
                _tell(db, id, told)

        await self._run(tell)

    async def told(self, id: str, after: int) -> tuple[str, list[Told]]:
        """The status of a response, and what was told of it that holds events after the one with this number.

        Raises:
            MissingError: there is no such response.
        """

        def told(db: sqlite3.Connection) -> tuple[str, list[Told]]:
            row = db.execute("SELECT status FROM responses WHERE id = ?", (id,)).fetchone()
            if row is None:
                raise MissingError(id)
            query = "SELECT last, events FROM events WHERE response = ? AND last > ? ORDER BY last"
            return row[0], [Told(*found) for found in db.execute(query, (id, after))]

        return await self._run(told, writes=False)

    async def get(self, id: str) -> bytes | None:
        """A response as JSON."""

        def get(db: sqlite3.Connection) -> bytes | None:
            row = db.execute("SELECT response FROM responses WHERE id = ?", (id,)).fetchone()
            return None if row is None else row[0]

        return await self._run(get, writes=False)

    async def chain(self, id: str) -> list[Kept]:
        """A response after all that it goes on from, the oldest first. All of them count as used.

        Raises:
            MissingError: one of them is gone.
        """
        return await self._run(lambda db: _chain(db, id))

    async def find_items(self, ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """Those of the items that are part of a response or its input."""
        return await self._run(lambda db: _find_items(db, set(ids)), writes=False)

    async def delete(self, id: str) -> bool:
        """Forget a response; whether there was one. If it is not finished, its owner stops."""
        return await self._run(lambda db: db.execute("DELETE FROM responses WHERE id = ?", (id,)).rowcount > 0)

    async def cancel(self, id: str) -> Response | None:
        """End a response in the background; as it is then."""

        def cancel(db: sqlite3.Connection) -> Response | None:
            row = db.execute("SELECT response FROM responses WHERE id = ?", (id,)).fetchone()
            if row is None:
                return None
            response: Response = msgspec.json.decode(row[0])
            if response["status"] in UNFINISHED:
                response["status"] = "cancelled"
                query = "UPDATE responses SET status = ?, response = ? WHERE id = ?"
                db.execute(query, (response["status"], msgspec.json.encode(response), id))
            return response

        return await self._run(cancel)

    async def wanted(self, ids: Iterable[str]) -> set[str]:
        """Those of the responses that are neither finished nor deleted."""

        def wanted(db: sqlite3.Connection) -> set[str]:
            query = "SELECT id FROM responses WHERE owner = ? AND status IN (?, ?)"
            found = db.execute(query, (self._owner, *UNFINISHED))
            return {id for (id,) in found}.intersection(ids)

        return await self._run(wanted, writes=False)

    async def left(self) -> list[tuple[Response, int | None]]:
        """What is unfinished of this process's number, each with the number of the last event told of it, if any was."""

        def left(db: sqlite3.Connection) -> list[tuple[Response, int | None]]:
            query = "SELECT response, (SELECT MAX(last) FROM events WHERE response = id) FROM responses WHERE owner = ? AND status IN (?, ?)"
            return [(msgspec.json.decode(row[0]), row[1]) for row in db.execute(query, (self._owner, *UNFINISHED))]

        return await self._run(left, writes=False)

    async def _run(self, work: Callable[[sqlite3.Connection], T], *, writes: bool = True) -> T:
        def run() -> T:
            with self._transaction("IMMEDIATE" if writes else "DEFERRED") as db:
                return work(db)

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

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

    def _put(self, db: sqlite3.Connection, response: Response, given: Items) -> None:
        body, items = msgspec.json.encode(response), msgspec.json.encode(given)
        id, size = response["id"], len(body) + len(items)
        (told,) = db.execute("SELECT COALESCE(SUM(LENGTH(events)), 0) FROM events WHERE response = ?", (id,)).fetchone()
        db.execute(
            PUT,
            (id, response["previous_response_id"], response["status"], self._owner, size + told, body, items),
        )
        db.execute("DELETE FROM items WHERE response = ?", (id,))
        found = [(item["id"], id) for item in (*given, *response["output"])]
        db.executemany("INSERT OR REPLACE INTO items VALUES (?, ?)", found)
        self._make_room(db)

    def _make_room(self, db: sqlite3.Connection) -> None:
        count, size = db.execute("SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM responses").fetchone()
        oldest = "SELECT id, bytes FROM responses WHERE status NOT IN (?, ?) ORDER BY used LIMIT 1"
        while count > self.most or size > self._most_bytes:
            row = db.execute(oldest, UNFINISHED).fetchone()
            if row is None:
                return
            db.execute("DELETE FROM responses WHERE id = ?", (row[0],))
            count, size = count - 1, size - row[1]


def _open(path: str) -> sqlite3.Connection:
    # It is closed by whichever thread drops it last.
    db = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    db.executescript(SCHEMA)
    return db


def _chain(db: sqlite3.Connection, id: str) -> list[Kept]:
    chain: list[Kept] = []
    seen: set[str] = set()
    following: str | None = id
    while following is not None and following not in seen:  # a client may give an id anew that was forgotten
        row = db.execute("SELECT previous, response, input FROM responses WHERE id = ?", (following,)).fetchone()
        if row is None:
            raise MissingError(following)
        seen.add(following)
        following, response, given = row
        chain.append(Kept(msgspec.json.decode(response), msgspec.json.decode(given)))
    chain.reverse()
    use = "UPDATE responses SET used = (SELECT MAX(used) + 1 FROM responses) WHERE id = ?"
    db.executemany(use, [(kept.response["id"],) for kept in chain])
    return chain


def _find_items(db: sqlite3.Connection, ids: set[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    query = "SELECT response, input FROM responses WHERE id = (SELECT response FROM items WHERE id = ?)"
    for id in ids:
        row = None if id in found else db.execute(query, (id,)).fetchone()
        if row is not None:
            items = msgspec.json.decode(row[0])["output"] + msgspec.json.decode(row[1])
            found |= {item["id"]: item for item in items if item["id"] in ids}
    return found


def _tell(db: sqlite3.Connection, id: str, told: Told | None) -> None:
    if told is not None:
        db.execute("INSERT INTO events VALUES (?, ?, ?)", (id, told.last, told.events))
