"""What stands in a file, from its headers alone. Runs before anything is chosen, so it must not import torch."""

from __future__ import annotations

import zipfile
from collections import Counter
from dataclasses import dataclass

from dovetail.api import Checkpoint, CheckpointError
from numpy.lib import format as npy

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
TYPES = ("float64", "float32", "float16")


@dataclass(frozen=True)
class Entry:
    """One array of an archive."""

    file: str
    name: str
    shape: tuple[int, ...]
    type: str


def entries(file: str) -> list[Entry]:
    """The arrays of one archive, without their data.

    Raises:
        CheckpointError: the file is damaged, or holds something other than floating-point arrays.
    """
    found = []
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.namelist():
                with archive.open(member) as stream:
                    shape, _, dtype = HEADERS[npy.read_magic(stream)](stream)
                found.append(Entry(file, member.removesuffix(".npy"), shape, dtype.name))
    except Exception as error:  # what the libraries raise of a damaged file is of many kinds
        raise CheckpointError(f"{file} cannot be read as an archive of arrays ({error})", "copy it again") from None
    for entry in found:
        if entry.type not in TYPES:
            problem = f"{entry.name} in {file} is of type {entry.type}, wanted {', '.join(TYPES)}"
            raise CheckpointError(problem, "convert it")
    return found


def inspect(path: str, files: tuple[str, ...]) -> Checkpoint:
    """Describe a checkpoint; the configuration is read from the ``config.json`` beside it."""
    types = Counter(entry.type for file in files for entry in entries(file))
    return Checkpoint(path=path, files=files, tensor_types=dict(types))
