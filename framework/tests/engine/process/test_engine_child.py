"""How the engine's process is started."""

from __future__ import annotations

import asyncio
import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dovetail.engine.process.engine_child import EngineChild
from dovetail.utils import threads


def child_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment that a child finds, by a program in the interpreter's place that writes it down."""
    written, program = folder / "environment", folder / "python"
    program.write_text(f"#!/bin/sh\nenv > {written}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    plan: Any = SimpleNamespace(model_dump_json=lambda: "{}")
    args: Any = SimpleNamespace(to_json=lambda: "{}")

    async def start() -> None:
        child = EngineChild(plan, args)
        child.wait(30)
        child.kill()

    asyncio.run(start())
    return dict(line.split("=", 1) for line in written.read_text().splitlines() if "=" in line)


def test_its_threads_are_told_how_to_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in threads.WAIT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("OF_THE_USER", "kept")
    found = child_environment(tmp_path, monkeypatch)
    expected = threads.thread_variables()
    assert expected
    assert {name: found.get(name) for name in expected} == expected
    assert found["OF_THE_USER"] == "kept"


def test_what_the_user_set_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    found = child_environment(tmp_path, monkeypatch)
    assert found["GOMP_SPINCOUNT"] == "7"
