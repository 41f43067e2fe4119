"""Reads a SentencePiece model: the pieces of a vocabulary, with their scores and types.

Format: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto, in the wire format of
protocol buffers, https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dovetail.api import DOWNLOAD_AGAIN, CheckpointError, open_regular

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BPE = 2
"""``trainer_spec.model_type``."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One token."""

    text: str
    score: float
    type: int


@dataclass(frozen=True, slots=True)
class Model:
    """A vocabulary.

    Attributes:
        pieces: by id.
        spaced: whether a space is put before every text.
    """

    pieces: tuple[Piece, ...]
    spaced: bool


def read_model(file: Path, limit: int) -> Model:
    """Read a model of the kind BPE.

    Args:
        limit: the most bytes of the file.

    Raises:
        CheckpointError: it is larger, damaged, or of another kind.
    """
    with open_regular(str(file)) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise CheckpointError(f"{file} has more than {limit} bytes, and is no tokenizer", DOWNLOAD_AGAIN)
    pieces: list[Piece] = []
    kind, spaced = 1, True
    try:
        for field, value in _fields(memoryview(data)):
            if field == 1:
                pieces.append(_piece(dict(_fields(_message(value)))))
            elif field == 2:
                kind = int(dict(_fields(_message(value))).get(3, kind))
            elif field == 3:
                spaced = bool(dict(_fields(_message(value))).get(3, spaced))
    except (ValueError, IndexError, KeyError, struct.error) as error:
        raise CheckpointError(f"{file} is no SentencePiece model ({error})", DOWNLOAD_AGAIN) from None
    if not pieces or kind != BPE:
        raise CheckpointError(
            f"{file} holds {len(pieces)} pieces of a model of the type {kind}, wanted some of the type {BPE}, BPE",
            "name a Hugging Face tokenizer's folder with --tokenizer",
        )
    return Model(tuple(pieces), spaced)


Value = int | memoryview


def _piece(fields: dict[int, Value]) -> Piece:
    text = str(_message(fields[1]), "utf-8")
    score = struct.unpack("<f", _message(fields[2]))[0] if 2 in fields else 0.0
    return Piece(text, score, int(fields.get(3, NORMAL)))


def _message(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value


def _fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """The fields of a message: numbers, and the bytes of everything else."""
    at = 0
    while at < len(data):
        key, at = _number(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _number(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            length, at = _number(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field is of the wire type {kind}")
        if at + length > len(data):
            raise ValueError("it is truncated")
        yield key >> 3, data[at : at + length]
        at += length


def _number(data: memoryview, at: int) -> tuple[int, int]:
    """A variable-length number, and the place behind it."""
    value = shift = 0
    while shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number has more than ten bytes")
