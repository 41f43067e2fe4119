"""What is told while a model loads, and after."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dovetail.cli.loading_bar import STARTING, LoadingBar
from dovetail.utils import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    return plan_of(tmp_path, "small.weights")


def plan_of(folder: Path, *names: str) -> Any:
    for name in names:
        (folder / name).write_bytes(bytes(3_000_000))
    return SimpleNamespace(
        checkpoint=SimpleNamespace(path=str(folder), files=tuple(str(folder / name) for name in names))
    )


def load(plan: Any, stderr: io.StringIO | None = None) -> str:
    """What is told at the end; what is drawn before goes to ``stderr``."""
    with contextlib.redirect_stderr(stderr or sys.stderr):
        with LoadingBar(plan) as bar:
            for done in range(5):
                bar(done, 4)
        return bar.summary()


def test_a_terminal_is_shown_file_size_and_speed(plan: Any) -> None:
    terminal = Terminal()
    load(plan, terminal)
    shown = terminal.getvalue()
    assert shown.startswith(f"\r{STARTING}")
    assert "Loading small.weights" in shown
    assert "B of 3.00MB" in shown
    assert "\n" not in shown
    assert not shown.rpartition("\r")[2].strip()  # nothing is left of it


def test_a_pipe_gets_nothing_before_the_end(plan: Any, capsys: pytest.CaptureFixture[str]) -> None:
    told = load(plan)
    assert capsys.readouterr() == ("", "")
    assert re.fullmatch(r"loaded small\.weights in \d+\.\d s \(3\.0 MB of weights, read at [\d,.]+ MB/s\)", told)


def test_a_log_in_json_has_no_bar(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "writes_json", lambda: True)
    terminal = Terminal()
    load(plan, terminal)
    assert terminal.getvalue() == ""


def test_many_files_are_called_by_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    told = load(plan_of(folder, "a.weights", "b.weights"))
    assert told.startswith("loaded model (2 files) in ")
    assert "6.0 MB" in told


def test_a_model_without_weight_files_is_loaded_too(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    assert re.fullmatch(r"loaded model in \d+\.\d s", load(plan_of(folder), Terminal()))
