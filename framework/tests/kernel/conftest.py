from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .fakes import Site


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
