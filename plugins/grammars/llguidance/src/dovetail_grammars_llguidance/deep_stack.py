"""Runs llguidance's parsers with a large stack and a time limit, so that deeply nested or slow input cannot crash or
block the process.

The parsers recurse over rules and references without a limit: with the usual 8 MiB of stack, 3,000 JSON definitions in
a chain or 5,000 rules crash the whole process. Accepted texts (see :mod:`.sources`) need less than 300 MiB, and stack
memory is only allocated when it is used.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from dovetail.api import RequestError
from dovetail_grammars_llguidance.panics import panics_as_errors

T = TypeVar("T")

STACK_BYTES = 512 << 20
START_ATTEMPTS = 100
MAX_RUNAWAYS = 2
"""Maximum number of calls that have exceeded their time. With this many, no new call starts, so that they cannot
occupy every core.
"""

_lock = threading.Lock()
_runaways: set[threading.Thread] = set()


def run_on_deep_stack(function: Callable[[], T], limit_s: float, param: str) -> T:
    """Call a function in its own thread, with a large stack.

    Args:
        function: spends its time in code that releases the GIL.
        limit_s: seconds to wait for it. It cannot be stopped: after this time it continues alone, and its result is
            dropped.
        param: of the request, for the error.

    Raises:
        RequestError: it takes longer, it panics, or too many earlier calls still run.
    """
    answer: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            with panics_as_errors():
                answer.append(function())
        except BaseException as error:  # handed to the caller
            raised.append(error)

    if _count_runaways() >= MAX_RUNAWAYS:
        raise RequestError(
            "grammars that take too long are still being compiled", "try again later, with a simpler one", param=param
        )
    thread = _start(run)
    thread.join(limit_s)
    if thread.is_alive():
        with _lock:
            _runaways.add(thread)
        raise RequestError(
            f"the grammar does not compile within {limit_s:g} s", "make it simpler or smaller", param=param
        )
    if raised:
        raise raised[0]
    return answer[0]


def _count_runaways() -> int:
    with _lock:
        _runaways.difference_update([thread for thread in _runaways if not thread.is_alive()])
        return len(_runaways)


def _start(run: Callable[[], Any]) -> threading.Thread:
    with _lock:  # the size is a setting of the whole process, read when a thread starts
        before = threading.stack_size(STACK_BYTES)
        try:
            for attempt in range(START_ATTEMPTS):
                thread = threading.Thread(target=run, name="llguidance", daemon=True)
                try:
                    thread.start()
                    return thread
                except RuntimeError:  # of address space: the stack of the last thread is released after its end
                    if attempt == START_ATTEMPTS - 1:
                        raise MemoryError("no memory for a large stack") from None
                    time.sleep(0.01)
        finally:
            threading.stack_size(before)
    raise AssertionError
