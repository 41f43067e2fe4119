"""Stores chat completions."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from functools import cache
from typing import Any

import msgspec

from dovetail.server.stored.database import TOO_LARGE, StoreUnavailableError
from dovetail.server.stored.pagination import Paging
from dovetail.server.stored.store import DuplicateIdError, MissingError, Store

SortKey = tuple[int, int]
"""Sort key of a completion: creation time in seconds, then row number."""
BEFORE_ALL: SortKey = (-1, 0)
AFTER_ALL: SortKey = (2**62, 0)
PUT = "INSERT INTO chats VALUES (NULL, ?, ?, ?, (SELECT number FROM next_use), ?, ?, ?, ?)"
UPDATE_METADATA = """
UPDATE chats SET bytes = bytes - LENGTH(metadata) + LENGTH(?), metadata = ?, used = (SELECT number FROM next_use) WHERE id = ?
"""


class ChatStore:
    """The stored chat completions."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def put(self, chat: dict[str, Any], messages: list[dict[str, Any]], metadata: dict[str, str]) -> None:
        """Store a completion, together with the messages of its request.

        Args:
            chat: without its metadata.

        Raises:
            StoreUnavailableError: it cannot be stored.
            DuplicateIdError: there is one with its id.
        """
        encode = cache(
            lambda: [msgspec.json.encode(part) for part in (metadata, chat, messages)]
        )  # on the store's thread

        def put(db: sqlite3.Connection) -> None:
            if _get(db, chat["id"]) is not None:
                raise DuplicateIdError
            parts = encode()
            db.execute(PUT, (chat["id"], chat["created"], chat["model"], sum(map(len, parts)), *parts))
            self._store.evict(db)
            if _get(db, chat["id"]) is None:
                raise StoreUnavailableError(TOO_LARGE)

        await self._store.run(put, size=lambda: sum(map(len, encode())))

    async def get(self, id: str) -> bytes | None:
        """A completion as JSON."""
        return await self._store.run(lambda db: _get(db, id), writes=False)

    async def set_metadata(self, id: str, metadata: dict[str, str]) -> bytes | None:
        """Replace the metadata of a completion, and return the completion. Counts as a use."""

        def set_metadata(db: sqlite3.Connection) -> bytes | None:
            encoded = msgspec.json.encode(metadata)
            db.execute(UPDATE_METADATA, (encoded, encoded, id))
            labelled = _get(db, id)
            self._store.evict(db)
            return labelled

        return await self._store.run(set_metadata)

    async def delete(self, id: str) -> bool:
        """Delete a completion. Returns whether it existed."""
        return await self._store.run(lambda db: db.execute("DELETE FROM chats WHERE id = ?", (id,)).rowcount > 0)

    async def messages(self, id: str) -> list[dict[str, Any]] | None:
        """The messages of a completion's request."""

        def messages(db: sqlite3.Connection) -> list[dict[str, Any]] | None:
            row = db.execute("SELECT messages FROM chats WHERE id = ?", (id,)).fetchone()
            return None if row is None else msgspec.json.decode(row[0])

        return await self._store.run(messages, writes=False)

    async def list_page(
        self, paging: Paging, model: str | None, labels: Collection[tuple[str, str]]
    ) -> tuple[dict[str, bytes], bool]:
        """One page of the list of completions, sorted by time: each by its id, as JSON. Also returns whether more
        follow.

        Args:
            model: only completions of this model name, if set.
            labels: only completions with this metadata.

        Raises:
            MissingError: the completion that the page should follow was deleted.
        """
        return await self._store.run(lambda db: _page(db, paging, model, set(labels)), writes=False)


def _get(db: sqlite3.Connection, id: str) -> bytes | None:
    row = db.execute("SELECT chat, metadata FROM chats WHERE id = ?", (id,)).fetchone()
    if row is None:
        return None
    chat, metadata = row
    return b'%b,"metadata":%b}' % (chat[:-1], metadata)


def _page(
    db: sqlite3.Connection, paging: Paging, model: str | None, labels: set[tuple[str, str]]
) -> tuple[dict[str, bytes], bool]:
    beyond, direction, start = ("<", "DESC", AFTER_ALL) if paging.descending else (">", "ASC", BEFORE_ALL)
    query = f"""
        SELECT id, model, metadata FROM chats WHERE (created, number) {beyond} (?, ?)
        ORDER BY created {direction}, number {direction}
    """
    found: list[str] = []
    for id, name, metadata in db.execute(query, _sort_key(db, paging.after) if paging.after else start):
        if model not in (None, name) or not labels <= msgspec.json.decode(metadata).items():
            continue
        if len(found) == paging.limit:
            return _chats(db, found), True
        found.append(id)
    return _chats(db, found), False


def _sort_key(db: sqlite3.Connection, id: str) -> SortKey:
    row: SortKey | None = db.execute("SELECT created, number FROM chats WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise MissingError(id)
    return row


def _chats(db: sqlite3.Connection, ids: list[str]) -> dict[str, bytes]:
    return {id: chat for id in ids if (chat := _get(db, id)) is not None}
