"""Tells the user's Ctrl-C from a ``KeyboardInterrupt`` that a plugin raises itself, which is a fault like any other.

Python raises the same exception for both. Only the signal's handler knows that there was a signal, so it takes a note.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class _State:
    """Of the main thread, the only one that signals interrupt."""

    watching = False
    pressed = False
    handled = False


@contextmanager
def watch_interrupts() -> Iterator[None]:
    """While plugins' code runs: note whether the user presses Ctrl-C. The handler that was there is called as usual.

    Raises:
        KeyboardInterrupt: the user pressed it, and the plugin's code swallowed the exception.
    """
    handler = signal.getsignal(signal.SIGINT)
    # A handler that was not installed from Python could not be restored.
    if threading.current_thread() is not threading.main_thread() or _State.watching or handler is None:
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        _State.pressed = True
        if callable(handler):
            handler(number, frame)

    _State.watching, _State.pressed = True, False
    if callable(handler):  # otherwise the signal is ignored, or ends the process at once
        signal.signal(signal.SIGINT, note)
    try:
        yield
        raise_if_pressed()
    finally:
        _State.watching = _State.pressed = False
        signal.signal(signal.SIGINT, handler)


def is_interrupt(error: BaseException) -> bool:
    """Whether an exception is the user's Ctrl-C. Where nobody watches, every ``KeyboardInterrupt`` of the main thread
    is taken for it, unless signals raise nothing there (:func:`set_handled`).
    """
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    if _State.handled:
        return False
    return _State.pressed or not _State.watching


def set_handled(handled: bool) -> None:
    """Say whether Ctrl-C raises nothing: it has a handler of its own, as in a server, or is ignored, as in an engine's
    process.
    """
    _State.handled = handled


def raise_if_pressed() -> None:
    """
    Raises:
        KeyboardInterrupt: the user has pressed Ctrl-C since :func:`watch_interrupts` began, whatever became of the
            exception.
    """
    if _State.pressed and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def was_pressed() -> bool:
    """Whether the user has pressed Ctrl-C since :func:`watch_interrupts` began."""
    return _State.pressed


def reraise_interrupt(error: BaseException) -> None:
    """
    Raises:
        KeyboardInterrupt: the error is the user's Ctrl-C. To be called first in an ``except BaseException`` about a
            plugin's code.
    """
    if is_interrupt(error):
        raise error
