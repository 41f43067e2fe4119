"""Stores responses of the Responses API: clients can read them, continue from them, and cancel background ones."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

from dovetail.server.stored.database import TOO_LARGE, StoreUnavailableError
from dovetail.server.stored.store import UNFINISHED, DuplicateIdError, MissingError, Store

Response = dict[str, Any]
Items = list[dict[str, Any]]

PUT = "INSERT INTO responses VALUES (?, ?, ?, ?, (SELECT number FROM next_use), ?, ?, ?)"
UPDATE = """
UPDATE responses SET status = ?1, bytes = bytes - LENGTH(response) + LENGTH(?2), response = ?2, used = (SELECT number FROM next_use)
WHERE id = ?3
"""
PUT_ITEM = "INSERT OR IGNORE INTO items VALUES (?, ?)"
"""The response that an item was made for keeps it, whoever sends it again."""


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


class ResponseStore:
    """The stored responses.

    Args:
        owner: the number of this process.
    """

    def __init__(self, store: Store, owner: int = 0) -> None:
        self._store = store
        self._owner = owner
        self._held: dict[str, Response] = {}

    async def put(self, response: Response, input_items: Items, named: Collection[str] = ()) -> None:
        """Store a response, together with the items of its request.

        Args:
            named: ids of items that the client gave. Nobody can refer to those: another client may give the same.

        Raises:
            StoreUnavailableError: it cannot be stored.
            DuplicateIdError: there is one with its id.
        """
        encode = cache(lambda: _Row.encode(response, input_items, named))  # on the store's thread

        def put(db: sqlite3.Connection) -> None:
            row = encode()
            self._insert(db, row)
            self._store.evict(db)
            if not _exists(db, row.id):
                raise StoreUnavailableError(TOO_LARGE)

        await self._store.run(put, size=lambda: encode().size)

    async def begin(
        self,
        response: Response,
        input_items: Items,
        new_events: EventBatch | None = None,
        named: Collection[str] = (),
    ) -> None:
        """Store a response that is still to be generated, and its first events.

        Args:
            named: see :meth:`put`.

        Raises:
            StoreUnavailableError: it cannot be stored.
            TooManyUnfinishedError: there are too many of those.
            DuplicateIdError: there is one with its id.
        """
        encode = cache(lambda: _Row.encode(response, input_items, named))

        def begin(db: sqlite3.Connection) -> None:
            row = encode()
            (count,) = db.execute("SELECT COUNT(*) FROM responses WHERE status IN (?, ?)", UNFINISHED).fetchone()
            if count >= self._store.max_answers:
                raise TooManyUnfinishedError
            self._insert(db, row)
            _append_events(db, row.id, new_events)
            self._store.evict(db)

        await self._store.run(begin, size=lambda: encode().size)

    async def update(self, response: Response, new_events: EventBatch | None = None) -> bool:
        """Update an unfinished response and add its events. Returns False if it was cancelled or deleted.

        Raises:
            StoreUnavailableError: it cannot be stored.
        """
        encode = cache(lambda: _Row.encode(response, [], ()))

        def update(db: sqlite3.Connection) -> bool:
            row = encode()
            if not _is_unfinished(db, row.id):
                return False
            _append_events(db, row.id, new_events)
            db.execute(UPDATE, (row.status, row.response, row.id))
            db.executemany(PUT_ITEM, [(item, row.id) for item in row.items])
            self._store.evict(db)
            return True

        updated = await self._store.run(update, size=lambda: encode().size + _event_bytes(new_events))
        self._held.pop(response["id"], None)
        return updated

    def hold(self, response: Response) -> None:
        """Show this end of a response from now on, which could not be stored. Only this process knows of it, until
        :meth:`update` succeeds.
        """
        self._held[response["id"]] = response

    async def append_events(self, id: str, new_events: EventBatch) -> None:
        """Add events of a response in progress."""

        def append_events(db: sqlite3.Connection) -> None:
            if _is_unfinished(db, id):
                _append_events(db, id, new_events)

        await self._store.run(append_events, size=lambda: _event_bytes(new_events))

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
            held = self._held.get(id)
            return row[0] if held is None else held["status"], [
                EventBatch(*found) for found in db.execute(query, (id, after))
            ]

        return await self._store.run(events_after, writes=False)

    async def get(self, id: str) -> bytes | None:
        """A response as JSON."""
        if (held := self._held.get(id)) is not None:
            return msgspec.json.encode(held)

        def get(db: sqlite3.Connection) -> bytes | None:
            row = db.execute("SELECT response FROM responses WHERE id = ?", (id,)).fetchone()
            return None if row is None else row[0]

        return await self._store.run(get, writes=False)

    async def chain(self, id: str) -> list[StoredResponse]:
        """A response and all previous ones that it continues, oldest first. All of them count as used.

        Raises:
            MissingError: one of them was deleted.
        """
        try:
            return await self._store.run(lambda db: _chain(db, id))
        except StoreUnavailableError:  # what cannot be written may be readable
            return await self._store.run(lambda db: _chain(db, id, uses=False), writes=False)

    async def find_items(self, ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """The items with these ids that belong to a response or its input. Only ids that the server gave are found."""
        return await self._store.run(lambda db: _find_items(db, set(ids)), writes=False)

    async def delete(self, id: str) -> bool:
        """Delete a response. Returns whether it existed. If it is not finished, its process stops generating it."""
        self._held.pop(id, None)
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
                db.execute(UPDATE, (response["status"], msgspec.json.encode(response), id))
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

    def _insert(self, db: sqlite3.Connection, row: _Row) -> None:
        """
        Raises:
            DuplicateIdError: there is one with its id.
        """
        if _exists(db, row.id):
            raise DuplicateIdError
        db.execute(PUT, (row.id, row.previous, row.status, self._owner, row.size, row.response, row.input))
        db.executemany(PUT_ITEM, [(item, row.id) for item in row.items])


@dataclass(frozen=True, slots=True)
class _Row:
    """A response as it is stored.

    Attributes:
        items: the ids that the server gave to items of its request and output.
    """

    id: str
    previous: str | None
    status: str
    response: bytes
    input: bytes
    items: list[str]

    @property
    def size(self) -> int:
        return len(self.response) + len(self.input)

    @classmethod
    def encode(cls, response: Response, input_items: Items, named: Collection[str]) -> _Row:
        return cls(
            id=response["id"],
            previous=response["previous_response_id"],
            status=response["status"],
            response=msgspec.json.encode(response),
            input=msgspec.json.encode(input_items),
            items=[item["id"] for item in (*input_items, *response["output"]) if item["id"] not in named],
        )


def _exists(db: sqlite3.Connection, id: str) -> bool:
    return db.execute("SELECT 1 FROM responses WHERE id = ?", (id,)).fetchone() is not None


def _is_unfinished(db: sqlite3.Connection, id: str) -> bool:
    query = "SELECT 1 FROM responses WHERE id = ? AND status IN (?, ?)"
    return db.execute(query, (id, *UNFINISHED)).fetchone() is not None


def _chain(db: sqlite3.Connection, id: str, uses: bool = True) -> list[StoredResponse]:
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
    if uses:
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
        # Counted with their response: what many events take is part of the limits.
        db.execute("UPDATE responses SET bytes = bytes + ? WHERE id = ?", (len(new_events.events), id))


def _event_bytes(new_events: EventBatch | None) -> int:
    return 0 if new_events is None else len(new_events.events)
