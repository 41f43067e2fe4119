"""Conformance tests of loaders."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dovetail.api import Checkpoint, CheckpointError, LazyTensor, LoaderCard
from dovetail.kernel.checkpoints import find_checkpoint
from dovetail.kernel.discovery import import_dotted
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.weight_files import matches
from dovetail.nn.checked_parts import load_tensors
from dovetail.python_path import child_environment, python_command
from dovetail.testing.comparison import label
from dovetail.testing.resolution import assert_refused, claim, make_registry, part_of, refusal_message

HOST = torch.device("cpu")
FLIPS, HEADER_BYTES = 60, 4096
"""Damaged copies of each file, and the bytes at its beginning where they are damaged."""
INSPECT = """
import json, sys
request = json.loads(sys.argv[1])
sys.path[:] = request["sys_path"]
from dovetail.kernel.discovery import import_dotted
checkpoint = import_dotted(request["inspect"])(request["path"], tuple(request["files"]))
print(json.dumps({"checkpoint": checkpoint.model_dump(mode="json"), "torch": "torch" in sys.modules}))
"""


def check_loader(card: LoaderCard, path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Check every claim of a loader's card on a small checkpoint.

    Checks that its files are recognised and others are not; that ``inspect`` describes them without torch, in a form
    that can be sent to the engine's process; that every tensor is yielded once, with the type and shape that it is read
    with, and reads the same twice; that truncated and empty files are refused with their name; and that files with some
    damaged bytes are read, or refused in one line. A loader that reads no files must not be selected automatically, and must yield the described tensors.

    Args:
        path: a weight file, or a folder with weight files and ``config.json``; any folder for a loader that reads no
            files.
        tensors: the checkpoint's tensors by name: as written, or dequantized if it is quantized (then only the shape is
            compared).

    Raises:
        AssertionError: names the claim that failed.
    """
    path = Path(path)
    files = _files(card, path)
    assert files or not card.recognises, f"{label(card)} recognises {', '.join(card.recognises)}, but nothing at {path}"
    with claim(f"{label(card)}: inspecting and reading {path}"):
        checkpoint = _inspect(card, path, files)
        found = _lazy(card, checkpoint, tensors)
    stored = Counter(t.type for t in found.values())
    # How many tensors a loader without files yields is the model's affair, so it can announce their types alone.
    announced = checkpoint.tensor_types if card.recognises else {t: stored[t] for t in checkpoint.tensor_types}
    assert dict(stored) == announced, (
        f"{label(card)}: inspect() counts {checkpoint.tensor_types}, the loader yields {dict(stored)}"
    )
    for name, value in tensors.items():
        assert name in found, f"{label(card)}: {name} is in the checkpoint, but is not yielded"
        with claim(f"{label(card)}: reading {name}"):
            _check_tensor(card, found[name], value)
    unexpected = sorted(set(found) - set(tensors))
    assert not unexpected, f"{label(card)}: yields {', '.join(unexpected)}, which the checkpoint does not hold"
    _check_damage(card, path, files)
    _check_flipped(card, path, files)
    _check_signatures(card, files)
    _check_unrecognised(card)


def _files(card: LoaderCard, path: Path) -> list[Path]:
    there = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    return [p for p in there if matches(p.name, card.recognises)]


def _inspect(card: LoaderCard, path: Path, files: list[Path]) -> Checkpoint:
    request = {
        "sys_path": sys.path,
        "inspect": card.inspect,
        "path": str(path),
        "files": [str(f) for f in files],
    }
    command = python_command("-c", INSPECT, json.dumps(request))
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{label(card)}: inspect() failed:\n{done.stderr}"
    report = json.loads(done.stdout.splitlines()[-1])
    assert not report["torch"], f"{label(card)}: inspect() imports torch"
    return Checkpoint.model_validate(report["checkpoint"])


def _lazy(card: LoaderCard, checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> dict[str, LazyTensor]:
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    return {tensor.name: tensor for tensor in load_tensors(part_of(card), checkpoint, shapes, HOST)}


def _check_tensor(card: LoaderCard, lazy: LazyTensor, expected: Tensor) -> None:
    text = f"{label(card)}: {lazy.name}"
    assert tuple(lazy.shape) == tuple(expected.shape), (
        f"{text} is announced as {list(lazy.shape)}, wanted {list(expected.shape)}"
    )
    value = lazy.read()
    assert torch.equal(value, lazy.read()), f"{text} reads differently the second time"
    if isinstance(getattr(torch, lazy.type, None), torch.dtype):
        assert torch.equal(value, expected.to(value.dtype)), f"{text} does not hold what was written"
    else:
        assert value.dtype == torch.uint8, f"{text} is of the type {lazy.type}, but reads as {value.dtype}, not bytes"
        assert value.shape[0] == lazy.shape[0], f"{text} reads as {value.shape[0]} rows of bytes, not {lazy.shape[0]}"


def _check_damage(card: LoaderCard, path: Path, files: list[Path]) -> None:
    """Check that a truncated file is refused by name, before or while its tensors are read."""
    with tempfile.TemporaryDirectory() as scratch:
        for file in files:
            for share in (0.0, 0.5, 0.95):
                folder = Path(scratch) / f"{file.name}-{share}"
                shutil.copytree(path, folder) if path.is_dir() else folder.mkdir()
                if path.is_file():
                    shutil.copy(path, folder)
                whole = file.read_bytes()
                (folder / file.name).write_bytes(whole[: int(len(whole) * share)])
                damaged = folder if path.is_dir() else folder / file.name
                _check_refused(card, damaged, file.name, f"{file.name} cut to {share:.0%}")


def _check_flipped(card: LoaderCard, path: Path, files: list[Path]) -> None:
    """Check that a file with damaged bytes near its beginning, where headers are, is read or refused as truncated ones
    are: whatever a file says, no other error is raised, and the message is one line.
    """
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "flipped"
        shutil.copytree(path, folder) if path.is_dir() else folder.mkdir()
        if path.is_file():
            shutil.copy(path, folder)
        for file in files:
            whole = file.read_bytes()
            for _ in range(FLIPS if whole else 0):
                changed = bytearray(whole)
                for _ in range(rng.choice((1, 1, 4))):
                    changed[rng.randrange(min(len(whole), HEADER_BYTES))] = rng.choice((0, 255, rng.randrange(256)))
                (folder / file.name).write_bytes(changed)
                text = f"{label(card)}: {file.name} with damaged bytes"
                try:
                    said = refusal_message(
                        partial(_read_all, card, folder if path.is_dir() else folder / file.name), CheckpointError
                    )
                except Exception as error:
                    raise AssertionError(
                        f"{text} raises {type(error).__name__}, wanted a CheckpointError: {error}"
                    ) from error
                assert said is None or said.isprintable(), (
                    f"{text} is refused with a message of more than a line: {said!r}"
                )
            (folder / file.name).write_bytes(whole)


def _check_refused(card: LoaderCard, path: Path, name: str, what: str) -> None:
    text = f"{label(card)}: {what}"
    try:
        refused = refusal_message(partial(_read_all, card, path), CheckpointError)
    except Exception as error:
        raise AssertionError(f"{text} raises {type(error).__name__}, wanted a CheckpointError: {error}") from error
    assert refused is not None, f"{text} is not refused"
    assert name in refused, f"{text} is refused without the file's name: {refused}"


def _read_all(card: LoaderCard, path: Path) -> None:
    checkpoint: Checkpoint = import_dotted(card.inspect)(str(path), tuple(str(f) for f in _files(card, path)))
    for tensor in import_dotted(card.target)(checkpoint, {}, HOST):
        tensor.read()


def _check_signatures(card: LoaderCard, files: list[Path]) -> None:
    """Check that files begin with the card's signature, and are read under any name."""
    if not card.signatures:
        return
    starts = tuple(signature.encode("latin-1") for signature in card.signatures)
    for file in files:
        assert file.read_bytes().startswith(starts), f"{label(card)}: {file.name} begins with none of its signatures"
    if len(files) == 1:
        with tempfile.TemporaryDirectory() as scratch:
            renamed = Path(scratch) / "no-such-format"
            shutil.copy(files[0], renamed)
            with claim(f"{label(card)}: a file of another name"):
                _inspect(card, renamed, [renamed])


def _check_unrecognised(card: LoaderCard) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        stranger = Path(scratch) / "no-such-format.zzz"
        stranger.touch()
        if matches(stranger.name, card.recognises):
            return
        refused = partial(find_checkpoint, str(stranger), PlanOptions(), make_registry(card), [])
        assert_refused(refused, f"{label(card)} does not claim {stranger.name}", stranger.name)
