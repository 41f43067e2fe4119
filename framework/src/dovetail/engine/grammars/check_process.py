"""Checks formats in processes of their own. Whatever a format costs, it can be ended, and takes neither the interpreter's
lock nor memory of the server with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dovetail.api.errors import PluginError, RequestError
from dovetail.api.grammar import GrammarSource
from dovetail.engine.grammars.check_child import MAX_BYTES, MAX_CPU_S
from dovetail.engine.grammars.checks import PARAM, as_text, build_grammar_source
from dovetail.engine.request.params import StructuredOutputs
from dovetail.python_path import child_environment, python_command

logger = logging.getLogger("dovetail.engine")

START_S = 60.0
QUICK_S = 0.5
"""A check that takes longer is started again in a lane of its own, so that it does not delay the others."""
SLOW_S = 30.0
"""Most time for a check there; on a quiet machine its time of the processor ends it long before."""
KEPT_ANSWERS = 1024


class CheckProcess:
    """A process that checks one format at a time; started when it is first needed, and again if it has ended.

    Args:
        target: the backend's ``validate_source``.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._child: subprocess.Popen[bytes] | None = None

    def check(self, source: GrammarSource, seconds: float) -> dict[str, Any]:
        """The child's answer.

        Raises:
            TimeoutError: it takes longer.
            RequestError: it takes more memory or time of the processor than a check may.
        """
        child = self._child or self._start()
        try:
            assert child.stdin is not None
            line = json.dumps({"kind": source.kind, "text": source.text})
            child.stdin.write(line.encode() + b"\n")
            child.stdin.flush()
            answer = _read_answer(child, seconds)
        except TimeoutError:
            self.close()
            raise
        except OSError:
            answer = None
        if answer is None:
            raise _death_error(self.close())
        if answer.get("last"):
            self.close()
        return answer

    def close(self) -> int:
        """End the process. Returns its exit code; 0 without one."""
        child, self._child = self._child, None
        if child is None:
            return 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            if child.poll() is None:
                child.wait(0.05)  # one that is ending anyway says why
        child.kill()
        code = child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return code

    def _start(self) -> subprocess.Popen[bytes]:
        command = python_command("-m", "dovetail.engine.grammars.check_child", self._target)
        # What a library writes of a panic is in the answer, and would be a page in the log for each request.
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment(RUST_BACKTRACE="0"),
        )
        try:
            ready = _read_answer(self._child, START_S)
        except TimeoutError:
            ready = None
        if ready is None:
            code = self.close()
            raise RequestError(f"the process that checks formats does not start (exit code {code})", param=PARAM)
        return self._child


class GrammarChecker:
    """Checks the formats of requests for coroutines: quick ones in two processes, and the others one by one in a third.

    Answers are remembered, so that a format that many requests have is checked once.

    Args:
        target: the backend's ``validate_source``.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._quick = ThreadPoolExecutor(2, thread_name_prefix="check-format")
        self._slow = ThreadPoolExecutor(1, thread_name_prefix="check-slow-format")
        self._local = threading.local()
        self._processes: list[CheckProcess] = []
        self._answers: OrderedDict[bytes, dict[str, Any]] = OrderedDict()

    async def write(self, params: StructuredOutputs) -> StructuredOutputs:
        """The format as text (see :func:`~dovetail.engine.grammars.checks.as_text`)."""
        return await asyncio.get_running_loop().run_in_executor(self._quick, as_text, params)

    async def check(self, params: StructuredOutputs) -> list[str]:
        """Check a format. If the task is cancelled while the check waits for its turn, it is dropped.

        Returns:
            The backend's notices.

        Raises:
            RequestError, PluginError: as in :func:`~dovetail.engine.grammars.checks.check_structured_outputs`.
        """
        loop = asyncio.get_running_loop()
        try:
            answer = await loop.run_in_executor(self._quick, self._check, params, QUICK_S)
        except TimeoutError:
            answer = await loop.run_in_executor(self._slow, self._check_slowly, params)
        if "notices" in answer:
            return list(answer["notices"])
        if answer.get("broken"):
            raise PluginError(answer["problem"], answer["hint"])
        raise RequestError(answer["problem"], answer["hint"], param=PARAM)

    def close(self) -> None:
        """End the threads and processes."""
        for pool in (self._quick, self._slow):
            pool.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.close()

    def _check(self, params: StructuredOutputs, seconds: float) -> dict[str, Any]:
        source = build_grammar_source(params)
        key = hashlib.sha256(f"{source.kind}:{source.text}".encode("utf-8", "surrogatepass")).digest()
        if (known := self._answers.get(key)) is not None:
            return known
        process = getattr(self._local, "process", None)
        if process is None:
            process = self._local.process = CheckProcess(self._target)
            self._processes.append(process)
        try:
            answer: dict[str, Any] = process.check(source, seconds)
        except RequestError as error:
            answer = {"problem": error.problem, "hint": error.hint}
        if (cause := answer.get("cause")) is not None:
            logger.error("the grammar backend's %s failed: %s", self._target, cause)
        self._answers[key] = answer
        while len(self._answers) > KEPT_ANSWERS:
            with contextlib.suppress(KeyError):  # two threads
                self._answers.popitem(last=False)
        return answer

    def _check_slowly(self, params: StructuredOutputs) -> dict[str, Any]:
        try:
            return self._check(params, SLOW_S)
        except TimeoutError:
            raise _too_long_error() from None


def _read_answer(child: subprocess.Popen[bytes], seconds: float) -> dict[str, Any] | None:
    """One line of a child; None if it has ended."""
    assert child.stdout is not None
    deadline = time.monotonic() + seconds
    told = b""
    while not told.endswith(b"\n"):
        # A poll, since file numbers of a server are often beyond what select() takes.
        poll = select.poll()
        poll.register(child.stdout, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        piece = os.read(child.stdout.fileno(), 1 << 16)
        if not piece:
            return None
        told += piece
    answer: dict[str, Any] = json.loads(told)
    return answer


def _death_error(code: int) -> RequestError:
    if code == -signal.SIGXCPU:
        return _too_long_error()
    return RequestError(
        f"checking the format takes more than {MAX_BYTES >> 20} MiB, or its checker failed (exit code {code})",
        "make it simpler or smaller",
        param=PARAM,
    )


def _too_long_error() -> RequestError:
    return RequestError(f"checking the format takes more than {MAX_CPU_S} s", "make it simpler or smaller", param=PARAM)
