"""A full disk, and other failures, under the store of responses and completions: the answer is delivered and said to be
unstored, older ones give way, reading and deleting go on.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from server_fakes import FakeEngine, serving_app

from dovetail.server.app import build_app
from dovetail.server.settings import ServerSettings
from dovetail.server.stored.database import StoreUnavailableError, create_store_file
from dovetail.server.stored.responses import EventBatch, ResponseStore
from dovetail.server.stored.store import Store

SIZE = 50_000
PAGES = 150
"""Of 4 KiB, which a store may have in these tests."""


def response(id: str, size: int = SIZE, status: str = "completed") -> dict[str, Any]:
    return {"id": id, "previous_response_id": None, "status": status, "output": [], "text": "x" * size}


def limit_pages(store: Store, pages: int = PAGES) -> None:
    """Let the store's file grow no further: SQLite then fails as on a full disk."""
    store._database.connect().execute(f"PRAGMA max_page_count = {pages}")


@pytest.fixture(params=["own", "shared"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a store: this process's own, or one that processes share."""
    return create_store_file(tmp_path) if request.param == "shared" else ""


def in_child(work: Callable[[], None]) -> None:
    """Run a test's part in a copy of this process, whose limits end with it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def fill_and_use(path: str, limit: Callable[[Store], None]) -> None:
    """Older ones give way to newer ones; reading and deleting go on."""

    async def run() -> None:
        store = Store(1000, 10**9, path)
        responses = ResponseStore(store)
        await responses.put(response("first"), [])
        limit(store)
        for number in range(60):
            await responses.put(response(f"r{number}"), [])
            assert await responses.get(f"r{number}") is not None
        assert await responses.get("first") is None
        assert await responses.delete("r59")
        assert await responses.get("r59") is None
        kept = [number for number in range(60) if await responses.get(f"r{number}") is not None]
        assert len(kept) >= 3
        assert kept == list(range(kept[0], 59))  # the newest
        with pytest.raises(StoreUnavailableError):
            await responses.put(response("huge", 10**7), [])
        assert await responses.get("r58") is not None  # nothing gives way to what is too large all the same
        await responses.put(response("after"), [])
        assert await responses.get("after") is not None

    asyncio.run(run())


def test_a_full_disk(path: str, caplog: pytest.LogCaptureFixture) -> None:
    fill_and_use(path, limit_pages)
    assert [record.exc_info for record in caplog.records] == [None] * len(caplog.records)
    assert 1 <= len(caplog.records) <= 3  # not one for each request


def test_a_file_that_may_not_grow(path: str) -> None:
    def limit(_: Store) -> None:
        size = 4096 * PAGES
        if path:
            size = max(size, os.path.getsize(path))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        fill_and_use(path, limit)

    in_child(work)


def test_nothing_left_to_give_way(path: str) -> None:
    """Unfinished responses stay; what has no room is refused, and ends nothing."""

    async def run() -> None:
        store = Store(1000, 10**9, path)
        responses = ResponseStore(store)
        await responses.begin(response("open", 10, "queued"), [])
        limit_pages(store, 320 if path else 40)  # a shared file has room of deleted pages from the beginning

        async def append_all() -> None:
            for number in range(99):
                await responses.append_events("open", EventBatch(number, b"x" * SIZE))

        with pytest.raises(StoreUnavailableError, match="the disk is full"):
            await append_all()
        assert await responses.update(response("open", 10, "failed"))
        assert b"failed" in (await responses.get("open") or b"")
        await responses.put(response("next", 10), [])

    asyncio.run(run())


@pytest.fixture
def client(engine: FakeEngine, path: str) -> Iterator[httpx2.Client]:
    app = build_app(engine, ServerSettings(), store=path)
    with serving_app(app) as url, httpx2.Client(base_url=url) as client:
        client.app = app  # type: ignore[attr-defined]
        yield client


def break_store(client: httpx2.Client, monkeypatch: pytest.MonkeyPatch, code: int = sqlite3.SQLITE_FULL) -> None:
    """Let every write of the store fail."""
    store: Store = client.app.state.context.store  # type: ignore[attr-defined]
    transaction = store._transaction

    def fail(kind: str) -> Any:
        if kind == "IMMEDIATE":
            error = sqlite3.OperationalError("secret detail")
            error.sqlite_errorcode = code
            raise error
        return transaction(kind)

    monkeypatch.setattr(store, "_transaction", fail)


CODES = {
    "full": sqlite3.SQLITE_FULL,
    "error": sqlite3.SQLITE_IOERR_WRITE,
    "readonly": sqlite3.SQLITE_READONLY_DBMOVED,
    "locked": sqlite3.SQLITE_BUSY,
}


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_answers_are_delivered_and_said_to_be_unstored(
    client: httpx2.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    kept = client.post("/v1/responses", json={"input": "Hi"}).json()
    assert kept["store"] is True
    break_store(client, monkeypatch, code)
    for _ in range(5):
        told = client.post("/v1/responses", json={"input": "Hi", "previous_response_id": kept["id"]})
        assert told.status_code == 200
        assert told.json()["store"] is False
        assert told.json()["output"][0]["content"][0]["text"]
        assert "the response is not stored" in told.headers["x-dovetail-notice"]
    streamed = client.post("/v1/responses", json={"input": "Hi", "stream": True}).text.strip().split("\n\n")
    last = json.loads(streamed[-1].split("data: ")[1])
    assert (last["type"], last["response"]["store"]) == ("response.completed", False)
    # Reading goes on; what cannot be done is told.
    assert client.get(f"/v1/responses/{kept['id']}").json()["id"] == kept["id"]
    assert client.get(f"/v1/responses/{told.json()['id']}").status_code == 404
    refused = client.delete(f"/v1/responses/{kept['id']}")
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "store_unavailable"
    assert client.post("/v1/responses", json={"input": "Hi", "background": True}).status_code == 503
    assert "secret" not in refused.text + caplog.text
    assert "Traceback" not in caplog.text
    assert sum("cannot be used" in record.message for record in caplog.records) == 1
    monkeypatch.undo()
    assert client.post("/v1/responses", json={"input": "Hi"}).json()["store"] is True


def test_completions_are_delivered_and_said_to_be_unstored(
    client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_store(client, monkeypatch)
    body = {"messages": [{"role": "user", "content": "Hi"}], "store": True}
    told = client.post("/v1/chat/completions", json=body)
    assert told.status_code == 200
    assert told.headers["x-dovetail-notice"] == "the completion is not stored: the disk is full"
    streamed = client.post("/v1/chat/completions", json={**body, "stream": True}).text.strip().split("\n\n")
    assert streamed[-1] == "data: [DONE]"
    assert ": the completion is not stored: the disk is full" in streamed


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_in_the_background_fails(
    client: httpx2.Client,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    until: Callable[..., None],
    stream: bool,
) -> None:
    engine.delay, engine.words = 0.02, ("word ",) * 40
    body = {"input": "Hi", "background": True, "stream": stream}
    with client.stream("POST", "/v1/responses", json=body) as made:
        if stream:
            lines = made.iter_lines()
            next(lines)
            id = json.loads(next(lines).removeprefix("data: "))["response"]["id"]
        else:
            id = json.loads(made.read())["id"]
        until(lambda: engine.running)
        break_store(client, monkeypatch)

        def state() -> dict[str, Any]:
            found: dict[str, Any] = client.get(f"/v1/responses/{id}").json()
            return found

        until(lambda: state()["status"] == "failed", 20.0)
        assert "the disk is full" in state()["error"]["message"]
        monkeypatch.undo()
        store: ResponseStore = client.app.state.context.response_store  # type: ignore[attr-defined]
        until(lambda: not store._held, 20.0)  # stored as soon as that is possible
    assert state()["status"] == "failed"


def test_the_folder_is_deleted(tmp_path: Path, engine: FakeEngine) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    app = build_app(engine, ServerSettings(), store=create_store_file(folder))
    with serving_app(app) as url, httpx2.Client(base_url=url) as client:
        kept = client.post("/v1/responses", json={"input": "Hi"}).json()
        shutil.rmtree(folder)
        told = client.post("/v1/responses", json={"input": "Hi"})
        assert told.status_code == 200
        assert told.json()["store"] is False
        assert client.get(f"/v1/responses/{kept['id']}").status_code in (200, 503)
        assert client.get("/health").status_code == 200


def test_a_damaged_file_is_begun_anew_by_one_of_its_processes(tmp_path: Path) -> None:
    async def run() -> None:
        path = create_store_file(tmp_path)
        stores = [ResponseStore(Store(99, 10**9, path)) for _ in range(2)]
        for number, store in enumerate(stores):
            await store.put(response(f"before{number}"), [])
        with open(path, "r+b") as file:
            file.write(os.urandom(os.path.getsize(path)))
        for store in stores:
            for _ in range(2):
                with suppress(StoreUnavailableError):
                    await store.get("before0")
        for number, store in enumerate(stores):
            await store.put(response(f"after{number}"), [])
        for store in stores:
            assert [await store.get(f"after{number}") is not None for number in range(2)] == [True, True]

    asyncio.run(run())


def test_a_killed_process_leaves_a_whole_file(tmp_path: Path) -> None:
    path = create_store_file(tmp_path)

    def die() -> None:
        store = Store(99, 10**9, path)
        with store._transaction("IMMEDIATE") as db:
            db.execute("PRAGMA cache_size = 1")  # so that pages are written before the end
            db.execute("UPDATE responses SET response = ZEROBLOB(1000000)")
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(ResponseStore(Store(99, 10**9, path)).put(response("whole"), []))
    with pytest.raises(AssertionError):
        in_child(die)
    store = ResponseStore(Store(99, 10**9, path))
    assert json.loads(asyncio.run(store.get("whole")) or b"") == response("whole")


def test_one_larger_than_all_that_is_kept_takes_no_others_place(engine: FakeEngine) -> None:
    app = build_app(engine, ServerSettings(max_stored_response_bytes=6000))
    with serving_app(app) as url, httpx2.Client(base_url=url) as client:
        kept = client.post("/v1/responses", json={"input": "Hi"}).json()
        told = client.post(
            "/v1/responses",
            json={
                "input": "Hi",
                "instructions": "x " * 200,
                "user": "y" * 60,
                "metadata": {str(n): "z" * 500 for n in range(16)},
            },
        )
        assert told.status_code == 200, told.text
        assert told.json()["store"] is False
        assert "--max-stored-response-bytes" in told.headers["x-dovetail-notice"]
        assert client.get(f"/v1/responses/{kept['id']}").status_code == 200
