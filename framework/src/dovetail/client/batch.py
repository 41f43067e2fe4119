"""Runs a batch of requests with an HTTP client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx2
import msgspec

from dovetail.client.batch_file import BatchOutput, BatchRequest, Fault, answer_entry, error_entry, is_success
from dovetail.client.http import ClientError, shorten

BUSY = (429, 503)
"""Statuses after which a retry may succeed."""
ATTEMPTS = 3
"""Maximum number of attempts for a line, if the server fails without a Retry-After."""
PAUSE_SECONDS = 1.0
MAX_WAIT_SECONDS = 600.0
"""Maximum total waiting time of a line, if the server sends Retry-After: as long as reloading a large model takes."""
SHOWN_FAULTS = 5


@dataclass
class Tally:
    """Results of the lines so far.

    Attributes:
        faults: the first failures, as text.
    """

    served: int = 0
    failed: int = 0
    faults: list[str] = field(default_factory=list)

    def fail(self, number: int, reason: str) -> None:
        self.failed += 1
        if len(self.faults) < SHOWN_FAULTS:
            self.faults.append(f"line {number}: {shorten(reason)}")


class Batch:
    """Sends requests, several at a time, and writes the results in the order in which they arrive.

    Args:
        client: its base URL is the server's root.
        output: receives the entries.
        tally: is updated.
        progress: called after each line.
    """

    def __init__(
        self, client: httpx2.AsyncClient, output: BatchOutput, tally: Tally, progress: Callable[[], object]
    ) -> None:
        self.client = client
        self.output = output
        self.tally = tally
        self.progress = progress

    async def run(self, requests: Iterator[BatchRequest | Fault], concurrency: int) -> None:
        """Run all requests. If cancelled, finished entries stay in the output.

        Raises:
            ClientError: there is no server, or none any more.
            DovetailError: the output cannot be written.
        """

        async def work() -> None:
            for request in requests:  # shared: each takes what comes next
                await self._serve(request)
                self.progress()

        workers = [asyncio.create_task(work()) for _ in range(concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _serve(self, request: BatchRequest | Fault) -> None:
        answer = request if isinstance(request, Fault) else await self._fetch_answer(request)
        if isinstance(answer, Fault):
            self.output.add(error_entry(answer))
            self.tally.fail(answer.number, answer.message)
            return
        assert isinstance(request, BatchRequest)
        status = answer.status_code
        try:
            entry = answer_entry(request, status, answer.headers.get("x-request-id"), answer.content)
        except msgspec.MsgspecError:
            message = f"the answer, with status {status}, is not JSON"
            self.output.add(error_entry(Fault(request.number, request.custom_id, "invalid_answer", message)))
            self.tally.fail(request.number, message)
            return
        self.output.add(entry)
        if is_success(status):
            self.tally.served += 1
        else:
            self.tally.fail(request.number, f"status {status}: {_message(answer)}")

    async def _fetch_answer(self, request: BatchRequest) -> httpx2.Response | Fault:
        try:
            answer = await self._send(request)
        except httpx2.ConnectError as error:
            raise ClientError(f"no server answers at {self.client.base_url} ({error})") from None
        except httpx2.TransportError as error:
            reason = str(error) or type(error).__name__
            return Fault(request.number, request.custom_id, "connection_error", f"the connection failed: {reason}")
        if answer.status_code == 503:
            raise ClientError(f"the server serves no more: {_message(answer)}")
        return answer

    async def _send(self, request: BatchRequest) -> httpx2.Response:
        """The response to a line, with retries as long as they are useful."""
        attempts, waited = 0, 0.0
        while True:
            attempts += 1
            pause = PAUSE_SECONDS
            try:
                answer = await self.client.post(
                    request.url, content=request.body, headers={"Content-Type": "application/json"}
                )
            except httpx2.TransportError:
                if attempts >= ATTEMPTS:
                    raise
            else:
                asked = _retry_after(answer)
                tired = waited >= MAX_WAIT_SECONDS if asked is not None else attempts >= ATTEMPTS
                if answer.status_code not in BUSY or tired:
                    return answer
                pause = PAUSE_SECONDS if asked is None else asked
            await asyncio.sleep(pause)
            waited += pause


def _retry_after(answer: httpx2.Response) -> float | None:
    with contextlib.suppress(ValueError):  # it may also be a date, which servers of models do not send
        return max(float(answer.headers.get("retry-after", "")), PAUSE_SECONDS)
    return None


def _message(answer: httpx2.Response) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return shorten(str(answer.json()["error"]["message"]))
    return shorten(answer.reason_phrase or answer.text[:200])
