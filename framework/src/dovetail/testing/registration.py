"""Tests of registration: it is cheap and torch-free, and every dotted name refers to what the card says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from dovetail.python_path import child_environment, python_command

PROBE = Path(__file__).with_name("registration_probe.py")


def check_registration(plugin: str | ModuleType, *, limit: float = 0.25) -> None:
    """Import a plugin's module as discovery does, in a separate process.

    Checks that importing and registering takes at most ``limit`` seconds of processor time and imports neither torch
    nor another framework; that what a card's ``config``, ``processor``, ``naming``, ``inspect``, ``probe``, ``accepts`` and ``validate_source``
    name exists and is torch-free; and that every ``target`` exists and is of its card's class.

    Args:
        plugin: the module of the entry point.

    Raises:
        AssertionError: names every claim that failed.
    """
    name = plugin if isinstance(plugin, str) else plugin.__name__
    # The child sees exactly what this process sees, wherever its packages come from.
    command = python_command(str(PROBE), json.dumps({"module": name, "path": sys.path}))
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"registration of {name} failed:\n{done.stdout}{done.stderr}"
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    faults: list[str] = report["faults"]
    if report["seconds"] > limit:
        faults.append(
            f"importing and registering took {report['seconds']:.2f} s of processor time, more than {limit} s"
        )
    assert not faults, f"{name}: " + "; ".join(faults)
