"""Lazy tensors of files of ``torch.save``; those of zip archives are mapped."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache

import torch

from dovetail.api import DOWNLOAD_AGAIN, Checkpoint, CheckpointError, LazyTensor, one_line
from dovetail_loaders_torch.contents import read_contents


def load(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], device: torch.device) -> Iterator[LazyTensor]:
    """Yield every tensor of the checkpoint. A file is opened when its first tensor is read.

    Raises:
        CheckpointError: a file is damaged, or changed meanwhile.
    """
    for file in checkpoint.files:
        found, wrapper = read_contents(file)
        opened = cache(lambda file=file, wrapper=wrapper: _open(file, wrapper))
        for name, tensor in found.items():
            yield LazyTensor(name, tensor.shape, tensor.type, _reader(opened, file, name))


def _reader(opened: Callable[[], Mapping[str, torch.Tensor]], file: str, name: str) -> Callable[[], torch.Tensor]:
    def read() -> torch.Tensor:
        tensors = opened()
        if name not in tensors:
            raise CheckpointError(f"{file} has no tensor {name} any more", "start again when nothing writes to it")
        return tensors[name].detach()

    return read


def _open(file: str, wrapper: str | None) -> Mapping[str, torch.Tensor]:
    try:
        whole = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        found: Mapping[str, torch.Tensor] = whole if wrapper is None else whole[wrapper]
    except Exception as error:  # torch has no error of its own for what is damaged
        raise CheckpointError(f"cannot read {file} ({one_line(str(error))})", DOWNLOAD_AGAIN) from error
    return found
