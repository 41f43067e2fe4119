"""Numbers that several API processes of one server count together: each writes a row of its own, and anybody adds the rows up.

A row is an array of float64 in shared memory, so that counting is an addition to a word that no other process writes: no locks, no
messages. Counters, gauges and histograms are given their slots in the order in which they are made, and every process makes the same
ones in the same order.
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
"""Slots of a row: 64 KiB, of which the system hands out only the pages that are touched."""
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
        self._gauges, self._others = 0, GAUGES
        self.clear_gauges(row)

    @classmethod
    def alone(cls) -> Counters:
        """For a server of one process."""
        return cls(mmap.mmap(-1, SLOTS * WORD), 0)

    @classmethod
    def create(cls, rows: int) -> Counters:
        """For a server of several processes; the creator has row 0, and needs not write it."""
        fd = _unnamed_file()
        os.ftruncate(fd, rows * SLOTS * WORD)
        return cls(mmap.mmap(fd, rows * SLOTS * WORD), 0, fd)

    @classmethod
    def open(cls, fd: int, row: int) -> Counters:
        """In a process that inherited ``fd``.

        Args:
            row: which no other living process writes. What a dead one counted there stays; what it had in flight is forgotten.
        """
        size = os.fstat(fd).st_size
        assert 0 <= row < size // (SLOTS * WORD), f"there is no row {row}"
        return cls(mmap.mmap(fd, size), row, fd)

    def clear_gauges(self, row: int) -> None:
        """Forget what was in flight in a process that has died."""
        first = row * SLOTS
        for slot in range(first, first + GAUGES):
            self._words[slot] = 0.0

    def counter(self) -> Counter:
        return Counter(self._words, self.row, self._take(1))

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
        return Histogram(self._words, self.row, self._take(len(bounds) + 2), bounds)

    def _take(self, count: int) -> int:
        slot = self._others
        assert slot + count <= SLOTS, "more counters than a row has slots"
        self._others += count
        return slot


class Counter:
    """Only grows."""

    __slots__ = ("_slot", "_summed", "_words")

    def __init__(self, words: memoryview[float], row: int, slot: int) -> None:
        self._words = words
        self._slot = row * SLOTS + slot
        self._summed = words[slot::SLOTS]

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
        self._first = row * SLOTS + slot
        self._sum = self._first + len(bounds) + 1
        self._rows = [words[start : start + len(bounds) + 2] for start in range(slot, len(words), SLOTS)]

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
