"""Admission control: if too many sequences wait, a new request is refused with status 429."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dovetail.server.engine_protocol import ServedEngine
from dovetail.server.http.errors import queue_full_error
from dovetail.server.observe.counters import Counters, Gauge

WINDOW_SECONDS = 30.0
"""Time window, in seconds, over which the throughput is measured."""
MAX_RETRY_SECONDS = 120
"""The largest Retry-After in seconds. The current load says little about later."""


class Ticket:
    """The unfinished sequences of one request."""

    def __init__(self, sequences: int) -> None:
        self.num_open = sequences


class Admission:
    """Counts the sequences of admitted requests, and refuses a whole request if too many would wait.

    The engine's queue is in another process. The number of waiting sequences is computed from the sequences in flight,
    which are counted here, and the engine's newest statistics.

    Args:
        engine: whose limits and statistics are used.
        clock: seconds, monotonic.
        sequences: counts the sequences in flight, over all processes that serve the engine. By default the process has
            its own counter.
    """

    def __init__(
        self, engine: ServedEngine, clock: Callable[[], float] = time.monotonic, sequences: Gauge | None = None
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._end_times: deque[float] = deque()
        self._sequences = sequences or Counters.single_process().gauge()

    @property
    def in_flight(self) -> int:
        """Admitted sequences that have not ended, over all processes."""
        return int(self._sequences.value)

    @contextmanager
    def admit(self, sequences: int) -> Iterator[Ticket]:
        """Admit a request with this many sequences. They are counted until each has ended or the context exits.

        Raises:
            ApiError: 429; more than ``max_num_queued_requests`` would wait.
        """
        limit = self._engine.max_num_queued_requests
        # Without anything in flight even a request larger than the queue is let in: it would never find a better moment.
        if limit is not None and self.in_flight:
            excess = self._num_waiting() + sequences - limit
            if excess > 0:
                raise queue_full_error(limit, self._retry_after(excess))
        ticket = Ticket(sequences)
        self._sequences.inc(sequences)
        try:
            yield ticket
        finally:
            self._sequences.dec(ticket.num_open)
            ticket.num_open = 0

    def release(self, ticket: Ticket, sequences: int) -> None:
        """Stop counting this many finished sequences of a request."""
        ticket.num_open -= sequences
        self._sequences.dec(sequences)
        self._end_times.extend([self._clock()] * sequences)
        self._drop_old()

    def _num_waiting(self) -> int:
        """Number of waiting sequences. Negative: the number of free places."""
        stats = self._engine.stats
        running = stats.running if stats.waiting else self._engine.max_num_seqs
        return self.in_flight - running

    def _retry_after(self, excess: int) -> int:
        """Estimated seconds until this many sequences have ended."""
        self._drop_old()
        if not self._end_times:
            return 1
        rate = len(self._end_times) / max(self._clock() - self._end_times[0], 1.0)
        return min(max(math.ceil(excess / rate), 1), MAX_RETRY_SECONDS)

    def _drop_old(self) -> None:
        oldest = self._clock() - WINDOW_SECONDS
        while self._end_times and self._end_times[0] < oldest:
            self._end_times.popleft()
