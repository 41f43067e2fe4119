"""Whose ``KeyboardInterrupt`` it is: the user's, or one that a plugin raised."""

from __future__ import annotations

import signal
import threading

import pytest

from dovetail.api import PluginError
from dovetail.kernel.blame import blame
from dovetail.kernel.interrupts import is_interrupt, set_handled, watch_interrupts
from dovetail.kernel.plan_parts import Part

PART = Part(kind="tool_parser", name="nut", distribution="broken-nut", version="3.1", target="nut:Parser")


def test_where_nobody_watches_it_is_the_user_s() -> None:
    assert is_interrupt(KeyboardInterrupt())
    assert not is_interrupt(RuntimeError())


@pytest.mark.usefixtures("interruptible")
def test_while_somebody_watches_the_signal_decides() -> None:
    def swallow() -> None:
        with watch_interrupts():
            assert not is_interrupt(KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            assert is_interrupt(KeyboardInterrupt())

    with pytest.raises(KeyboardInterrupt):
        swallow()


def test_another_thread_gets_none() -> None:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(is_interrupt(KeyboardInterrupt())))
    thread.start()
    thread.join()
    assert found == [False]


def test_where_signals_raise_nothing_it_is_the_plugin_s() -> None:
    set_handled(True)
    try:
        with (
            pytest.raises(PluginError, match=r"nut \(broken-nut 3.1\) failed to parse: KeyboardInterrupt"),
            blame(PART, "to parse"),
        ):
            raise KeyboardInterrupt
    finally:
        set_handled(False)
