"""Counters in shared memory, for all API processes of a server: each process writes its own row; readers add up all
rows.

A row is an array of float64. Counting is an addition to a word that no other process writes, so it needs no locks and
no messages. Counters, gauges and histograms get their slots in the order in which they are created, and every process
creates the same ones in the same order. Slots for values that are not known at start-up (such as routes) have a name,
which is stored in the row.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from bisect import bisect_left
from collections.abc import Sequence

GAUGES = 64
"""Slots at the head of a row for gauges. They are cleared when the process ends."""
SLOTS = 8192
"""Slots of a row, without the names."""
NAMES = 8192
"""Words for names after the slots: 128 KiB. The system only allocates the pages that are used."""
ROW = SLOTS + NAMES
WORD = 8


class Counters:
    """All rows, seen by the process that writes one of them.

    Attributes:
        fd: the shared memory, for ``pass_fds``; None if no other process can open it.
        row: the row of this process.
    """

    def __init__(self, memory: mmap.mmap, row: int, fd: int | None = None) -> None:
        self.fd = fd
        self.row = row
        self._memory = memory
        self._words = memoryview(memory).cast("d")
        self._bytes = memoryview(memory)
        self._gauges, self._next_slot = 0, GAUGES + 1
        self.clear_gauges(row)
        self._named = self._read_names(row)
        self._lowest = min((slot for slot, _ in self._named.values()), default=SLOTS)

    @classmethod
    def single_process(cls) -> Counters:
        """For a server of one process."""
        return cls(mmap.mmap(-1, ROW * WORD), 0)

    @classmethod
    def create(cls, rows: int) -> Counters:
        """For a server of several processes. The creator has row 0, and need not write it."""
        fd = _unnamed_file()
        os.ftruncate(fd, rows * ROW * WORD)
        return cls(mmap.mmap(fd, rows * ROW * WORD), 0, fd)

    @classmethod
    def open(cls, fd: int, row: int) -> Counters:
        """Open the counters in a process that inherited ``fd``.

        Args:
            row: a row that no other living process writes. Counters of a dead process stay in it; its gauges are
                cleared.
        """
        size = os.fstat(fd).st_size
        assert 0 <= row < size // (ROW * WORD), f"there is no row {row}"
        return cls(mmap.mmap(fd, size), row, fd)

    def clear_gauges(self, row: int) -> None:
        """Clear the gauges of a process that has died."""
        first = row * ROW
        for slot in range(first, first + GAUGES):
            self._words[slot] = 0.0

    def counter(self) -> Counter:
        return Counter(self._words, self.row, self._allocate(1))

    def gauge(self) -> Gauge:
        slot = self._gauges
        assert slot < GAUGES, "more gauges than a row has slots for them"
        self._gauges += 1
        return Gauge(self._words, self.row, slot)

    def histogram(self, bounds: Sequence[float]) -> Histogram:
        """Create a histogram.

        Args:
            bounds: upper bounds of the buckets, ascending, without infinity.
        """
        return Histogram(self._words, self.row, self._allocate(len(bounds) + 2), bounds)

    def named_slots(self, name: str, width: int) -> memoryview[float] | None:
        """The slots of this name in this row. They are allocated if the name is new; None if there is no room."""
        if name not in self._named:
            slot, entry = self._lowest - width, f"{self._lowest - width} {width} {name}\n".encode()
            if slot < self._next_slot or not self._write_name(entry):
                return None
            self._lowest, self._named[name] = slot, (slot, width)
        slot, width = self._named[name]
        start = self.row * ROW + slot
        return self._words[start : start + width]

    def sum_named(self) -> dict[str, list[float]]:
        """Name → the sums of its slots over all processes."""
        sums: dict[str, list[float]] = {}
        for row in range(len(self._words) // ROW):
            for name, (slot, width) in self._read_names(row).items():
                words = self._words[row * ROW + slot : row * ROW + slot + width]
                sums[name] = [a + b for a, b in zip(sums.get(name, [0.0] * width), words, strict=True)]
        return sums

    def _names(self, row: int) -> tuple[int, memoryview[int]]:
        """The length of the names in bytes, and where they are."""
        start = (row * ROW + SLOTS) * WORD
        return int(self._words[row * ROW + GAUGES]), self._bytes[start : start + NAMES * WORD]

    def _read_names(self, row: int) -> dict[str, tuple[int, int]]:
        length, text = self._names(row)
        entries = (line.split(" ", 2) for line in bytes(text[:length]).decode().split("\n")[:-1])
        return {name: (int(slot), int(width)) for slot, width, name in entries}

    def _write_name(self, entry: bytes) -> bool:
        length, text = self._names(self.row)
        if length + len(entry) > len(text):
            return False
        text[length : length + len(entry)] = entry
        self._words[self.row * ROW + GAUGES] = length + len(entry)  # last: up to there readers may read
        return True

    def _allocate(self, count: int) -> int:
        slot = self._next_slot
        assert slot + count <= self._lowest, "more counters than a row has slots"
        self._next_slot += count
        return slot


class Counter:
    """A number that only grows."""

    __slots__ = ("_slot", "_summed", "_words")

    def __init__(self, words: memoryview[float], row: int, slot: int) -> None:
        self._words = words
        self._slot = row * ROW + slot
        self._summed = words[slot::ROW]

    def inc(self, amount: float = 1.0) -> None:
        self._words[self._slot] += amount

    @property
    def value(self) -> float:
        """The sum over all processes."""
        return sum(self._summed)


class Gauge(Counter):
    """A number that goes up and down. The share of a process is dropped when the process ends."""

    __slots__ = ()

    def dec(self, amount: float = 1.0) -> None:
        self._words[self._slot] -= amount


class Histogram:
    """Counts of values by bucket, and the sum of the values."""

    __slots__ = ("_first", "_rows", "_sum", "_words", "bounds")

    def __init__(self, words: memoryview[float], row: int, slot: int, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._words = words
        self._first = row * ROW + slot
        self._sum = self._first + len(bounds) + 1
        self._rows = [words[start : start + len(bounds) + 2] for start in range(slot, len(words), ROW)]

    def observe(self, value: float) -> None:
        words = self._words
        words[self._first + bisect_left(self.bounds, value)] += 1.0
        words[self._sum] += value

    def observe_many(self, value: float, times: int) -> None:
        """Observe one value several times."""
        words = self._words
        words[self._first + bisect_left(self.bounds, value)] += times
        words[self._sum] += value * times

    def counts(self) -> list[float]:
        """Values in each bucket and above the last one, over all processes."""
        return [sum(column) for column in zip(*(row[:-1] for row in self._rows), strict=True)]

    @property
    def sum(self) -> float:
        """The sum of the values, over all processes."""
        return sum(row[-1] for row in self._rows)


def _unnamed_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dovetail-counters")
    fd, path = tempfile.mkstemp(prefix="dovetail-")
    os.unlink(path)
    return fd
