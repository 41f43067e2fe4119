"""Text of others on terminals and in logs, and outputs that cannot be written."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from dovetail.utils import logs
from dovetail.utils.logs import JsonFormatter, TextFormatter
from dovetail.utils.terminal import encodable, printable_answer, printable_json, printable_line, printable_lines

NASTY = "\x1b]0;title\x07 \x9b31m \u202e \u2066 \x7f \x00 \ud800 \u2028 \r end"


@pytest.mark.parametrize("clean", [printable_line, printable_lines])
def test_nothing_reaches_a_terminal(clean) -> None:
    shown = clean(NASTY)
    assert shown.isprintable()
    assert shown.startswith("\\x1b]0;title\\x07 \\x9b31m \\u202e")
    shown.encode()


def test_lines_and_answers_keep_what_belongs_to_text() -> None:
    text = "Grüße,\n\tこんにちは 👩‍🚀 שלום"
    assert printable_lines(text) == printable_answer(text) == text
    assert printable_line(text) == text.replace("\n", "\\n").replace("\t", "\\t")
    assert printable_answer("a\r\nb\x1b[2J\u2067\x85") == "a\nb\\x1b[2J\u2067\\x85"


def test_json_stays_what_it_is() -> None:
    value = {"a": "\x1b\x9b\u202e\u2028 ü"}
    shown = printable_json(json.dumps(value, ensure_ascii=False))
    assert shown.isprintable()
    assert json.loads(shown) == value


def test_halves_of_pairs_can_be_written() -> None:
    assert encodable("a\ud800\x1b\n") == "a?\x1b\n"


def record_of(message: str, *args: object, exc: BaseException | None = None) -> logging.LogRecord:
    info = None if exc is None else (type(exc), exc, None)
    return logging.LogRecord("dovetail", logging.INFO, "f", 1, message, args, info)


def test_a_log_has_one_line_for_each_record() -> None:
    forged = "x\n2026-01-01 00:00:00 INFO all is well \x1b[31m\u202e\r"
    line = TextFormatter().format(record_of("the model %s", forged))
    assert line.isprintable()
    lines = TextFormatter().format(record_of("failed", exc=ValueError(forged))).split("\n")
    assert all(line.isprintable() for line in lines)
    assert all(line.startswith("  ") for line in lines[1:])
    made = JsonFormatter().format(record_of("the model %s", forged))
    assert made.isprintable()
    assert forged in json.loads(made)["message"]


def test_announcements_are_clean(capsys: pytest.CaptureFixture[str]) -> None:
    logs.announce("loaded \x1b]0;x\x07")
    logs.announce("serving \x9bx", output=True)
    said = capsys.readouterr()
    assert "\\x1b" in said.err
    assert "\\x9b" in said.out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_log_without_room_says_so_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(logging.Handler, "handleError", logs._handle_error)
    monkeypatch.setattr(logs, "_last_failure", {})
    full = open("/dev/full", "w")  # noqa: SIM115  closing it fails, too
    handler = logging.StreamHandler(full)
    for _ in range(5):
        handler.handle(record_of("x"))
    with contextlib.suppress(OSError):
        full.close()
    said = capsys.readouterr().err
    assert said.count("cannot be written: No space left on device") == 1
    assert "Traceback" not in said


def test_a_log_whose_format_is_wrong_is_still_told(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise TypeError("not all arguments converted")
    except TypeError:
        logs._handle_error(logging.StreamHandler(io.StringIO()), record_of("x"))
    assert "not all arguments converted" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [("--version",), ("plugins", "list"), ("plugins", "list", "--json"), ("completion", "bash"), ("--help",)],
)
def test_a_full_disk_under_the_output(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "dovetail", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert ended.returncode == 1
    assert ended.stderr == "error: the output cannot be written: No space left on device\n"
