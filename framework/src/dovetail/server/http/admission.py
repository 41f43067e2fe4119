"""How many sequences may wait: past that, a new request is told to come back later instead of being queued."""

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
"""How far back the throughput is measured."""
MAX_RETRY_SECONDS = 120
"""The longest that a client is told to stay away: the load of the moment says little of what comes after."""


class Ticket:
    """The sequences of one request that have not ended."""

    def __init__(self, sequences: int) -> None:
        self.num_open = sequences


class Admission:
    """Counts the sequences of the requests that were let in, and refuses a request as a whole where too many wait.

    The engine's queue lives in another process, so that what waits there is worked out: from the sequences in flight, which are known
    here to the moment, and the engine's newest statistics.

    Args:
        engine: the engine, whose limits and statistics decide.
        clock: seconds, monotonic.
        sequences: counts those in flight, of all processes that serve the engine; one of its own by default.
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
        """Sequences of all processes that were let in and have not ended."""
        return int(self._sequences.value)

    @contextmanager
    def admit(self, sequences: int) -> Iterator[Ticket]:
        """Let in a request of so many sequences, and count them until each has ended or the context is left.

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
        """So many sequences of a request were finished."""
        ticket.num_open -= sequences
        self._sequences.dec(sequences)
        self._end_times.extend([self._clock()] * sequences)
        self._drop_old()

    def _num_waiting(self) -> int:
        """Sequences that wait; negative by the places that are free."""
        stats = self._engine.stats
        running = stats.running if stats.waiting else self._engine.max_num_seqs
        return self.in_flight - running

    def _retry_after(self, excess: int) -> int:
        """About how long until so many sequences have ended."""
        self._drop_old()
        if not self._end_times:
            return 1
        rate = len(self._end_times) / max(self._clock() - self._end_times[0], 1.0)
        return min(max(math.ceil(excess / rate), 1), MAX_RETRY_SECONDS)

    def _drop_old(self) -> None:
        oldest = self._clock() - WINDOW_SECONDS
        while self._end_times and self._end_times[0] < oldest:
            self._end_times.popleft()
