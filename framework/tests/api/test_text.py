"""Texts with byte-order marks, in UTF-16, and with the line ends of Windows."""

from __future__ import annotations

import codecs
import io
import os
from pathlib import Path

import pytest

from dovetail.api import decode_text, read_lines, read_text

TEXT = "{% für %}\nзачем"
WRITTEN = [
    TEXT.encode(),
    codecs.BOM_UTF8 + TEXT.encode(),
    codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
    codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
    codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
    TEXT.encode("utf-16-le"),
    TEXT.encode("utf-16-be"),
    TEXT.replace("\n", "\r\n").encode(),
]


@pytest.mark.parametrize("raw", WRITTEN)
def test_a_text_reads_the_same_however_it_was_written(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "file").write_bytes(raw)
    assert decode_text(raw) == read_text(tmp_path / "file") == TEXT


@pytest.mark.parametrize("raw", [b"", b"a", b"\n", "é".encode()])
def test_short_texts(raw: bytes) -> None:
    assert decode_text(raw) == raw.decode()


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(UnicodeDecodeError):
        decode_text(b"\x89PNG\xff")


def lines(raw: bytes) -> list[bytes]:
    return list(read_lines(io.BufferedReader(io.BytesIO(raw))))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_lines_end_at_line_feeds_alone(encoding: str) -> None:
    assert lines("é\u2028x\n\ny".encode(encoding)) == ["é\u2028x\n".encode(), b"\n", b"y"]


def test_files_that_were_put_together_have_marks_in_the_middle() -> None:
    assert lines(codecs.BOM_UTF8 + b"a\n" + codecs.BOM_UTF8 + b"b\n") == [b"a\n", b"b\n"]


def test_a_line_that_is_no_text_stays_as_it_is() -> None:
    assert lines(b"a\n\xe9\n") == [b"a\n", b"\xe9\n"]


def test_only_regular_files_are_read_unless_the_user_named_them(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_text("text")
    assert read_text(tmp_path / "link") == read_text(str(tmp_path / "file"), pipes=True) == "text"
    for name in ("pipe", "device", ".", "absent"):
        with pytest.raises(OSError, match=r"regular file|Is a directory|No such file") as error:
            read_text(tmp_path / name)
        assert error.value.filename == str(tmp_path / name)
    reading, writing = os.pipe()
    os.write(writing, b"of a shell")
    os.close(writing)
    assert read_text(f"/dev/fd/{reading}", pipes=True) == "of a shell"
    os.close(reading)
