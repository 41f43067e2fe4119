"""Numbers that several API processes of one server count together: each writes a row of its own, and anybody adds the rows up.

A row is an array of float64 in shared memory, so that counting is an addition to a word that no other process writes: no locks, no
messages. Counters, gauges and histograms are given their slots in the order in which they are made, and every process makes the same
ones in the same order. What is only known once it occurs is found by a name, which is written into the row as well.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from bisect import bisect_left
from collections.abc import Sequence

GAUGES = 64
"""Slots at the head of a row for what goes up and down, which ends with the process."""
SLOTS = 8192
"""Slots of a row, names left out."""
NAMES = 8192
"""Words of names that follow them: 128 KiB in all, of which the system hands out only the pages that are touched."""
ROW = SLOTS + NAMES
WORD = 8


class Counters:
    """The rows, as the process sees them that writes one of them.

    Attributes:
        fd: the shared memory, for ``pass_fds``; None where no other process can open it.
        row: the one that is written here.
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
        """For a server of several processes; the creator has row 0, and needs not write it."""
        fd = _unnamed_file()
        os.ftruncate(fd, rows * ROW * WORD)
        return cls(mmap.mmap(fd, rows * ROW * WORD), 0, fd)

    @classmethod
    def open(cls, fd: int, row: int) -> Counters:
        """In a process that inherited ``fd``.

        Args:
            row: which no other living process writes. What a dead one counted there stays; what it had in flight is forgotten.
        """
        size = os.fstat(fd).st_size
        assert 0 <= row < size // (ROW * WORD), f"there is no row {row}"
        return cls(mmap.mmap(fd, size), row, fd)

    def clear_gauges(self, row: int) -> None:
        """Forget what was in flight in a process that has died."""
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
        """
        Args:
            bounds: upper ends of the buckets, ascending, without infinity.
        """
        return Histogram(self._words, self.row, self._allocate(len(bounds) + 2), bounds)

    def named_slots(self, name: str, width: int) -> memoryview[float] | None:
        """The slots of this row that have a name, new ones if it has none yet; None once there is no room."""
        if name not in self._named:
            slot, entry = self._lowest - width, f"{self._lowest - width} {width} {name}\n".encode()
            if slot < self._next_slot or not self._write_name(entry):
                return None
            self._lowest, self._named[name] = slot, (slot, width)
        slot, width = self._named[name]
        start = self.row * ROW + slot
        return self._words[start : start + width]

    def sum_named(self) -> dict[str, list[float]]:
        """Name → what all processes have in its slots, added up."""
        sums: dict[str, list[float]] = {}
        for row in range(len(self._words) // ROW):
            for name, (slot, width) in self._read_names(row).items():
                words = self._words[row * ROW + slot : row * ROW + slot + width]
                sums[name] = [a + b for a, b in zip(sums.get(name, [0.0] * width), words, strict=True)]
        return sums

    def _names(self, row: int) -> tuple[int, memoryview[int]]:
        """How many bytes of names there are, and where they stand."""
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
    """Only grows."""

    __slots__ = ("_slot", "_summed", "_words")

    def __init__(self, words: memoryview[float], row: int, slot: int) -> None:
        self._words = words
        self._slot = row * ROW + slot
        self._summed = words[slot::ROW]

    def inc(self, amount: float = 1.0) -> None:
        self._words[self._slot] += amount

    @property
    def value(self) -> float:
        """Of all processes."""
        return sum(self._summed)


class Gauge(Counter):
    """Goes up and down. What a process had of it is gone when the process is."""

    __slots__ = ()

    def dec(self, amount: float = 1.0) -> None:
        self._words[self._slot] -= amount


class Histogram:
    """Values counted by bucket, and their sum."""

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
        """One value, so many times."""
        words = self._words
        words[self._first + bisect_left(self.bounds, value)] += times
        words[self._sum] += value * times

    def counts(self) -> list[float]:
        """Of all processes: values in each bucket, and above the last."""
        return [sum(column) for column in zip(*(row[:-1] for row in self._rows), strict=True)]

    @property
    def sum(self) -> float:
        """Of all processes: the values' sum."""
        return sum(row[-1] for row in self._rows)


def _unnamed_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dovetail-counters")
    fd, path = tempfile.mkstemp(prefix="dovetail-")
    os.unlink(path)
    return fd
