"""What holds for the tests of all packages."""

import gc
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

# Both are set before torch is imported anywhere. At the tests' small shapes its threads only wait for each other, and on a busy machine a minute's work takes an hour.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests of several threads take a third of the processor time if those sleep while they wait for each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

REFERENCE = ("-c", "import pydantic.main")
REFERENCE_SECONDS = 0.1
"""What Python takes to import pydantic on a machine that nothing else keeps busy."""


@pytest.fixture
def slowness() -> Callable[[], float]:
    """How many times as long as a quiet machine this one takes now, at least 1: limits of time are promised of a quiet machine."""

    def measure() -> float:
        started = time.perf_counter()
        # No timeout: waiting with one looks at the process every 50 ms.
        subprocess.run([sys.executable, *REFERENCE], check=True)
        return max(1.0, (time.perf_counter() - started) / REFERENCE_SECONDS)

    return measure


@pytest.fixture(autouse=True, scope="module")
def _logs_as_they_were() -> Iterator[None]:
    """What a file's tests set up of logging, as commands do that run in this process, ends with the file."""
    loggers = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    before = {each: (list(each.handlers), each.level, each.propagate, each.disabled) for each in loggers}
    root = list(logging.root.handlers), logging.root.level
    yield
    for each in logging.root.manager.loggerDict.values():
        if isinstance(each, logging.Logger):
            each.handlers, each.level, each.propagate, each.disabled = before.get(
                each, ([], logging.NOTSET, True, False)
            )
    # pytest has handlers of its own there, others in each of a test's phases.
    logging.root.handlers = [
        handler
        for handler in logging.root.handlers
        if handler in root[0] or type(handler).__module__.startswith("_pytest")
    ]
    logging.root.setLevel(root[1])
    logging.root.manager._clear_cache()  # type: ignore[attr-defined]


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Between files, as :func:`pytest_collection_finish`: what is left are modules, by the thousand."""
    if nextitem is None or nextitem.path != item.path:
        pytest_collection_finish()


def pytest_collection_finish() -> None:
    """What is there now stays until the end. Each full collection of garbage would look at all of it again, for a second."""
    gc.collect()
    gc.freeze()
