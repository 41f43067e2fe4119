"""A loader of ``.npz`` files, and ways to get it wrong."""

import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dovetail.api import Checkpoint, CheckpointError, LazyTensor

Shapes = Mapping[str, tuple[int, ...]]


def _names(file: str) -> dict[str, tuple[tuple[int, ...], str]]:
    with np.load(file) as arrays:
        return {name: (arrays[name].shape, arrays[name].dtype.name) for name in arrays.files}


def inspect(path: str, files: tuple[str, ...]) -> Checkpoint:
    types: dict[str, int] = {}
    for file in files:
        try:
            for _, dtype in _names(file).values():
                types[dtype] = types.get(dtype, 0) + 1
        except Exception as error:  # zipfile and numpy raise whatever a damaged file leads to
            raise CheckpointError(f"{file} is not a whole .npz file ({error})", "copy it again") from None
    return Checkpoint(path=path, files=files, tensor_types=types)


def load(checkpoint: Checkpoint, expected: Shapes, device: Any) -> Iterator[LazyTensor]:
    import torch

    def read(file: str, name: str) -> torch.Tensor:
        with np.load(file) as arrays:
            return torch.from_numpy(arrays[name])

    for file in checkpoint.files:
        for name, (shape, dtype) in _names(file).items():
            yield LazyTensor(name, shape, dtype, partial(read, file, name))


def inspect_with_torch(path: str, files: tuple[str, ...]) -> Checkpoint:
    import torch  # noqa: F401

    return inspect(path, files)


def inspect_narrowly(path: str, files: tuple[str, ...]) -> Checkpoint:
    """Knows a file that was cut off, and no other damage."""
    for file in files:
        try:
            if zipfile.ZipFile(file).testzip() is not None:
                raise CheckpointError(f"{file} is damaged", "copy it again")
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{file} is not a whole .npz file ({error})", "copy it again") from None
    return inspect(path, files)


def inspect_blindly(path: str, files: tuple[str, ...]) -> Checkpoint:
    """Takes any file for a good one."""
    return Checkpoint(path=path, files=files, tensor_types={"float32": 3})


def load_twice(checkpoint: Checkpoint, expected: Shapes, device: Any) -> Iterator[LazyTensor]:
    yield from load(checkpoint, expected, device)
    yield from load(checkpoint, expected, device)


def load_turned(checkpoint: Checkpoint, expected: Shapes, device: Any) -> Iterator[LazyTensor]:
    """Announces another shape than it reads."""
    for tensor in load(checkpoint, expected, device):
        yield LazyTensor(tensor.name, tensor.shape, tensor.type, lambda tensor=tensor: tensor.read().mT)


def load_some(checkpoint: Checkpoint, expected: Shapes, device: Any) -> Iterator[LazyTensor]:
    yield next(load(checkpoint, expected, device))


def exists(path: Path) -> bool:
    return path.exists()
