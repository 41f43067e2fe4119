"""A process that runs chat templates, as the API process sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from dovetail.api.errors import RequestError
from dovetail.engine.templates import calls
from dovetail.engine.templates.calls import Answer
from dovetail.python_path import child_environment, python_command

START_SECONDS = 60
PIECE = 1 << 18
ANSWER_SPARE_BYTES = 1 << 20
"""What an answer may have beside its text."""
ENVIRONMENT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_TIME",
    "TZ",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSAFEPATH",
)
"""The variables that the process gets. Others may hold keys, which templates do not need."""


@dataclass(frozen=True)
class Limits:
    """Limits of one question.

    Attributes:
        seconds: until the answer.
        memory_bytes: beside what the process has at its start.
        result_bytes: of a rendered text.
    """

    seconds: float
    memory_bytes: int
    result_bytes: int


class TemplateChild:
    """A process that runs chat templates, one after the other. The constructor starts it.

    It must be made in a thread that lives as long as the process is needed, such as the event loop's: on Linux the
    process ends with this thread.

    Attributes:
        uses: number of questions so far.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        arguments = (limits.memory_bytes, limits.result_bytes, limits.seconds, os.getpid())
        command = python_command("-m", "dovetail.engine.templates.process", *map(str, arguments))
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={name: value for name, value in child_environment().items() if name in ENVIRONMENT},
                start_new_session=True,  # Ctrl+C is for the parent, which decides when it ends
            )
        self._told: set[int] = set()
        self._knows_tokens = False
        self._leaves = self._busy = self._started = False
        self.uses = 0

    @property
    def usable(self) -> bool:
        """Whether it can be asked again."""
        return not self._leaves and not self.ended

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    async def wait_until_ready(self) -> None:
        """Wait until it has started, which takes a fraction of a second.

        Raises:
            RuntimeError: it has ended.
        """
        if self._started:
            return
        self._busy = True
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._receive(asyncio.get_running_loop())
        except (OSError, EOFError):  # which a TimeoutError is, too
            raise RuntimeError("the process that runs chat templates did not start") from None
        finally:
            self._busy = False
        self._started = True

    async def ask(
        self, kind: str, template: str, *fields: object, key: int | None = None, control_tokens: Sequence[str] = ()
    ) -> Answer:
        """Ask one question, and wait for its answer, however long it takes. The process must be ready.

        Args:
            kind: :data:`~dovetail.engine.templates.calls.FACTS` or ``RENDER``.
            key: a number for the template, if it will be used again. The process remembers it.
            control_tokens: always the same.

        Raises:
            RequestError: the process died of the template, or the question cannot be sent.
            RuntimeError: the process failed.
        """
        frames = []
        if control_tokens and not self._knows_tokens:
            frames.append(calls.encode_question(calls.TOKENS, list(control_tokens)))
        if key is not None and key not in self._told:
            frames.append(calls.encode_question(calls.TEMPLATE, key, template))
        try:
            frames.append(calls.encode_question(kind, template if key is None else key, *fields))
        except ValueError as error:
            raise RequestError(f"the chat template cannot be given these messages: {error}", param="messages") from None
        self._busy = True
        self.uses += 1
        try:
            return await self._exchange(b"".join(frames))
        finally:
            self._busy = False
            if control_tokens:
                self._knows_tokens = True
            if key is not None:
                self._told.add(key)

    async def _exchange(self, frames: bytes) -> Answer:
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(self._socket, frames)
            answer = calls.decode_answer(await self._receive(loop))
        except (OSError, EOFError):
            raise await self._explain_death() from None
        except msgspec.MsgspecError as error:
            raise RuntimeError(f"the process that runs chat templates gave no answer: {error}") from None
        self._leaves = answer.last
        return answer

    async def _receive(self, loop: asyncio.AbstractEventLoop) -> bytes:
        received = bytearray()
        size = calls.HEADER.size
        while len(received) < size:
            piece = await loop.sock_recv(self._socket, PIECE)
            if not piece:
                raise EOFError
            received += piece
            if size == calls.HEADER.size and len(received) >= size:
                size += calls.HEADER.unpack_from(received)[0]
                if size > self._limits.result_bytes + ANSWER_SPARE_BYTES:
                    raise RuntimeError(f"the process that runs chat templates announced an answer of {size} bytes")
        return bytes(received[calls.HEADER.size :])

    async def _explain_death(self) -> Exception:
        """Why the process has closed its socket."""
        code = await asyncio.get_running_loop().run_in_executor(None, self._process.wait)
        if code >= 0:
            return RuntimeError(f"the process that runs chat templates ended with code {code}")
        name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
        return RequestError(
            f"the process that ran the chat template died of it ({name})",
            "shorten the messages, or use another chat template",
            param="messages",
        )

    def kill(self) -> None:
        """Kill the process. Does not wait for its end, of which a question learns that still waits for its answer."""
        self._process.kill()
        if not self._busy:
            self._socket.close()

    def wait(self) -> None:
        """Wait until the process has ended, after :meth:`kill`."""
        self._process.wait()
        self._socket.close()
