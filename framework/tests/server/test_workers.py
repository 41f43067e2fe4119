"""Threads for slow work: bulk work delays no small work, and what nobody waits for is not done."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

import pytest

from dovetail.server import workers
from dovetail.server.workers import BULK_THREADS, SMALL_BYTES, Workers

LARGE = SMALL_BYTES + 1
name: ContextVar[str] = ContextVar("name")


def test_small_work_passes_bulk_work() -> None:
    async def run() -> None:
        pool, gate = Workers(), threading.Event()
        bulk = [asyncio.create_task(pool.run(gate.wait, LARGE)) for _ in range(2 * BULK_THREADS)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(pool.run(lambda: 5), 10) == 5
        assert not any(task.done() for task in bulk)
        gate.set()
        assert await asyncio.gather(*bulk) == [True] * len(bulk)

    asyncio.run(run())


def test_work_that_was_cancelled_before_it_began_is_not_done() -> None:
    async def run() -> None:
        pool, gate, done = Workers(), threading.Event(), []
        held = [asyncio.create_task(pool.run(gate.wait, LARGE)) for _ in range(BULK_THREADS)]
        dropped = asyncio.create_task(pool.run(lambda: done.append("dropped"), LARGE))
        await asyncio.sleep(0.01)
        dropped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dropped
        gate.set()
        await asyncio.gather(*held, pool.run(lambda: done.append("kept"), LARGE))
        assert done == ["kept"]

    asyncio.run(run())


def test_lists_are_worked_on_in_pieces_and_can_be_left() -> None:
    async def run() -> None:
        pool, done = Workers(), []
        size = workers.PIECE_BYTES // 2
        items = list(range(9))
        assert await pool.map(lambda item: item * 2, items, [size] * 9) == [item * 2 for item in items]
        assert await pool.map(lambda item: item, [], []) == []
        gate = threading.Event()

        def work(item: int) -> None:
            done.append(item)
            gate.wait(10)

        task = asyncio.create_task(pool.map(work, items, [size] * 9))
        while not done:
            await asyncio.sleep(0.001)
        task.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await pool.run(lambda: None, LARGE)
        assert len(done) <= 2  # those of the piece that had begun

    asyncio.run(run())


def test_work_sees_the_request_that_it_belongs_to() -> None:
    async def run() -> None:
        pool = Workers()
        name.set("a")
        assert await asyncio.gather(pool.run(name.get), pool.run(name.get, LARGE)) == ["a", "a"]

    asyncio.run(run())


def test_memory_is_given_back_after_large_work_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(workers, "release_free_memory", lambda: calls.append(threading.current_thread().name))

    async def run() -> None:
        pool = Workers()
        await pool.run(lambda: None)
        await pool.run(lambda: None, workers.TRIM_BYTES)
        assert not calls
        await pool.run(lambda: None, workers.TRIM_BYTES + 1)

    asyncio.run(run())
    (thread,) = calls
    assert "bulk" in thread


def test_memory_is_given_back() -> None:
    workers.release_free_memory()
