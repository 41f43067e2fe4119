from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .fakes import Site
from .installation import CONFIG


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty folder of packages at the front of ``sys.path``."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delenv("DOVETAIL_PLUGINS", raising=False)
    found = Site(folder)
    yield found
    found.forget()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as in a terminal: a shell's background jobs, among which the tests may be, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint: a configuration, and a file that stands for weights."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "weights.w").touch()
    return tmp_path
