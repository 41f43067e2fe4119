"""A plugin whose code does not return is named on standard error, and again when the user presses Ctrl-C."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from dovetail.kernel import waiting
from dovetail.kernel.discovery import discover
from dovetail.kernel.interrupts import watch_interrupts
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.plan_parts import Part
from dovetail.kernel.registry import Registry
from dovetail.kernel.resolve import find_platform
from dovetail.kernel.waiting import wait_for

from .fakes import Site

PART = Part(kind="tool_parser", name="nut", distribution="broken-nut", version="3.1", target="nut:Parser")
STUCK = "waiting for the {}: {} has not returned after 0 s; leave it out with --plugins=-{}\n"
SLOW = 0.2
"""What a plugin is given here, and then takes twice."""


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "dovetail-waiting"]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for watcher in watchers():  # of an earlier test, which sleeps for as long as it was told then
        watcher.join()
    monkeypatch.setattr(waiting, "SECONDS", SLOW)


def test_the_user_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    with wait_for(PART, "its probe"):
        time.sleep(3 * SLOW)
    assert capfd.readouterr().err == STUCK.format("tool_parser nut (broken-nut 3.1)", "its probe", "broken-nut")


def test_what_returns_is_not_told(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(5):
        with wait_for(PART, "its probe"):
            time.sleep(SLOW / 4)
    time.sleep(2 * SLOW)
    assert capfd.readouterr().err == ""


def test_the_framework_s_own_parts_cannot_be_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    with wait_for(PART.model_copy(update={"distribution": "dovetail"}), "its probe"):
        time.sleep(2 * SLOW)
    assert capfd.readouterr().err.endswith("its probe has not returned after 0 s\n")


def test_the_thread_ends_when_nothing_is_waited_for() -> None:
    with wait_for(PART, "its probe"):
        (watcher,) = watchers()
    watcher.join(20 * SLOW)
    assert not watcher.is_alive()
    with wait_for(PART, "its probe"):  # and another one starts
        assert len(watchers()) == 1


def test_regular_expressions_let_no_other_thread_run() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (5, 5))\n"  # if nobody is told, it ends some time
        "from dovetail.kernel import waiting; waiting.SECONDS = 0.2\n"
        "from dovetail.kernel.plan_parts import ParserPlan, Part, recognise\n"
        "part = Part(kind='tool_parser', name='nut', distribution='broken-nut', version='3.1', target='nut:Parser')\n"
        "recognise((ParserPlan(part=part, recognises=('(x+x+)+y',)),), 'x' * 60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        told = run.stderr.readline()
        run.kill()
    sentence = (
        "waiting for the tool_parser nut (broken-nut 3.1): its search in the chat template has not returned after"
    )
    assert told.startswith(sentence)


def test_someone_else_s_timer_is_left_alone() -> None:
    def handle(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGVTALRM, handle)
    signal.setitimer(signal.ITIMER_VIRTUAL, 1000)
    try:
        with wait_for(PART, "its probe"):
            pass
        assert signal.getsignal(signal.SIGVTALRM) is handle
        assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] > SLOW
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    "raised", [lambda: None, lambda: int("x")], ids=["Ctrl-C", "Ctrl-C turned into something else"]
)
def test_ctrl_c_says_it_again(capfd: pytest.CaptureFixture[str], raised: Callable[[], object]) -> None:
    def stuck() -> None:
        with watch_interrupts(), wait_for(PART, "its probe"):
            time.sleep(2 * SLOW)
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raised()
                raise

    with pytest.raises((KeyboardInterrupt, ValueError)):
        stuck()
    assert capfd.readouterr().err.count("its probe has not returned") == 2


def test_a_plugin_that_hangs_as_it_is_imported(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site.add("snail", f"import time\ntime.sleep({3 * SLOW})\n")
    discover()
    assert STUCK.format("plugin main (snail 1.0)", "its import", "snail") in capfd.readouterr().err


def test_a_plugin_that_hangs_as_it_registers(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site.add(
        "snail",
        "import time\nfrom dovetail.api import hookimpl\n"
        f"@hookimpl\ndef dovetail_register_models():\n    time.sleep({3 * SLOW})\n    return []\n",
    )
    discover()
    assert STUCK.format("plugin main (snail 1.0)", "its registration", "snail") in capfd.readouterr().err


def test_a_probe_that_hangs(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site.add(
        "snail",
        "import time\nfrom dovetail.api import PlatformCard, hookimpl\n"
        f"def probe():\n    time.sleep({3 * SLOW})\n"
        "@hookimpl\ndef dovetail_register_platforms():\n"
        "    return [PlatformCard(name='shell', device='cpu', target='snail:P', probe='snail:probe')]\n",
    )
    find_platform(PlanOptions(device="shell"), Registry.load(plugins="snail"), [])
    assert STUCK.format("platform shell (snail 1.0)", "its probe", "snail") in capfd.readouterr().err


def test_the_command_keeps_waiting_until_ctrl_c(site: Site) -> None:
    site.add("snail", "import time\ntime.sleep(60)\n")
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.path.insert(0, {str(site.folder)!r})\n"
        "from dovetail.kernel import waiting; waiting.SECONDS = 0.2\n"
        "from dovetail.cli.main import main; sys.exit(main(['plugins', 'list']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr is not None
        first = run.stderr.readline()
        run.send_signal(signal.SIGINT)
        out, rest = run.communicate(timeout=30)
    sentence = r"waiting for the plugin main \(snail 1\.0\): its import has not returned after \d+ s; leave it out with --plugins=-snail\n"
    assert re.fullmatch(sentence, first)
    assert re.fullmatch(sentence, rest)
    assert (run.returncode, out) == (130, "")
