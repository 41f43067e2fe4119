"""What holds for the tests of all packages."""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable

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


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Between files, as :func:`pytest_collection_finish`: what is left are modules, by the thousand."""
    if nextitem is None or nextitem.path != item.path:
        pytest_collection_finish()


def pytest_collection_finish() -> None:
    """What is there now stays until the end. Each full collection of garbage would look at all of it again, for a second."""
    gc.collect()
    gc.freeze()
