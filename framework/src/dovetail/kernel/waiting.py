"""Tells which plugin a command is waiting for, where its code does not return: an import that asks a network, a probe that
asks a device, a regular expression that backtracks for ever.

Nothing is ended: what is slow may still arrive, and the user can press Ctrl-C.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from types import FrameType, TracebackType

from dovetail.api.text import one_line
from dovetail.kernel.blame import FRAMEWORK, Blamed
from dovetail.kernel.interrupts import is_interrupt, was_pressed

SECONDS = 5.0
"""How long a plugin's code may take before the user is told."""


class Wait:
    """A context manager for a call of one plugin's code; see :func:`wait_for`."""

    __slots__ = ("_alarmed", "_since", "part", "told", "what")

    def __init__(self, part: Blamed, what: str) -> None:
        self.part, self.what = part, what

    def __enter__(self) -> None:
        self.told, self._since = False, time.monotonic()
        self._alarmed = not _waits and _set_alarm()
        _watch(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _waits.remove(self)
        if self._alarmed:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if self.told and error is not None and (is_interrupt(error) or was_pressed()):
            self.tell()  # what the user did not want to wait for any longer

    @property
    def left(self) -> float:
        """Seconds until the user is to be told."""
        return self._since + SECONDS - time.monotonic()

    def tell(self) -> None:
        self.told = True
        passed = time.monotonic() - self._since
        line = f"waiting for the {self.part}: {self.what} has not returned after {passed:.0f} s"
        if self.part.distribution not in ("", FRAMEWORK):
            line += f"; leave it out with --plugins=-{self.part.distribution}"
        # The stream may be closed or full, or the main thread may be writing to it where the alarm stopped it.
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            print(one_line(line, 400), file=sys.stderr, flush=True)


def wait_for(part: Blamed, what: str) -> Wait:
    """Call a plugin's code within this. If it has not returned after :data:`SECONDS`, a line on standard error says so,
    and says it again if the user then presses Ctrl-C.

    Args:
        what: was called, such as ``its import``. Only what takes a moment wherever it works: no download, for one.
    """
    return Wait(part, what)


_waits: list[Wait] = []
_lock = threading.Lock()
_watcher: threading.Thread | None = None


def _watch(wait: Wait) -> None:
    """One thread watches all calls. It ends when it finds none, so a process that is done with plugins has none."""
    global _watcher
    with _lock:
        _waits.append(wait)
        if _watcher is None or not _watcher.is_alive():  # it is not alive in a forked process
            _watcher = threading.Thread(target=_run_watcher, name="dovetail-waiting", daemon=True)
            _watcher.start()


def _run_watcher() -> None:
    global _watcher
    while True:
        with _lock:
            if not _waits:
                _watcher = None
                return
        _tell_overdue()
        # A call that begins meanwhile is due later than this.
        left = min((wait.left for wait in tuple(_waits) if not wait.told), default=SECONDS)
        time.sleep(max(left, 0))


def _tell_overdue() -> None:
    for wait in tuple(_waits):  # others may begin and end
        if not wait.told and wait.left <= 0:
            wait.tell()


# A regular expression keeps the interpreter to itself: no other thread runs, but handlers of signals do. So there is also
# a timer of the processor time that the process uses. One of the clock's would end system calls of those that wait.
_handled = False
"""Whether the timer's signal has our handler. It is left there, since to change it takes longer than all the rest."""


def _set_alarm() -> bool:
    """Set the timer. Returns False where there is none, or where someone else uses it."""
    global _handled
    if not hasattr(signal, "SIGVTALRM") or threading.current_thread() is not threading.main_thread():
        return False
    if signal.getitimer(signal.ITIMER_VIRTUAL)[0]:
        return False
    if not _handled:
        if signal.getsignal(signal.SIGVTALRM) is not signal.SIG_DFL:
            return False
        signal.signal(signal.SIGVTALRM, _on_alarm)
        _handled = True
    # Again if several threads used it up earlier.
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, SECONDS / 5)
    return True


def _on_alarm(number: int, frame: FrameType | None) -> None:
    _tell_overdue()
