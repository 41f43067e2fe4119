"""JSON files of others: what is read, and what is refused with the file's name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dovetail.api import CheckpointError, ConfigError, read_json
from dovetail.api.json_files import MAX_BYTES, MAX_DEPTH


def test_values(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    assert read_json(file, dict) == {}
    assert read_json(file, list) == []
    file.write_text('\ufeff{"a": Infinity, "a": 1, "é": "\\ud83d\\ude00"}')
    assert read_json(file, dict) == {"a": 1, "é": "😀"}
    file.write_text("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert read_json(file, list)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "is not readable JSON"),
        (b"\xff\xfe\xfa", "is not readable JSON"),
        (b'{"a": "\xff"}', "byte 7 is not utf-8: invalid start byte"),
        (b'{"a": ' + b"9" * 5000 + b"}", "4300 digits"),
        (b'{"a": "x\\udc00"}', "half of a surrogate pair in the text"),
        (b'{"\\ud800": 1}', "half of a surrogate pair"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), f"nested deeper than {MAX_DEPTH}"),
        (b"[" * 10**6, f"nested deeper than {MAX_DEPTH}"),
        (b" " * MAX_BYTES + b"{}", "larger than the 8 MiB"),
        (b"[1]", "holds a JSON list, wanted an object"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_refusals(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.json") as error:
        read_json(file, dict)
    assert told in error.value.problem or content.startswith(b"[[")
    with pytest.raises(CheckpointError):
        read_json(file, dict, CheckpointError)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "loop", "folder"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_json(tmp_path / name, dict)
