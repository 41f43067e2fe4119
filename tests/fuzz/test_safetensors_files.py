"""Damaged and hostile safetensors files and indexes: each is served, or refused in one line that a user can act on."""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ..tiny import write_checkpoint
from .folder_use import use_model
from .mutations import NASTY_VALUES, damage_bytes, damage_json, dump_json
from .trial import Outcome, run_trial

INDEX = "model.safetensors.index.json"
SHARDS = 3
SIZES = (0, 1, 2, 7, 2**31, 2**32, 10**12, 2**62, 2**63 - 1, 2**63, 2**64, 10**30, -1, -8, 0.5, 4.0, True, None, "8")
NAMES = (
    "",
    "x",
    "..",
    ".",
    "../../etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    "config.json",
    "a\nb\x1b[31m",
    "\ud800",
    "y" * 400,
)
DTYPES = ("BOOL", "I64", "F16", "BF16", "F64", "F8_E4M3", "F4", "C64", "U8", "F6_E2M3", "f32", "", None, 7, ["F32"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model in one file, and the same in shards with an index."""
    base = tmp_path_factory.mktemp("safetensors")
    whole = write_checkpoint(base / "whole")
    tensors = load_file(whole / "model.safetensors")
    sharded = shutil.copytree(whole, base / "sharded", ignore=shutil.ignore_patterns("*.safetensors"))
    places = {}
    for number in range(SHARDS):
        name = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        own = dict([*tensors.items()][number::SHARDS])
        save_file(own, sharded / name, {"format": "pt"})
        places |= dict.fromkeys(own, name)
    (sharded / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    torch.set_num_threads(1)
    for folder in (whole, sharded):
        use_model(folder)  # what is imported at the first use is there for all trials
    return {"whole": whole, "sharded": sharded}


def damage_file(raw: bytes, rng: random.Random) -> bytes:
    length = struct.unpack("<Q", raw[:8])[0]
    match rng.randrange(10):
        case 0 | 1:
            return damage_bytes(raw, rng, first=8 + length)
        case 2:
            return raw[: rng.randrange(len(raw))]
        case 3:
            return raw + rng.randbytes(rng.choice((1, 8, 4096)))
        case 4:  # values that are not numbers, or far too large
            piece = rng.choice((b"\xff\xff\xff\x7f", b"\x00\x00\x80\x7f", rng.randbytes(64)))
            at = rng.randrange(8 + length, len(raw) - len(piece))
            return raw[:at] + piece + raw[at + len(piece) :]
    header = json.loads(raw[8 : 8 + length])
    return frame(damage_header(header, rng), raw[8 + length :])


def frame(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def damage_header(header: dict[str, Any], rng: random.Random) -> bytes:
    tensors = [name for name in header if name != "__metadata__"]
    name = rng.choice(tensors)
    entry = header[name]
    match rng.randrange(10):
        case 0:
            entry["shape"] = rng.choice(
                ([], entry["shape"] * 2, entry["shape"][::-1], [0, 10**18], [1] * 70, [rng.choice(SIZES)])
            )
        case 1:
            place = rng.choice(("shape", "data_offsets"))
            entry[place] = [*entry[place][:-1], rng.choice(SIZES)]
        case 2:
            entry["data_offsets"] = rng.choice(
                (entry["data_offsets"][::-1], header[rng.choice(tensors)]["data_offsets"], [0, 0], [8])
            )
        case 3:
            entry["dtype"] = rng.choice(DTYPES)
        case 4:  # the same bytes, read in another way
            entry["dtype"], entry["shape"] = "U8", [entry["data_offsets"][1] - entry["data_offsets"][0]]
        case 5:
            header[rng.choice((*NAMES, rng.choice(tensors), "__metadata__", f"{name}_scale"))] = header.pop(name)
        case 6:
            header["__metadata__"] = rng.choice(NASTY_VALUES)
        case 7:  # twice in the text
            text = json.dumps({name: entry})[1:-1]
            return dump_json(header)[:-1] + b", " + text.encode() + b"}"
        case _:
            return dump_json(damage_json(header, rng))
    return dump_json(header)


def damage_index(index: dict[str, Any], rng: random.Random) -> bytes:
    places = index["weight_map"]
    match rng.randrange(6):
        case 0:
            places[rng.choice([*places])] = rng.choice(
                (*NAMES, *sorted(set(places.values()))) if rng.random() < 0.5 else NAMES
            )
        case 1:
            places[rng.choice(NAMES)] = rng.choice(sorted(set(places.values())))
        case 2:
            index["weight_map"] = rng.choice((*NASTY_VALUES, dict.fromkeys(places, rng.choice(NAMES))))
        case 3:
            return damage_bytes(json.dumps(index).encode(), rng)
        case _:
            return dump_json(damage_json(index, rng))
    return dump_json(index)


def try_damaged(folders: dict[str, Path], base: Path, rng: random.Random) -> tuple[str, Outcome]:
    kind = rng.choice([*folders])
    folder = base / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(folders[kind], folder)
    broken = rng.choice(sorted([*folder.glob("*.safetensors"), *folder.glob(INDEX)]))
    if broken.name == INDEX or (kind == "sharded" and rng.random() < 0.4):
        broken = folder / INDEX
        broken.write_bytes(damage_index(json.loads(broken.read_text()), rng))
    else:
        broken.write_bytes(damage_file(broken.read_bytes(), rng))
    return f"{kind}/{broken.name}", run_trial(lambda: use_model(folder))


def sweep(folders: dict[str, Path], base: Path, seeds: range) -> list[str]:
    found = []
    for seed in seeds:
        name, outcome = try_damaged(folders, base, random.Random(seed))
        if outcome.problem:
            found.append(f"{seed}, {name}: {outcome.problem}"[:4000])
    return found


def test_damaged_files(folders: dict[str, Path], tmp_path: Path) -> None:
    assert not sweep(folders, tmp_path, range(100))


@pytest.mark.sweep
@pytest.mark.parametrize("part", range(10))
def test_many_damaged_files(folders: dict[str, Path], tmp_path: Path, part: int) -> None:
    assert not sweep(folders, tmp_path, range(1000 + 200 * part, 1200 + 200 * part))
