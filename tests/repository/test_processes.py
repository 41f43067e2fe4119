"""Processes are started in one way, which keeps the working directory off their path."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("framework/src/**/*.py"), *ROOT.glob("plugins/*/*/src/**/*.py")])
HELPER = ROOT / "framework/src/dovetail/python_path.py"
UNSUITED = {"multiprocessing", "pty"}
"""Modules that start interpreters with a path of their own choice."""
STARTERS = {"Popen", "run", "call", "check_call", "check_output", "getoutput", "getstatusoutput"}
OS_STARTERS = ("exec", "spawn", "posix_spawn", "system", "popen", "fork")


def faults(source: str) -> Iterator[str]:
    """What a source file does to start processes in other ways."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            for name in [module, *(alias.name for alias in node.names)]:
                if name.partition(".")[0] in UNSUITED or name == "ProcessPoolExecutor":
                    yield f"line {node.lineno}: imports {name}"
            if module in ("subprocess", "os", "sys"):
                for alias in node.names:
                    if alias.name in STARTERS or alias.name.startswith(OS_STARTERS) or alias.name == "executable":
                        yield f"line {node.lineno}: imports {alias.name} from {module}, where it is not seen"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = node.value.id
            if owner == "sys" and node.attr in ("executable", "_base_executable"):
                yield f"line {node.lineno}: sys.{node.attr}, not python_command()"
            elif owner == "os" and node.attr.startswith(OS_STARTERS):
                yield f"line {node.lineno}: os.{node.attr}"
            elif owner == "asyncio" and node.attr.startswith("create_subprocess"):
                yield f"line {node.lineno}: asyncio.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            function, given = node.func, {keyword.arg for keyword in node.keywords}
            owned = isinstance(function.value, ast.Name) and function.value.id == "subprocess"
            if owned and function.attr in STARTERS and "env" not in given:
                yield f"line {node.lineno}: subprocess.{function.attr} without env=child_environment()"


def test_processes_are_started_by_the_helper() -> None:
    found = {path.relative_to(ROOT): list(faults(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert len(found) > 300
    assert found.pop(HELPER.relative_to(ROOT))
    assert {path: told for path, told in found.items() if told} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import multiprocessing as m",
        "from multiprocessing import Process",
        "from concurrent.futures import ProcessPoolExecutor",
        "import subprocess; subprocess.run([sys.executable], env=e)",
        "import subprocess; subprocess.Popen(command)",
        "from subprocess import run",
        "import os; os.execv('python', [])",
        "import os; os.system('python')",
        "from sys import executable",
        "asyncio.create_subprocess_exec('python')",
    ],
)
def test_other_ways_are_found(source: str) -> None:
    assert list(faults(source))
