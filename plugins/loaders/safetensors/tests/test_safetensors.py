"""Checkpoints whole, sharded, incomplete and damaged."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from dovetail_loaders_safetensors import dovetail_register_loaders
from dovetail_loaders_safetensors.header import DTYPES
from dovetail_loaders_safetensors.inspection import inspect
from dovetail_loaders_safetensors.loading import load
from safetensors.torch import save_file

from dovetail.api import CheckpointError
from dovetail.testing import check_loader

CPU = torch.device("cpu")
TENSORS = {
    "a.weight": torch.arange(12, dtype=torch.float32).view(3, 4),
    "b.weight": torch.ones(5, dtype=torch.bfloat16),
    "scale": torch.tensor(2.0),
    "none": torch.empty(0, 3, dtype=torch.float16),
    "codes": torch.arange(6, dtype=torch.int32).view(2, 3),
    "fp8": torch.ones(2, 2).to(torch.float8_e4m3fn),
}


def shards(folder: Path, count: int = 3, index: bool = True) -> list[str]:
    names = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    for i, name in enumerate(names):
        save_file({f"t{i}": torch.full((2,), float(i))}, folder / name)
    if index:
        table = {"metadata": {}, "weight_map": {f"t{i}": name for i, name in enumerate(names)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(table))
    return names


def found(folder: Path) -> list[str]:
    files = tuple(map(str, sorted(folder.glob("*.safetensors"))))
    return [Path(file).name for file in inspect(str(folder), files).files]


def refusal(path: Path, files: Iterable[Path] = ()) -> str:
    with pytest.raises(CheckpointError) as caught:
        inspect(str(path), tuple(map(str, files)))
    assert caught.value.hint
    return str(caught.value)


def test_card(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    (card,) = dovetail_register_loaders()
    check_loader(card, tmp_path, TENSORS)


@pytest.mark.parametrize("stored", DTYPES.values(), ids=DTYPES)
def test_every_dtype(tmp_path: Path, stored: tuple[str, int]) -> None:
    dtype = getattr(torch, stored[0])
    value = torch.arange(8, dtype=torch.uint8).repeat(2, 8).view(dtype)
    save_file({"t": value}, tmp_path / "model.safetensors")
    checkpoint = inspect(str(tmp_path), (str(tmp_path / "model.safetensors"),))
    (lazy,) = load(checkpoint, {}, CPU)
    read = lazy.read()
    assert checkpoint.tensor_types == {stored[0]: 1}
    assert (lazy.type, lazy.shape, read.dtype) == (stored[0], tuple(value.shape), dtype)
    assert torch.equal(read.view(torch.uint8), value.view(torch.uint8))


def test_reading_is_lazy(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    tensors = {t.name: t for t in load(inspect(str(tmp_path), (str(tmp_path / "model.safetensors"),)), {}, CPU)}
    assert tensors["a.weight"].read().data_ptr() == tensors["a.weight"].read().data_ptr()  # of the mapped file itself


def test_index(tmp_path: Path) -> None:
    names = shards(tmp_path)
    save_file({"x": torch.ones(1)}, tmp_path / "consolidated.safetensors")
    assert found(tmp_path) == names
    checkpoint = inspect(str(tmp_path), tuple(str(tmp_path / name) for name in names))
    assert {t.name: float(t.read()[0]) for t in load(checkpoint, {}, CPU)} == {"t0": 0.0, "t1": 1.0, "t2": 2.0}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_index_decides_between_tensors_of_one_name(tmp_path: Path, encoding: str) -> None:
    names = ["a.safetensors", "b.safetensors"]
    save_file({"x": torch.zeros(2), "y": torch.zeros(3, dtype=torch.float16)}, tmp_path / names[0])
    save_file({"x": torch.ones(2), "y": torch.ones(3), "z": torch.ones(1)}, tmp_path / names[1])
    table = {"weight_map": {"x": names[1], "y": names[0]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(table), encoding=encoding)
    checkpoint = inspect(str(tmp_path), tuple(str(tmp_path / name) for name in names))
    assert checkpoint.tensor_types == {"float16": 1, "float32": 2}
    read = {t.name: (t.type, float(t.read()[0])) for t in load(checkpoint, {}, CPU)}
    assert read == {"x": ("float32", 1.0), "y": ("float16", 0.0), "z": ("float32", 1.0)}


def test_an_index_that_does_not_know_the_tensor_decides_nothing(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file({"x": torch.zeros(2), name[0]: torch.zeros(2)}, tmp_path / name)
    table = {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(table))
    assert "'x' stands both in" in refusal(tmp_path, tmp_path.glob("*.safetensors"))


def test_an_index_of_files_that_are_not_there_counts_for_nothing(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    table = {"weight_map": {"x": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(table))
    assert found(tmp_path) == ["model.safetensors"]


def test_shards_come_before_files_beside_them(tmp_path: Path) -> None:
    names = shards(tmp_path, index=False)
    for other in ("consolidated", "adapter_model", "ema-00001-of-00009", "consolidated-00001-of-00002", "model"):
        save_file({"t0": torch.ones(1)}, tmp_path / f"{other}.safetensors")
    assert found(tmp_path) == names


@pytest.mark.parametrize("others", [("consolidated",), ("adapter_model", "optimizer")])
def test_what_stands_beside_a_model_is_left_alone(tmp_path: Path, others: tuple[str, ...]) -> None:
    for name in ("weights", *others):
        save_file({"t": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    assert found(tmp_path) == ["weights.safetensors"]
    (tmp_path / "weights.safetensors").unlink()
    if len(others) == 1:
        assert found(tmp_path) == [f"{others[0]}.safetensors"]


def test_names_in_capitals(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "MODEL.SAFETENSORS")
    save_file({"x": torch.ones(1)}, tmp_path / "A.SAFETENSORS")
    files = tuple(map(str, tmp_path.iterdir()))
    assert [Path(file).name for file in inspect(str(tmp_path), files).files] == ["MODEL.SAFETENSORS"]


def test_links_into_a_cache(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    for i, name in enumerate(shards(tmp_path / "snapshot")):
        (tmp_path / "snapshot" / name).rename(tmp_path / "blobs" / str(i))
        (tmp_path / "snapshot" / name).symlink_to(tmp_path / "blobs" / str(i))
    checkpoint = inspect(str(tmp_path / "snapshot"), tuple(map(str, (tmp_path / "snapshot").glob("*.safetensors"))))
    assert [float(t.read()[0]) for t in load(checkpoint, {}, CPU)] == [0.0, 1.0, 2.0]


def test_one_shard_stands_for_all(tmp_path: Path) -> None:
    names = shards(tmp_path)
    checkpoint = inspect(str(tmp_path / names[1]), (str(tmp_path / names[1]),))
    assert [Path(file).name for file in checkpoint.files] == names


def test_file_outside_the_index(tmp_path: Path) -> None:
    shards(tmp_path)
    other = tmp_path / "consolidated.safetensors"
    save_file({"x": torch.ones(1)}, other)
    assert inspect(str(other), (str(other),)).files == (str(other),)


def test_without_index(tmp_path: Path) -> None:
    assert shards(tmp_path, index=False) == found(tmp_path)


def test_customary_name_goes_first(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    save_file({"x": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    assert found(tmp_path) == ["model.safetensors"]


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    names = shards(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    os.mkfifo(tmp_path / "model.safetensors.index.json")
    assert "index.json (it is no regular file)" in refusal(tmp_path, [tmp_path / name for name in names])
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / names[1]).unlink()
    os.mkfifo(tmp_path / names[1])
    assert f"missing: {names[1]}" in refusal(tmp_path, [tmp_path / name for name in names])


@pytest.mark.parametrize("index", [True, False])
def test_missing_shards_are_all_named(tmp_path: Path, index: bool) -> None:
    names = shards(tmp_path, 4, index)
    for name in (names[0], names[2]):
        (tmp_path / name).unlink()
    said = refusal(tmp_path, tmp_path.glob("*.safetensors"))
    assert f"missing: {names[0]}, {names[2]}" in said
    assert "found 2" in said


def test_tensor_in_two_files(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file({"t": torch.ones(1)}, tmp_path / name)
    said = refusal(tmp_path, tmp_path.glob("*.safetensors"))
    assert "'t'" in said
    assert "a.safetensors" in said
    assert "b.safetensors" in said


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"weight_map": [["a", "model.safetensors"]]}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": {"b": 1}}}',
        '{"weight_map": {"a": "../evil.safetensors"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"weight_map": {"a": ".."}}',
        '{"weight_map": {"a": ""}}',
        '{"weight_map": {"a": "sub\\\\evil.safetensors"}}',
        '{"weight_map": {"a": "x\\u0000.safetensors"}}',
        '{"weight_map": {"a": "\\ud800"}}',
        pytest.param('{"weight_map": {"a": "' + "x" * 300 + '"}}', id="long name"),
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_malformed_index(tmp_path: Path, text: str) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert "index.json" in (said := refusal(tmp_path, [tmp_path / "model.safetensors"]))
    assert said.isprintable()


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
def test_what_is_no_file_hangs_nobody(tmp_path: Path, name: str, kind: str) -> None:
    save_file(TENSORS, tmp_path / "other.safetensors")
    place = tmp_path / name
    match kind:
        case "pipe":
            os.mkfifo(place)
        case "folder":
            place.mkdir()
        case "loop":
            place.symlink_to(place)
    assert name in refusal(tmp_path, [place, tmp_path / "other.safetensors"])


def test_a_file_that_became_shorter_is_refused_when_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"t": torch.ones(100_000)}, file)
    (lazy,) = load(inspect(str(file), (str(file),)), {}, CPU)
    os.truncate(file, 5000)
    with pytest.raises(CheckpointError, match="changed meanwhile"):
        lazy.read()


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(TENSORS, file)
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        said = refusal(file, [file])
        assert "model.safetensors" in said
        assert "wanted" in said


def framed(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(8)


def entry(**changes: object) -> dict[str, object]:
    return {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (struct.pack("<Q", 1 << 40) + b"{}", "announces a header of"),
        (struct.pack("<Q", 2) + b"{{", "not JSON"),
        (struct.pack("<Q", 2) + b"[]", "JSON list"),
        (entry(dtype="Q9"), "of dtype 'Q9'"),
        (entry(shape=[3]), "wanted 12"),
        (entry(shape=[-2]), "'shape': [-2]"),
        (entry(shape=[2.0]), "'shape': [2.0]"),
        (entry(shape=[True, 2]), "not negative"),
        (entry(shape=[0, 2**63 - 1, 2**63 - 1], data_offsets=[0, 0]), "fewer than 2^63 elements"),
        (entry(shape=[1] * 20), "at most 16 dimensions"),
        (entry(dtype=["F32"]), "wanted dtype, shape and data_offsets"),
        (entry(data_offsets=[8, 0]), "has -8 bytes"),
        (entry(data_offsets=["0", "8"]), "wanted dtype, shape and data_offsets"),
        (entry(data_offsets=[0, 10**30]), "wanted dtype, shape and data_offsets"),
        ({**entry(), "u": entry()["t"]}, "tensor 'u'"),
        ({"\x1b[31m": entry()["t"]}, "names a tensor '\\x1b[31m'"),
        ({"x" * 2000: entry()["t"]}, "printable characters"),
        ({"__metadata__": {"a": 1}}, "wanted an object with texts"),
        ({"__metadata__": "x"}, "wanted an object with texts"),
        (framed(b'{"t": {"dtype": "F32", "dtype": "F16"}}'), "has 'dtype' twice"),
        (framed(b'{"t": {}, "t": {}}'), "has 't' twice"),
        (framed(b"[" * 100_000 + b"]" * 100_000), "nests"),
        (framed(b'{"t": [' + b"0," * 2**21 + b"0]}"), "values"),
        (framed(b'{"t": ' + b"9" * 10_000 + b"}"), "not JSON"),
        (framed(b"\xff\xfe"), "not JSON"),
        (entry(shape="xy"), "wanted dtype, shape and data_offsets"),
        (entry(data_offsets=[0]), "wanted dtype, shape and data_offsets"),
        (entry(data_offsets=[8, 16]), "begins at byte 8, wanted 0"),
        ({"t": 3}, "wanted dtype, shape and data_offsets"),
    ],
)
def test_malformed(tmp_path: Path, content: bytes | dict[str, object], said: str) -> None:
    if isinstance(content, dict):
        content = framed(json.dumps(content).encode())
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    assert said in (told := refusal(file, [file]))
    assert "model.safetensors" in told
    assert told.isprintable()
    assert len(told) < 900


def test_inspection_needs_no_torch(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    code = (
        "import sys; from dovetail_loaders_safetensors.inspection import inspect; inspect(sys.argv[1], (sys.argv[1],)); "
        "sys.exit(', '.join({'torch', 'numpy', 'safetensors'} & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.safetensors")], check=True, timeout=60)


def test_bytes_that_belong_to_no_tensor_are_refused(tmp_path: Path) -> None:
    header = json.dumps(entry()).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(9))
    assert "holds 9 bytes of tensors, wanted 8" in refusal(file, [file])
