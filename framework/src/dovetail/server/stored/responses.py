"""Stores responses of the Responses API: clients can read them, continue from them, and cancel background ones."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from dovetail.server.stored.store import UNFINISHED, MissingError, Store

Response = dict[str, Any]
Items = list[dict[str, Any]]

PUT = """
INSERT INTO responses VALUES (?, ?, ?, ?, (SELECT number FROM next_use), ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET previous = excluded.previous, status = excluded.status, owner = excluded.owner, used = excluded.used,
    bytes = excluded.bytes, response = excluded.response, input = excluded.input
"""
"""An update, because replacing the row would delete its events."""


@dataclass(frozen=True)
class StoredResponse:
    """A response, and the items of its request."""

    response: Response
    input: Items


@dataclass(frozen=True)
class EventBatch:
    """A batch of encoded events of a background response.

    Attributes:
        last: the number of the last event.
        events: the encoded events.
    """

    last: int
    events: bytes


class TooManyUnfinishedError(Exception):
    """As many background responses are in progress as can be stored."""


class DuplicateIdError(Exception):
    """There is a response with this id."""


class ResponseStore:
    """The stored responses.

    Args:
        owner: the number of this process.
    """

    def __init__(self, store: Store, owner: int = 0) -> None:
        self._store = store
        self._owner = owner

    async def put(self, response: Response, input_items: Items) -> None:
        """Store a response, together with the items of its request."""
        await self._store.run(lambda db: self._put(db, response, input_items))

    async def begin(self, response: Response, input_items: Items, new_events: EventBatch | None = None) -> None:
        """Store a response that is still to be generated, and its first events.

        Raises:
            TooManyUnfinishedError: there are too many of those.
            DuplicateIdError: there is one with its id.
        """

        def begin(db: sqlite3.Connection) -> None:
            (count,) = db.execute("SELECT COUNT(*) FROM responses WHERE status IN (?, ?)", UNFINISHED).fetchone()
            if count >= self._store.max_answers:
                raise TooManyUnfinishedError
            if db.execute("SELECT 1 FROM responses WHERE id = ?", (response["id"],)).fetchone() is not None:
                raise DuplicateIdError
            self._put(db, response, input_items)
            _append_events(db, response["id"], new_events)

        await self._store.run(begin)

    async def update(self, response: Response, new_events: EventBatch | None = None) -> bool:
        """Update an unfinished response and add its events. Returns False if it was cancelled or deleted."""

        def update(db: sqlite3.Connection) -> bool:
            query = "SELECT input FROM responses WHERE id = ? AND status IN (?, ?)"
            row = db.execute(query, (response["id"], *UNFINISHED)).fetchone()
            if row is None:
                return False
            _append_events(db, response["id"], new_events)
            self._put(db, response, msgspec.json.decode(row[0]))
            return True

        return await self._store.run(update)

    async def append_events(self, id: str, new_events: EventBatch) -> None:
        """Add events of a response in progress."""

        def append_events(db: sqlite3.Connection) -> None:
            query = "SELECT 1 FROM responses WHERE id = ? AND status IN (?, ?)"
            if db.execute(query, (id, *UNFINISHED)).fetchone() is not None:
                _append_events(db, id, new_events)

        await self._store.run(append_events)

    async def events_after(self, id: str, after: int) -> tuple[str, list[EventBatch]]:
        """The status of a response, and the batches with events after number ``after``.

        Raises:
            MissingError: there is no such response.
        """

        def events_after(db: sqlite3.Connection) -> tuple[str, list[EventBatch]]:
            row = db.execute("SELECT status FROM responses WHERE id = ?", (id,)).fetchone()
            if row is None:
                raise MissingError(id)
            query = "SELECT last, events FROM events WHERE response = ? AND last > ? ORDER BY last"
            return row[0], [EventBatch(*found) for found in db.execute(query, (id, after))]

        return await self._store.run(events_after, writes=False)

    async def get(self, id: str) -> bytes | None:
        """A response as JSON."""

        def get(db: sqlite3.Connection) -> bytes | None:
            row = db.execute("SELECT response FROM responses WHERE id = ?", (id,)).fetchone()
            return None if row is None else row[0]

        return await self._store.run(get, writes=False)

    async def chain(self, id: str) -> list[StoredResponse]:
        """A response and all previous ones that it continues, oldest first. All of them count as used.

        Raises:
            MissingError: one of them was deleted.
        """
        return await self._store.run(lambda db: _chain(db, id))

    async def find_items(self, ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """The items with these ids that belong to a response or its input."""
        return await self._store.run(lambda db: _find_items(db, set(ids)), writes=False)

    async def delete(self, id: str) -> bool:
        """Delete a response. Returns whether it existed. If it is not finished, its process stops generating it."""
        return await self._store.run(lambda db: db.execute("DELETE FROM responses WHERE id = ?", (id,)).rowcount > 0)

    async def cancel(self, id: str) -> Response | None:
        """Cancel a background response. Returns its state."""

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

        return await self._store.run(cancel)

    async def filter_unfinished(self, ids: Iterable[str]) -> set[str]:
        """Those of the responses that are neither finished nor deleted."""

        def filter_unfinished(db: sqlite3.Connection) -> set[str]:
            query = "SELECT id FROM responses WHERE owner = ? AND status IN (?, ?)"
            found = db.execute(query, (self._owner, *UNFINISHED))
            return {id for (id,) in found}.intersection(ids)

        return await self._store.run(filter_unfinished, writes=False)

    async def find_orphaned(self) -> list[tuple[Response, int | None]]:
        """Unfinished responses of this process's number, each with the number of its last stored event, if any."""

        def find_orphaned(db: sqlite3.Connection) -> list[tuple[Response, int | None]]:
            query = "SELECT response, (SELECT MAX(last) FROM events WHERE response = id) FROM responses WHERE owner = ? AND status IN (?, ?)"
            return [(msgspec.json.decode(row[0]), row[1]) for row in db.execute(query, (self._owner, *UNFINISHED))]

        return await self._store.run(find_orphaned, writes=False)

    def _put(self, db: sqlite3.Connection, response: Response, input_items: Items) -> None:
        body, items = msgspec.json.encode(response), msgspec.json.encode(input_items)
        id, size = response["id"], len(body) + len(items)
        (event_bytes,) = db.execute(
            "SELECT COALESCE(SUM(LENGTH(events)), 0) FROM events WHERE response = ?", (id,)
        ).fetchone()
        db.execute(
            PUT,
            (id, response["previous_response_id"], response["status"], self._owner, size + event_bytes, body, items),
        )
        db.execute("DELETE FROM items WHERE response = ?", (id,))
        found = [(item["id"], id) for item in (*input_items, *response["output"])]
        db.executemany("INSERT OR REPLACE INTO items VALUES (?, ?)", found)
        self._store.evict(db)


def _chain(db: sqlite3.Connection, id: str) -> list[StoredResponse]:
    chain: list[StoredResponse] = []
    seen: set[str] = set()
    following: str | None = id
    while following is not None and following not in seen:  # a client may reuse an id that was deleted
        row = db.execute("SELECT previous, response, input FROM responses WHERE id = ?", (following,)).fetchone()
        if row is None:
            raise MissingError(following)
        seen.add(following)
        following, response, input_items = row
        chain.append(StoredResponse(msgspec.json.decode(response), msgspec.json.decode(input_items)))
    chain.reverse()
    use = "UPDATE responses SET used = (SELECT number FROM next_use) WHERE id = ?"
    db.executemany(use, [(stored.response["id"],) for stored in chain])
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


def _append_events(db: sqlite3.Connection, id: str, new_events: EventBatch | None) -> None:
    if new_events is not None:
        db.execute("INSERT INTO events VALUES (?, ?, ?)", (id, new_events.last, new_events.events))
