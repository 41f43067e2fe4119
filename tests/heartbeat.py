"""A client that asks a server every few milliseconds how it is, while others attack it."""

from __future__ import annotations

import http.client
import threading
import time
from types import TracebackType
from typing import Self

SECONDS = 0.01


class Heartbeat:
    """Asks for ``/health`` while it is entered.

    Attributes:
        worst: the longest that an answer took, in seconds.
        beats: number of answers.
        failure: what went wrong, if something did.
    """

    def __init__(self, url: str) -> None:
        self._address = url.removeprefix("http://")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.worst = 0.0
        self.beats = 0
        self.failure = ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(60)

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        while not self._over.wait(SECONDS):
            begun = time.monotonic()
            try:
                connection.request("GET", "/health")
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failure = repr(error)
                return
            self.worst = max(self.worst, time.monotonic() - begun)
            self.beats += 1
            if answer.status != 200:
                self.failure = f"/health answered {answer.status}"
