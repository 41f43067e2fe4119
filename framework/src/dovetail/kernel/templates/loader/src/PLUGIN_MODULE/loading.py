"""Lazy tensors: nothing is read before the engine asks for it, and nothing is kept afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import torch
from dovetail.api import Checkpoint, CheckpointError, LazyTensor

from PLUGIN_MODULE.inspection import Entry, entries


def load(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], device: torch.device) -> Iterator[LazyTensor]:
    """Every tensor of the checkpoint, in the order of the files, whether the model expects it or not."""
    for file in checkpoint.files:
        for entry in entries(file):
            yield LazyTensor(entry.name, entry.shape, entry.type, partial(read, entry))


def read(entry: Entry) -> torch.Tensor:
    """One array.

    Raises:
        CheckpointError: its data are damaged.
    """
    try:
        with np.load(entry.file) as archive:
            return torch.from_numpy(archive[entry.name])
    except Exception as error:  # what the libraries raise of a damaged file is of many kinds
        problem = f"{entry.name} in {entry.file} cannot be read ({error})"
        raise CheckpointError(problem, "copy the file again") from None
