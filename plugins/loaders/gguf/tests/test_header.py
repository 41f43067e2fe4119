"""Headers, whole and broken."""

from __future__ import annotations

import os
import resource
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from dovetail_loaders_gguf.cursor import StringArray
from dovetail_loaders_gguf.header import read_header

from dovetail.api import CheckpointError

from .files import byte_level, model, write


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_header(str(path))
    assert path.name in str(caught.value)
    assert caught.value.hint
    return str(caught.value)


def raw(path: Path, *pieces: bytes) -> Path:
    path.write_bytes(b"".join(pieces))
    return path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def header(tensors: int = 0, metadata: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, metadata)


def test_agrees_with_the_formats_own_package(tmp_path: Path) -> None:
    file = model(tmp_path / "m.gguf", general__name="Näme", a__flag=True, a__list=[1, 2, 3], a__names=["x", "yy", ""])
    ours, theirs = read_header(str(file)), gguf.GGUFReader(file)
    assert ours.metadata["general.name"] == "Näme"
    assert ours.metadata["a.flag"] is True
    assert ours.metadata["a.list"] == (1, 2, 3)
    assert list(ours.metadata["a.names"]) == ["x", "yy", ""]
    for mine, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert (mine.name, mine.shape) == (other.name, tuple(reversed(other.shape.tolist())))
        assert (mine.offset, mine.nbytes) == (other.data_offset, other.n_bytes)


def test_nested_arrays_and_every_scalar(tmp_path: Path) -> None:
    entries = [
        text("nested") + struct.pack("<IIQ", 9, 9, 2) + struct.pack("<IQ", 4, 1) + struct.pack("<I", 7) + struct.pack("<IQ", 8, 1) + text("é"),
        *(
            text(f"k{number}") + struct.pack(f"<I{code}", number, value)
            for number, code, value in ((0, "B", 255), (1, "b", -1), (2, "H", 65535), (3, "h", -2), (5, "i", -3))
        ),
        *(text(f"k{n}") + struct.pack(f"<I{code}", n, v) for n, code, v in ((6, "f", 0.5), (10, "Q", 2**63), (12, "d", 0.1))),
    ]  # fmt: skip
    metadata = read_header(str(raw(tmp_path / "m.gguf", header(metadata=len(entries)), *entries))).metadata
    assert metadata["nested"][0] == (7,)
    assert list(metadata["nested"][1]) == ["é"]
    assert [metadata[f"k{n}"] for n in (0, 1, 2, 3, 5, 6, 10, 12)] == [255, -1, 65535, -2, -3, 0.5, 2**63, 0.1]


def test_strings_are_found_without_decoding(tmp_path: Path) -> None:
    tokens = read_header(str(byte_level(tmp_path / "v.gguf", "gpt-2"))).metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, StringArray)
    everything = list(tokens)
    assert tokens.find(["</s>", everything[-1], "not there"]) == {"</s>": 1, everything[-1]: len(everything) - 1}
    assert tokens[2] == "<|user|>"


@pytest.mark.parametrize("part", [1, 8, 23, 24, 60, 200, -1])
def test_truncated(tmp_path: Path, part: int) -> None:
    whole = model(tmp_path / "whole.gguf").read_bytes()
    assert (
        "wanted" in (said := refusal(raw(tmp_path / "cut.gguf", whole[:part]))) or "wants" in said or "ends at" in said
    )


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = model(tmp_path / "whole.gguf", tokenizer__ggml__tokens=["a", "bc"]).read_bytes()
    for part in range(1, len(whole), 7):
        refusal(raw(tmp_path / "cut.gguf", whole[:part]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04" + bytes(40), "not a GGUF file"),
        (header(version=1) + bytes(8), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(8), "big-endian"),
        (header(tensors=2**62) + bytes(8), "tensors"),
        (header(metadata=2**62) + bytes(8), "metadata entries"),
        (header(metadata=1) + text("k") + struct.pack("<IQ", 8, 2**63), "metadata entry 'k'"),
        (header(metadata=1) + text("k") + struct.pack("<IIQ", 9, 8, 2**60), "metadata entry 'k'"),
        (header(metadata=1) + text("k") + struct.pack("<IIQ", 9, 4, 2**60), "metadata entry 'k'"),
        (header(metadata=1) + text("k") + struct.pack("<IIQQ", 9, 8, 1, 2**60), "metadata entry 'k'"),
        (header(metadata=1) + text("k") + struct.pack("<I", 99) + bytes(8), "unknown value type 99"),
        (header(metadata=1) + text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9 + bytes(8), "nests"),
        (header(tensors=1) + text("t") + struct.pack("<IQIQ", 1, 32, 77, 0) + bytes(99), "unknown ggml type 77"),
        (header(tensors=1) + text("t") + struct.pack("<IQIQ", 1, 33, 2, 0) + bytes(99), "multiple of 32"),
        (header(tensors=1) + text("t") + struct.pack("<IQIQ", 9, 32, 2, 0) + bytes(99), "9 dimensions"),
        (header(tensors=1) + text("t") + struct.pack("<IQQIQ", 2, 2**40, 2**40, 0, 0) + bytes(99), "tensor 't'"),
        (header(tensors=1) + text("t") + struct.pack("<IQIQ", 1, 32, 0, 2**50) + bytes(999), "ends at byte"),
        (header(tensors=1) + text("t") + struct.pack("<IQQIQ", 2, 0, 2**63, 0, 0) + bytes(99), "fewer than 2^63 elements"),
        (header(tensors=1) + text("t") + struct.pack("<IQIQ", 1, 2, 0, 16) + bytes(99), "a multiple of the alignment 32"),
        (header(tensors=2) + (text("t") + struct.pack("<IQIQ", 1, 2, 0, 0)) * 2 + bytes(99), "tensor 't' stands twice"),
        (
            header(tensors=2) + text("t") + struct.pack("<IQIQ", 1, 16, 0, 0) + text("u") + struct.pack("<IQIQ", 1, 2, 0, 32) + bytes(199),
            "begins at byte 128, inside of 't', which ends at 160",
        ),
        (header(metadata=2) + (text("k") + struct.pack("<IB", 0, 1)) * 2 + bytes(9), "'k' stands twice"),
        (header(metadata=1) + text("a\x1b[31m\n") + struct.pack("<IB", 0, 1) + bytes(9), "is b'a\\x1b[31m\\n', wanted"),
        (header(metadata=1) + text("") + struct.pack("<IB", 0, 1) + bytes(9), "is b'', wanted"),
        (header(metadata=1) + text("x" * 70_000) + struct.pack("<IB", 0, 1) + bytes(9), "wanted 1 to 65536 bytes"),
        (header(metadata=1) + struct.pack("<Q2sIB", 2, b"\xff\xfe", 0, 1) + bytes(9), "is b'\\xff\\xfe', wanted"),
        (header(tensors=1) + text("\u202e") + struct.pack("<IQIQ", 1, 2, 0, 0) + bytes(99), "printable text"),
        (header(metadata=1) + text("k") + struct.pack("<IIQ", 9, 0, 2**23) + bytes(2**23), "items of arrays"),
        (header(metadata=2**17) + bytes(2**21), "lists 131072 metadata entries"),
        *(
            (header(metadata=1) + text("general.alignment") + struct.pack(f"<I{code}", type_, value) + bytes(99), f"is {value}, wanted a power of two")
            for type_, code, value in ((4, "I", 0), (4, "I", 3), (4, "I", 2**31), (5, "i", -32), (6, "f", 32.0), (7, "?", True))
        ),
    ],
)  # fmt: skip
def test_malformed(tmp_path: Path, content: bytes, said: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert said in (told := refusal(raw(tmp_path / "bad.gguf", content)))
    assert told.isprintable()
    assert len(told) < 900
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
def test_what_is_no_file_hangs_nobody(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "m.gguf"
    match kind:
        case "pipe":
            os.mkfifo(place)
        case "folder":
            place.mkdir()
        case "loop":
            place.symlink_to(place)
    refusal(place)


def test_missing_file(tmp_path: Path) -> None:
    refusal(tmp_path / "absent.gguf")


def test_alignment(tmp_path: Path) -> None:
    values = np.arange(8, dtype=np.float32)
    file = write(tmp_path / "m.gguf", {"t": values}, general__alignment=256)
    (tensor,) = read_header(str(file)).tensors
    assert tensor.offset % 256 == 0
    assert file.read_bytes()[tensor.offset :][: tensor.nbytes] == values.tobytes()
