"""Environment variables of OpenMP, whose threads torch uses on the CPU: how long a waiting thread spins, and how
many threads there are.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SPIN_COUNT = "20000"
"""Number of spins of GNU's OpenMP before a waiting thread sleeps.

A spin takes 15 to 60 ns on x86, so this is 0.3 to 1.2 ms: longer than the gap between two parallel regions of a step,
and shorter than the kernel's time slice of a thread. With the library's default of 300,000 (4 to 18 ms), a waiting
thread uses up its time slice on a core that the awaited thread needs. Other processors spin without a pause
instruction, and there the library's default is short enough. docs/benchmarks.md has the measurements.
"""
BLOCK_MILLISECONDS = "1"
"""The same in milliseconds for LLVM's and Intel's OpenMP, whose default is 200."""

WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
COUNT_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def thread_variables(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> dict[str, str]:
    """The variables to set for a process that will import torch, in addition to the user's.

    Args:
        root: where ``proc`` and ``sys`` are.

    Returns:
        How to wait, unless one of ``WAIT_VARIABLES`` is set. The number of threads, unless one of ``COUNT_VARIABLES``
            is set, and only if a control group allows the process less CPU time than it has cores: OpenMP only sees the
            cores, and threads beyond the quota make all others wait.
    """
    variables = {}
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    if is_x86 and not any(name in environment for name in WAIT_VARIABLES):
        variables["GOMP_SPINCOUNT"] = SPIN_COUNT
    if not any(name in environment for name in COUNT_VARIABLES):
        quota = cpu_quota(root)
        if quota is not None and quota < _count_cores():
            variables["OMP_NUM_THREADS"] = str(max(1, int(quota)))
    return variables


def import_torch() -> None:
    """Import torch in this process with :func:`thread_variables`, and restore the environment.

    OpenMP reads the variables once, when it is loaded. If torch was imported before, this function does nothing.
    """
    if "torch" in sys.modules:
        return
    with _set_variables(thread_variables()):
        import torch

        torch.get_num_threads()  # which it settles at the first question


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The CPU time that the process's control groups allow, in cores (``docker run --cpus``, a limit in Kubernetes);
    None for no limit.

    It is the smallest limit on the way from the process's own group to the root, of version 1 or 2.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return None
    quotas: list[float] = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            bases = ["", "unified"]
        elif "cpu" in controllers.split(","):
            bases = ["cpu", controllers]
        else:
            continue
        for base in bases:
            top = root / "sys/fs/cgroup" / base
            # In a container the path may be the host's, which is not to be seen here; the container's own group is then the root.
            inner = top / group.strip("/")
            for folder in [inner, *inner.parents]:
                if not folder.is_relative_to(top):
                    break
                if (quota := _read_quota(folder)) is not None:
                    quotas.append(quota)
    return min(quotas, default=None)


def _read_quota(folder: Path) -> float | None:
    """The limit of one control group, None if it has none."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = (folder / "cpu.cfs_quota_us").read_text(), (folder / "cpu.cfs_period_us").read_text()
        cores = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return None
    return cores if cores > 0 else None  # version 1 writes -1 for none


def _count_cores() -> int:
    """Number of cores that the process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _set_variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables that are not set, and unset them at the end."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
