"""What the benchmarks share."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import psutil


def heading(command: str) -> str:
    """Where and with what a table was measured."""
    cores = psutil.cpu_count()
    return (
        f"{command}: {platform.machine()}, {cores} cores, load {psutil.getloadavg()[0]:.1f}, Python {platform.python_version()}, "
        f"torch {version('torch')}, dovetail {version('dovetail')}"
    )


def median_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median of several runs, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def family_rss(pid: int) -> int:
    """Resident bytes of a process and its children."""
    process = psutil.Process(pid)
    return sum(p.memory_info().rss for p in [process, *process.children(recursive=True)])
