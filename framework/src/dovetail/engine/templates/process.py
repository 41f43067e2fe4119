"""The process that runs chat templates: ``python -m dovetail.engine.templates.process MEMORY RESULT SECONDS``.

A template is a program, which may never end or fill memory, also inside of one call of a built-in function that no
signal interrupts. So it runs here, where it can be killed. Standard input is a socket, from which questions are read
and to which answers are written (:mod:`dovetail.engine.templates.calls`). The arguments are limits: bytes of memory
beside what the process has at its start, bytes of a rendered text, and seconds of processor time for a question.

The process imports little, so that it starts fast and is small. It ends with its parent.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import sys
import time
from typing import Any

from dovetail.api.errors import RequestError
from dovetail.engine.templates import calls
from dovetail.engine.templates.calls import Answer, Facts, Failed, RenderCall, Rendered, run_call
from dovetail.engine.templates.facts import find_facts

SOCKET = 0
PIECE = 1 << 20
KEEP_BYTES = 128 * 2**20
"""With more memory than this beside that of its start, the process ends after an answer, to give it back."""
SPARE_BYTES = 64 * 2**20
"""What may be used beside the limit to answer that the limit was reached."""
OFFSET_BYTES = 8
"""Most bytes of an offset in an answer."""
SHORTEN = "shorten the messages, or use a chat template that needs less"


class _Process:
    def __init__(self, memory_bytes: int, result_bytes: int, seconds: float) -> None:
        self._memory_bytes, self._result_bytes, self._seconds = memory_bytes, result_bytes, seconds
        self._templates: dict[int, str] = {}
        self._control_tokens: tuple[str, ...] = ()
        self._resident = _memory_pages()[1]
        self._allowed = (_memory_pages()[0] * resource.getpagesize()) + memory_bytes
        self._limit_memory()

    def serve(self) -> None:
        """Answer questions until the parent has closed the socket. An empty frame says that it can ask now."""
        _write(calls.READY)
        while (content := _read_frame()) is not None:
            kind, fields = calls.decode_question(content)
            del content
            if kind == calls.TOKENS:
                self._control_tokens = tuple(fields[0])
            elif kind == calls.TEMPLATE:
                self._templates[fields[0]] = fields[1]
            else:
                answer = self._answer(kind, fields)
                del fields
                _write(calls.encode_answer(answer))
                if answer.last:
                    return

    def _answer(self, kind: str, fields: list[Any]) -> Answer:
        self._limit_time()
        filled = False
        try:
            content = self._run(kind, fields)
        except RequestError as error:
            filled = isinstance(error.__cause__, MemoryError)
            content = Failed(error.problem, error.hint, error.param)
        except MemoryError:
            filled = True
        if filled:
            self._limit_memory(SPARE_BYTES)
            problem = f"the chat template needs more than {self._memory_bytes >> 20} MiB of memory for these messages"
            return Answer(Failed(problem, SHORTEN, "messages"), last=True)
        more = (_memory_pages()[1] - self._resident) * resource.getpagesize()
        return Answer(content, last=more > KEEP_BYTES)

    def _run(self, kind: str, fields: list[Any]) -> Rendered | Facts | Failed:
        template, *others = fields
        if isinstance(template, int):
            template = self._templates[template]
        if kind == calls.FACTS:
            facts = find_facts(template, *others)
            return Facts(facts.shows_tools, facts.system, facts.matches)
        prompt = run_call(RenderCall(template, *others), self._control_tokens)
        if len(prompt.text) <= self._result_bytes:
            text = prompt.text.encode("utf-8", "surrogatepass")
            if len(text) + OFFSET_BYTES * len(prompt.plain) <= self._result_bytes:
                return Rendered(text, prompt.plain)
        problem = f"the chat template makes a text of more than {self._result_bytes} bytes of these messages"
        return Failed(problem, SHORTEN, "messages")

    def _limit_memory(self, spare: int = 0) -> None:
        with contextlib.suppress(ValueError, OSError):  # not every system has this limit
            resource.setrlimit(resource.RLIMIT_AS, (self._allowed + spare, self._allowed + SPARE_BYTES))

    def _limit_time(self) -> None:
        """The parent kills this process in time. Where it has died, and this process is not told so, this limit is
        left.
        """
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        soft = math.ceil(time.process_time() + self._seconds) + 1
        if most == resource.RLIM_INFINITY or soft < most:
            resource.setrlimit(resource.RLIMIT_CPU, (soft, most))


def _memory_pages() -> tuple[int, int]:
    """Pages of address space, and those in memory; 0 on systems that do not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            size, resident, *_ = file.read().split()
    except OSError:
        return 0, 0
    return int(size), int(resident)


def _read_frame() -> bytes | None:
    """The content of the next frame; None at the end."""
    header = _read(calls.HEADER.size)
    return None if header is None else _read(calls.HEADER.unpack(header)[0])


def _read(size: int) -> bytes | None:
    pieces = []
    while size:
        piece = os.read(SOCKET, min(size, PIECE))
        if not piece:
            return None
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _write(frame: bytes) -> None:
    rest = memoryview(frame)
    while rest:
        rest = rest[os.write(SOCKET, rest) :]


def _isolate(parent: int) -> None:
    """Take from this process what templates do not need. It ends when its parent does, whatever it is doing."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent decides when it ends
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(0)


def main() -> None:
    memory_bytes, result_bytes, seconds, parent = sys.argv[1:]
    _isolate(int(parent))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent has ended, or waits no more
        _Process(int(memory_bytes), int(result_bytes), float(seconds)).serve()


if __name__ == "__main__":
    main()
