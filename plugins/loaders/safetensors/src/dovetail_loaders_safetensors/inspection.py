"""Describes a safetensors checkpoint without torch: its files, and which tensor counts if there are two of one name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dovetail.api import Checkpoint, CheckpointError, quote_foreign, read_index, select_files
from dovetail_loaders_safetensors.header import TensorInfo, read_header

OTHERS = ("consolidated", "adapter_model", "optimizer", "ema")
INDEX_KEY = "index"
"""Key of the index's path in a checkpoint's metadata."""


def inspect(path: str, files: tuple[str, ...]) -> Checkpoint:
    """Describe the checkpoint at a model reference.

    Args:
        path: the folder or the file of the reference.
        files: the safetensors files found there, as full paths.

    Raises:
        CheckpointError: files are missing, truncated or malformed, or two of them hold the same tensor.
    """
    where = Path(path)
    folder = where.parent if where.is_file() else where
    names = [Path(file).name for file in files] or [where.name]
    selection = select_files(folder, names, "model.safetensors", OTHERS)
    chosen = tuple(str(folder / name) for name in selection.files)
    types = Counter(tensor.type for _, tensor in tensors_of(chosen, selection.index))
    metadata = {INDEX_KEY: selection.index} if selection.index else {}
    return Checkpoint(path=path, files=chosen, metadata=metadata, tensor_types=dict(sorted(types.items())))


def tensors_of(files: Sequence[str], index: str | None) -> list[tuple[str, TensorInfo]]:
    """Every tensor with its file. If two have one name, the one in the index counts.

    Raises:
        CheckpointError: a file is truncated or malformed, or no index decides between two tensors.
    """
    listed = read_index(Path(index)) if index else {}
    found: dict[str, tuple[str, TensorInfo]] = {}
    for file in files:
        for tensor in read_header(file):
            if tensor.name in found:
                other = found[tensor.name][0]
                wanted = listed.get(tensor.name)
                if wanted == Path(other).name:
                    continue
                if wanted != Path(file).name:
                    raise CheckpointError(
                        f"tensor {quote_foreign(tensor.name)} stands both in {other} and in {file}",
                        "name the file to load, or remove the one that does not belong to the model",
                    )
            found[tensor.name] = file, tensor
    return list(found.values())
