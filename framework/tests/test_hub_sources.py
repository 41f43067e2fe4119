"""What references to hub repositories lead to, without the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dovetail.api.errors import CheckpointError
from dovetail.sources import find_hub, find_path

PATTERNS = ("*.bin", "*.json")
FILES = ("s-00001-of-00002.bin", "s-00002-of-00002.bin", "m-Q4_K.bin", "m-Q8_0.bin", "config.json", "part/m.bin")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the hub was asked for; it has :data:`FILES`."""
    found: dict[str, Any] = {}
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def download(repository: str, **options: Any) -> str:
        found.update(options, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return found


def find(reference: str) -> str | None:
    options: dict[str, Any] = {"revision": None, "download_dir": None, "patterns": PATTERNS}
    return find_path(reference, **options) or find_hub(reference, **options)


@pytest.mark.parametrize(
    ("part", "file"),
    [
        ("m-Q4_K.bin", "m-Q4_K.bin"),
        ("q8_0", "m-Q8_0.bin"),
        ("part/m.bin", "part/m.bin"),
        ("s-00002-of-00002.bin", "s-00001-of-00002.bin"),
    ],
)
def test_a_file_of_a_repository(asked: dict[str, Any], tmp_path: Path, part: str, file: str) -> None:
    assert find(f"org/name:{part}") == str(tmp_path / file)
    assert asked["repository"] == "org/name"
    assert "*.bin" not in asked["allow_patterns"]


def test_a_whole_repository(asked: dict[str, Any], tmp_path: Path) -> None:
    assert find("org/name") == str(tmp_path)
    assert asked["allow_patterns"] == [*PATTERNS, *map(str.upper, PATTERNS)]


def test_a_file_that_is_not_there(asked: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"wanted Q5_K of the hub repository org/name, and none of its files"):
        find("org/name:Q5_K")
    with pytest.raises(CheckpointError, match=r"wanted a model at org/name/x\.bin, found nothing there"):
        find("org/name/x.bin")
