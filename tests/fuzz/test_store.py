"""The store of responses and completions under random failures: what was said to be stored can be read as it is, or is
gone; it is never something else, and never more than the limits.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dovetail.server.stored.chats import ChatStore
from dovetail.server.stored.database import StoreUnavailableError, create_store_file
from dovetail.server.stored.responses import EventBatch, ResponseStore, TooManyUnfinishedError
from dovetail.server.stored.store import TOTALS, UNFINISHED, DuplicateIdError, MissingError, Store

MAX_ANSWERS, MAX_BYTES = 20, 300_000
CODES = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What the store says of each failure is not looked at here."""
    caplog.set_level(logging.CRITICAL, "dovetail.server")


class FailingStore(Store):
    """Fails now and then: before a transaction, or at its end, where SQLite takes it back."""

    rng: random.Random
    share = 0.0

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
        with super()._transaction(kind) as db:
            self._fail()
            yield db
            self._fail()

    def _fail(self) -> None:
        if self.rng.random() < self.share:
            error = sqlite3.OperationalError("a failure")
            error.sqlite_errorcode = self.rng.choice(CODES)
            raise error


class Trial:
    """Random operations, and what must be true of the store after each.

    Attributes:
        told: responses that were said to be stored: each as it was put last.
        gone: ids that were deleted.
    """

    def __init__(self, rng: random.Random, path: str) -> None:
        self.rng = rng
        self.stores = [FailingStore(MAX_ANSWERS, MAX_BYTES, path) for _ in range(2 if path else 1)]
        for store in self.stores:
            store.rng = rng
            store.share = rng.choice((0.0, 0.05, 0.3))
        self.told: dict[str, dict[str, Any]] = {}
        self.gone: set[str] = set()
        self.events: dict[str, int] = {}

    async def run(self, count: int) -> None:
        for number in range(count):
            if self.rng.random() < 0.1:
                self.limit_pages()
            store = self.rng.choice(self.stores)
            operation = self.rng.choice(
                (self.put, self.put, self.begin, self.update, self.delete, self.chat, self.append)
            )
            try:
                await operation(store, f"r{number}")
            except (StoreUnavailableError, TooManyUnfinishedError, MissingError):
                continue
        for store in self.stores:
            store.share = 0.0
        await self.check()

    def limit_pages(self) -> None:
        """The disk is full, or there is room again."""
        pages = self.rng.choice((1, 50, 100, 400, 10**6))
        for store in self.stores:
            store._database.connect().execute(f"PRAGMA max_page_count = {pages}")

    def build(self, id: str, status: str) -> dict[str, Any]:
        text = "x" * self.rng.choice((0, 10, 5000, 60_000, 400_000))
        output = [{"id": f"msg_{id}"}] if status == "completed" else []
        return {"id": id, "previous_response_id": None, "status": status, "output": output, "text": text}

    async def put(self, store: Store, id: str) -> None:
        made = self.build(id, "completed")
        await ResponseStore(store).put(made, [{"id": "given by a client", "text": id}], ["given by a client"])
        self.told[id] = made

    async def begin(self, store: Store, id: str) -> None:
        made = self.build(id, "queued")
        await ResponseStore(store).begin(made, [], EventBatch(0, b"data: 0\n\n"))
        self.told[id], self.events[id] = made, 0

    async def append(self, store: Store, _: str) -> None:
        if id := self._any_unfinished():
            await ResponseStore(store).append_events(id, EventBatch(self.events[id] + 1, b"data: 1\n\n"))
            self.events[id] += 1

    async def update(self, store: Store, _: str) -> None:
        if id := self._any_unfinished():
            made = self.build(id, self.rng.choice(("in_progress", "completed", "failed")))
            if await ResponseStore(store).update(made):
                self.told[id] = made

    async def delete(self, store: Store, _: str) -> None:
        if self.told:
            id = self.rng.choice(sorted(self.told))
            await ResponseStore(store).delete(id)
            self.gone.add(id)

    async def chat(self, store: Store, id: str) -> None:
        await ChatStore(store).put({"id": id, "created": 1, "model": "m", "text": "x" * 3000}, [], {})

    def _any_unfinished(self) -> str:
        ids = [id for id, made in self.told.items() if made["status"] in UNFINISHED and id not in self.gone]
        return self.rng.choice(ids) if ids else ""

    async def check(self) -> None:
        for store in self.stores:
            responses = ResponseStore(store)
            for id, made in self.told.items():
                found = await responses.get(id)
                assert found is None or json.loads(found) == made
                if id in self.gone:
                    assert found is None
                elif made["status"] in UNFINISHED:
                    assert found is not None, f"{id} is unfinished, and nobody deleted it"
                    _, batches = await responses.events_after(id, -1)
                    assert [batch.last for batch in batches] == list(range(self.events[id] + 1))
            assert await responses.find_items(["given by a client"]) == {}
            db = store._database.connect()
            unfinished = sum(made["status"] in UNFINISHED for id, made in self.told.items() if id not in self.gone)
            count, size = db.execute(TOTALS).fetchone()
            assert count <= max(MAX_ANSWERS, unfinished)
            assert size <= MAX_BYTES or count == unfinished
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert not db.execute("PRAGMA foreign_key_check").fetchall()
        # It goes on as if nothing had been.
        for store in self.stores:
            store._database.connect().execute("PRAGMA max_page_count = 1000000")
        for id in self.told:
            await ResponseStore(self.stores[0]).delete(id)
        last = {**self.build("last", "completed"), "text": ""}
        await ResponseStore(self.stores[0]).put(last, [])
        with pytest.raises(DuplicateIdError):
            await ResponseStore(self.stores[-1]).put(last, [])


def run_trials(seeds: range, folder: Path) -> None:
    for seed in seeds:
        rng = random.Random(seed)
        place = folder / str(seed)
        place.mkdir()
        path = create_store_file(place) if rng.random() < 0.3 else ""
        try:
            asyncio.run(Trial(rng, path).run(40))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def test_a_hundred(tmp_path: Path) -> None:
    run_trials(range(100), tmp_path)


@pytest.mark.sweep
def test_thousands(tmp_path: Path) -> None:
    run_trials(range(100, 2100), tmp_path)
