"""Model references that are paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetail.api import CheckpointError
from dovetail.sources import find_path

PATTERNS = ("*.w",)


def resolve(reference: Path | str, revision: str | None = None) -> str | None:
    return find_path(str(reference), revision=revision, download_dir=None, patterns=PATTERNS)


def test_folders_and_files(tmp_path: Path) -> None:
    assert resolve(tmp_path) == str(tmp_path)
    (tmp_path / "any").touch()
    assert resolve(tmp_path / "any") == str(tmp_path / "any")
    assert resolve("org/name") is None
    for missing in (tmp_path / "no", "./no", "no.w", "NO.W"):
        with pytest.raises(CheckpointError, match="found nothing there"):
            resolve(missing)


def test_a_repository_in_the_hub_s_cache_is_its_snapshot(tmp_path: Path) -> None:
    for commit in ("abc", "def"):
        (tmp_path / "snapshots" / commit).mkdir(parents=True)
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs" / "main").write_text("abc")
    assert resolve(tmp_path) == str(tmp_path / "snapshots" / "abc")
    assert resolve(tmp_path, "def") == str(tmp_path / "snapshots" / "def")
    assert resolve(tmp_path, "gone") == str(tmp_path)
    (tmp_path / "refs" / "main").write_text("")
    assert resolve(tmp_path) == str(tmp_path)
