"""How torch's threads wait, and how many there are: what is set, and that the user's own settings win."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from dovetail.utils import threads
from dovetail.utils.threads import cpu_quota, thread_variables

X86 = platform.machine().lower() in ("x86_64", "amd64")


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_count_cores", lambda: 4)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def container(root: Path, cpu_max: str) -> Path:
    return write(root, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": cpu_max + "\n"})


@pytest.mark.parametrize(("machine", "spins"), [("x86_64", "3000"), ("AMD64", "3000"), ("aarch64", None)])
def test_threads_spin_for_less_than_a_time_slice(
    machine: str, spins: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    variables = thread_variables({}, tmp_path)
    assert variables.get("GOMP_SPINCOUNT") == spins
    assert "OMP_NUM_THREADS" not in variables


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_the_users_way_to_wait_wins(name: str, tmp_path: Path) -> None:
    assert thread_variables({name: "given"}, tmp_path) == {}


@pytest.mark.parametrize(
    ("cpu_max", "count"),
    [
        ("200000 100000", "2"),
        ("350000 100000", "3"),  # a fourth thread would keep the other three waiting
        ("50000 100000", "1"),
        ("400000 100000", None),
        ("max 100000", None),
        ("", None),
    ],
)
@pytest.mark.usefixtures("four_cores")
def test_no_more_threads_than_the_control_group_pays_for(cpu_max: str, count: str | None, tmp_path: Path) -> None:
    assert thread_variables({}, container(tmp_path, cpu_max)).get("OMP_NUM_THREADS") == count


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
@pytest.mark.usefixtures("four_cores")
def test_the_users_number_of_threads_wins(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    variables = thread_variables({name: "4"}, container(tmp_path, "200000 100000"))
    assert "OMP_NUM_THREADS" not in variables
    assert variables["GOMP_SPINCOUNT"] == "3000"  # how to wait is another question


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "50000 50000\n",
            },
            1.0,
        ),
        (
            {
                "proc/self/cgroup": "3:memory:/m\n2:cpu,cpuacct:/docker/ab\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",  # the container's root
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "0::/x\n", "sys/fs/cgroup/unified/x/cpu.max": "100000 100000\n"}, 1.0),
        ({}, None),
    ],
)
def test_the_smallest_quota_on_the_way_to_the_root_counts(
    files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    assert cpu_quota(write(tmp_path, files)) == quota


SCRIPT = """
import os
before = dict(os.environ)
from dovetail import LLM
assert dict(os.environ) == before, "the environment is changed for the user's own child processes"
"""


@pytest.mark.skipif(not (X86 and sys.platform == "linux"), reason="torch has GNU's OpenMP there")
@pytest.mark.parametrize(("given", "spins"), [({}, "3000"), ({"OMP_WAIT_POLICY": "passive"}, "0")])
def test_openmp_is_told_in_a_users_own_process(given: dict[str, str], spins: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in threads.WAIT_VARIABLES}
    environment |= given | {"OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr
