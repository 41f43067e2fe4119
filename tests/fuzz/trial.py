"""Trials of foreign input: each runs in a process of its own, with limits of time and memory.

A trial ends well (``None``), or with an error that a user can act on. Anything else is a finding: a traceback, a plugin
or Dovetail blamed for what a file says, a message of several lines or with control characters, too much time or memory.
"""

from __future__ import annotations

import gc
import os
import pickle
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dovetail.api.errors import DovetailError, PluginError

SECONDS = 5.0
"""Most time for one trial, on a quiet machine."""
MEGABYTES = 500
"""Most memory that one trial may take beside what the process had."""
BLAME = (
    "report it",
    "its authors",
    "leave it out with --plugins",
    "Traceback (most recent call last)",
    "bug in Dovetail",
)
"""Words that send a user with a damaged file to somebody who cannot help."""
MAX_MESSAGE = 1500
"""Most characters of a message: one that quotes a whole file helps nobody."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        problem: what is wrong with it, as a test's message; None if nothing is.
        message: the error that the user would see; None if there was none.
        megabytes: the most memory in use, beside what the process had before.
    """

    problem: str | None
    message: str | None
    seconds: float
    megabytes: float


def run_trial(work: Callable[[], Any], seconds: float = SECONDS, megabytes: float = MEGABYTES) -> Outcome:
    """Run some work in a copy of this process (``fork``), which ends with it.

    What was imported and loaded before is there for each trial, so that one costs milliseconds. No thread of this
    process may hold a lock: load with one thread, and start none before.

    Args:
        work: what is tried. It may end with a :class:`~dovetail.api.errors.DovetailError`.
    """
    receive, send = os.pipe()
    sys.stdout.flush()
    started = time.monotonic()
    gc.freeze()  # or the child would copy every page that its collector looks at
    child = os.fork()
    if child == 0:
        os.close(receive)
        _run_and_exit(work, send)
    gc.unfreeze()
    os.close(send)
    try:
        told, in_time = _read_until(receive, started + seconds)
    finally:
        os.close(receive)
        os.kill(child, signal.SIGKILL)  # it is a zombie, if it has ended
    _, status = os.waitpid(child, 0)
    took = time.monotonic() - started
    if not in_time:
        return Outcome(f"it took more than {seconds} s", None, took, 0)
    if not told:
        return Outcome(f"the process died ({status=})", None, took, 0)
    kind, message, trace, used = pickle.loads(told)
    problem = _find_problem(kind, message, trace)
    if problem is None and used > megabytes:
        problem = f"it took {used:.0f} MB"
    return Outcome(problem, message, took, used)


def _run_and_exit(work: Callable[[], Any], send: int) -> None:
    kind, message, trace = "", None, ""
    try:
        _quiet()
        before = _resident_bytes()
        # A mistake of ours must not fill the machine: what is beyond is a MemoryError, and a finding.
        space = _address_space() + 8 * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (space, space))
        try:
            work()
        except PluginError as error:
            kind, message = "blame", str(error)
        except DovetailError as error:
            kind, message = "told", str(error)
        except BaseException as error:
            kind, message, trace = "traceback", repr(error)[:500], traceback.format_exc()[-3000:]
        used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 2**20
        with os.fdopen(send, "wb") as file:
            file.write(pickle.dumps((kind, message, trace, used)))
    finally:
        os._exit(0)


def _quiet() -> None:
    """What a trial prints or logs is not the test's."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _read_until(file: int, deadline: float) -> tuple[bytes, bool]:
    told = b""
    while True:
        if not select.select([file], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return told, False
        piece = os.read(file, 1 << 16)
        if not piece:
            return told, True
        told += piece


def _find_problem(kind: str, message: str | None, trace: str) -> str | None:
    if kind == "traceback":
        return f"a traceback: {trace}"
    if message is None:
        return None
    if kind == "blame" or any(words in message for words in BLAME):
        return f"somebody is blamed for what a file says: {message!r}"
    if len(message.splitlines()) > 1 or not all(character.isprintable() for character in message):
        return f"more than a line, or control characters: {message!r}"
    if len(message) > MAX_MESSAGE:
        return f"{len(message)} characters: {message[:200]!r}…"
    return None
