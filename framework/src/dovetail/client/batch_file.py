"""The input and output files of a batch, in OpenAI's format: requests in, one entry for each out."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import msgspec

from dovetail.api.errors import DovetailError, UsageError
from dovetail.api.text import read_lines
from dovetail.utils.terminal import discard_output

STANDARD = "-"
"""The file name for standard input and output."""
ROUTES = re.compile(r"/(v1/(?!(un)?load_lora_adapter$)[\w-]+(/[\w-]+)*|rerank|score|classify|pooling|(de)?tokenize)")
"""Routes that lines may use: those that answer requests, and none that controls the server."""


class _Line(msgspec.Struct):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _CustomId(msgspec.Struct):
    custom_id: str | None = None


class _StreamField(msgspec.Struct):
    stream: Any = None


class _Response(msgspec.Struct):
    status_code: int


class _Entry(msgspec.Struct):
    id: str
    custom_id: str | None
    response: _Response | None


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A valid line.

    Attributes:
        number: of the line, from 1.
        body: JSON.
    """

    number: int
    custom_id: str
    url: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """An invalid line, or one without a response."""

    number: int
    custom_id: str | None
    code: str
    message: str


def read_requests(lines: Iterable[bytes], done: Iterable[str] = ()) -> Iterator[BatchRequest | Fault]:
    """The request of each line; empty lines are skipped.

    Args:
        done: custom_ids to skip.
    """
    left_out, seen = set(done), dict[str, int]()
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        found = _read(number, raw)
        if isinstance(found, BatchRequest):
            first = seen.setdefault(found.custom_id, number)
            if first != number:
                message = f"the custom_id {found.custom_id!r} is that of line {first}, too; only that one is run"
                found = Fault(number, found.custom_id, "duplicate_custom_id", message)
            elif found.custom_id in left_out:
                continue
        yield found


def _read(number: int, raw: bytes) -> BatchRequest | Fault:
    try:
        line = msgspec.json.decode(raw, type=_Line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Fault(number, _name(raw), "invalid_line", f"this is no request of a batch: {error}")
    if line.method != "POST":
        return Fault(number, line.custom_id, "invalid_method", f"wanted the method POST, found {line.method!r}")
    if not ROUTES.fullmatch(line.url):
        message = f"wanted a url such as /v1/chat/completions, found {line.url!r}"
        return Fault(number, line.custom_id, "invalid_url", message)
    body = bytes(line.body)
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # the server says what is wrong
        if msgspec.json.decode(body, type=_StreamField).stream:
            message = "stream is set, and the answers of a batch are whole; leave it out"
            return Fault(number, line.custom_id, "invalid_body", message)
    return BatchRequest(number, line.custom_id, line.url, body)


def _name(raw: bytes) -> str | None:
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(raw, type=_CustomId).custom_id
    return None


def answer_entry(request: BatchRequest, status: int, request_id: str | None, body: bytes) -> dict[str, Any]:
    """The output entry of a line that got a response, which may be an error.

    Args:
        body: JSON.

    Raises:
        msgspec.MsgspecError: it is not JSON.
    """
    # A server may write its answer in several lines; an entry is one.
    answer = msgspec.Raw(msgspec.json.format(body, indent=-1))
    response = {"status_code": status, "request_id": request_id, "body": answer}
    return _entry(request.custom_id, response, None)


def error_entry(fault: Fault) -> dict[str, Any]:
    """The output entry of a line that was not answered."""
    message = f"line {fault.number}: {fault.message}"
    return _entry(fault.custom_id, None, {"code": fault.code, "message": message, "line": fault.number})


def _entry(custom_id: str | None, response: Any, error: Any) -> dict[str, Any]:
    return {"id": f"batch_req_{uuid4().hex}", "custom_id": custom_id, "response": response, "error": error}


class BatchInput:
    """The lines of a file, or of standard input.

    Attributes:
        count: number of lines that are not empty.

    Raises:
        DovetailError: there is no such file, or it cannot be read.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        # A pipe is read at once: waiting for a line would keep the answers of others waiting.
        self._piped = list(read_lines(BufferedReader(BytesIO(sys.stdin.buffer.read())))) if name == STANDARD else []
        try:
            self.count = sum(1 for line in self if line.strip())
        except OSError as error:
            raise DovetailError(f"cannot read {name}: {error.strerror}", "correct the path after -i") from None

    def __iter__(self) -> Iterator[bytes]:
        if self.name == STANDARD:
            yield from self._piped
            return
        with open(self.name, "rb") as file:
            yield from read_lines(file)


class BatchOutput:
    """Writes each entry at once, so that finished entries are never lost.

    Args:
        name: a path, or ``-``.
        resume: continue the file of an earlier run: successful entries are kept, and failed ones are removed and tried
            again.

    Attributes:
        done: the custom_ids that succeeded before.

    Raises:
        UsageError: the file exists and ``resume`` is not set, or it is not the output of a batch.
        DovetailError: it cannot be written.
    """

    def __init__(self, name: str, resume: bool = False) -> None:
        self.name = name
        self.done: frozenset[str] = frozenset()
        self._file: BinaryIO
        if name == STANDARD:
            if resume:
                raise UsageError("--resume was given, and the output goes to a pipe", "name a file after -o")
            self._file = sys.stdout.buffer
            return
        path = Path(name)
        try:
            if path.exists() and path.stat().st_size:
                if not resume:
                    raise UsageError(f"{name} is there already", "go on with it by --resume, or remove it")
                self.done = _remove_failures(path)
            # Without a buffer: what could not be written must not be tried again when the file is closed.
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - open for as long as the batch runs
        except OSError as error:
            raise self._unwritable(error) from None

    def add(self, entry: dict[str, Any]) -> None:
        """Write an entry.

        Raises:
            DovetailError: it cannot be written.
        """
        line = memoryview(msgspec.json.encode(entry) + b"\n")
        try:
            while line:
                line = line[self._file.write(line) :]
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            if self.name == STANDARD:
                discard_output(sys.stdout)
            raise self._unwritable(error) from None

    def close(self) -> None:
        """Close the file."""
        if self.name != STANDARD:
            self._file.close()

    def _unwritable(self, error: OSError) -> DovetailError:
        if self.name == STANDARD:
            return DovetailError(
                f"cannot write standard output: {error.strerror}", "make room, or name a file after -o"
            )
        return DovetailError(
            f"cannot write {self.name}: {error.strerror}", "make room or correct the path, then go on with --resume"
        )


def _remove_failures(path: Path) -> frozenset[str]:
    """Remove failed entries, and an incomplete last line, from the file. Returns the custom_ids that remain."""
    done: set[str] = set()
    rest = path.with_name(path.name + ".resuming")
    with path.open("rb") as old, rest.open("wb") as new:
        for number, line in enumerate(old, 1):
            if not line.endswith(b"\n"):  # the run ended while it wrote this
                break
            try:
                entry = msgspec.json.decode(line, type=_Entry)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                new.close()
                rest.unlink()
                message = f"line {number} of {path} is no entry of a batch's output"
                raise UsageError(message, "name the file that the earlier run wrote") from None
            if entry.response and entry.custom_id is not None and is_success(entry.response.status_code):
                done.add(entry.custom_id)
                new.write(line)
    os.replace(rest, path)
    return frozenset(done)


def is_success(status: int) -> bool:
    """Whether a line with this status succeeded."""
    return 200 <= status < 300
