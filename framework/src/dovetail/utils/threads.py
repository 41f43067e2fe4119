"""Variables of OpenMP, whose threads torch computes with on the CPU: how long a thread spins while it waits, and how many threads there are."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SPIN_COUNT = "3000"
"""How often GNU's OpenMP looks before a waiting thread sleeps.

A look takes 15 to 60 ns on x86, so this is 0.05 to 0.2 ms. The library's own 300,000 are 4 to
18 ms, longer than the kernel lets a thread run: a thread that waits uses up its time on a core that the thread it waits for needs. On a busy machine 20,000
are too many already (docs/benchmarks.md). Other processors look without a pause, and there the library's own count is short enough; LLVM's OpenMP yields while
it waits, and needs nothing.
"""
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
COUNT_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def thread_variables(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> dict[str, str]:
    """The variables to set for a process that will import torch, beside what the user set.

    Args:
        root: where ``proc`` and ``sys`` are.

    Returns:
        How to wait, unless one of ``WAIT_VARIABLES`` says it already. The number of threads, unless one of ``COUNT_VARIABLES`` says it, and only where a
        control group allows the process less time than it has cores: OpenMP sees the cores alone, and threads beyond the quota keep all others waiting.
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
    """Import torch in this process under :func:`thread_variables`, and leave the environment as it was.

    OpenMP reads the variables once, when it is loaded. Where torch was imported before, nothing can be changed, and nothing is.
    """
    if "torch" in sys.modules:
        return
    with _set_variables(thread_variables()):
        import torch

        torch.get_num_threads()  # which it settles at the first question


def cpu_quota(root: Path = Path("/")) -> float | None:
    """How many cores' worth of time the control groups of this process allow it (``docker run --cpus``, a limit in Kubernetes); None for no limit.

    The smallest counts of those on the way from the process's own group to the root, of version 1 or 2.
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
    """Cores that the process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _set_variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Set what is not set, and unset it at the end."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
