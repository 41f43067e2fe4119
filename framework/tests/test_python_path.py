"""Where our processes and their children import from."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dovetail import python_path
from dovetail.python_path import child_environment, is_run_as_module, leave_working_directory, python_command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The working directory, of a process whose path and environment may be changed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/elsewhere", *sys.path])
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")})
    return os.getcwd()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"PYTHONPATH": ""}, None),
        ({"PYTHONPATH": ":"}, None),
        ({"PYTHONPATH": ":/a::/b:"}, "/a:/b"),
        ({"PYTHONPATH": ".:/a"}, ".:/a"),
        ({"PYTHONPATH": "/a", "PYTHONSAFEPATH": ""}, "/a"),
    ],
)
def test_environment_of_children(folder: str, given: dict[str, str], expected: str | None) -> None:
    os.environ.update(given)
    found = child_environment(MORE="x")
    assert (found.get("PYTHONPATH"), found["PYTHONSAFEPATH"], found["MORE"]) == (expected, "1", "x")
    assert "MORE" not in os.environ


def test_children_look_elsewhere(folder: str) -> None:
    Path("json.py").write_text("print('executed')")
    Path("sitecustomize.py").write_text("print('executed')")
    Path("script.py").write_text("import json")
    os.environ["PYTHONPATH"] = ":/nowhere"
    nested = "import json, subprocess, sys; subprocess.run([sys.executable, '-c', 'import json'], check=True)"
    for arguments in (["-c", nested], ["-m", "json.tool", "--help"], ["script.py"]):
        command, environment = python_command(*arguments), child_environment()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "executed" not in done.stdout


@pytest.mark.parametrize(
    ("argv", "path", "variable", "expected"),
    [
        (["-m", "serve"], ["HERE", "/a"], None, ["/a"]),
        (["-m", "serve"], ["HERE", "HERE", "/a"], ".:/a", ["HERE", "/a"]),
        (["-m", "serve"], ["HERE", "HERE", "/a"], ":/a", ["/a"]),
        (["-m", "serve"], ["HERE", "HERE", "/a"], ":.:/a", ["HERE", "/a"]),
        (["-m", "serve"], ["/a", "HERE"], None, ["/a", "HERE"]),  # as when it was installed from there
        (["-c"], ["", "/a"], None, ["/a"]),
        (["-c"], ["", "HERE", "/a"], "HERE:/a", ["HERE", "/a"]),
        (["/bin/dovetail", "serve"], ["HERE", "/a"], None, ["HERE", "/a"]),
        (["/bin/dovetail", "serve"], ["/bin", "HERE", "/a"], "/a:", ["/bin", "/a"]),
        (["/bin/dovetail", "serve"], ["/bin", "/a"], "", ["/bin", "/a"]),
    ],
)
def test_path_of_a_command(
    folder: str, argv: list[str], path: list[str], variable: str | None, expected: list[str], monkeypatch
) -> None:
    def fill(entries: list[str]) -> list[str]:
        return [entry.replace("HERE", folder) for entry in entries]

    monkeypatch.setattr(sys, "argv", argv)
    sys.path[:] = fill(path)
    if variable is not None:
        os.environ["PYTHONPATH"] = variable.replace("HERE", folder)
    leave_working_directory()
    assert sys.path == fill(expected)
    assert os.environ == child_environment()


def test_our_own_folder_stays(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = str(Path(python_path.__file__).parents[1])
    monkeypatch.chdir(ours)
    monkeypatch.setattr(sys, "argv", ["-m"])
    sys.path[:] = [ours, "/a"]
    leave_working_directory()
    assert sys.path == [ours, "/a"]


@pytest.mark.parametrize(
    ("command", "argv", "expected"),
    [
        (["-m", "dovetail", "serve"], ["-m", "serve"], True),
        (["-m", "dovetail"], ["-m"], True),
        (["-X", "dev", "-Im", "dovetail.server.openai"], ["-m"], True),
        (["-Bmdovetail.cli.main", "plan"], ["-m", "plan"], True),
        (["-m", "pytest", "dovetail"], ["-m", "dovetail"], False),
        (["-m", "dovetailed"], ["-m"], False),
        (["-m", "dovetail", "serve"], ["/x/dovetail/__main__.py", "serve"], False),
        (["script.py"], ["script.py"], False),
        (["-c", "import dovetail"], ["-c"], False),
    ],
)
def test_which_processes_are_commands(
    command: list[str], argv: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", ["python", *command])
    assert is_run_as_module("dovetail") is expected
