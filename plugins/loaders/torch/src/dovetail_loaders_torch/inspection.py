"""Describes a checkpoint of ``torch.save`` without torch: its files, and how many tensors there are of each dtype."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from dovetail.api import Checkpoint, select_files
from dovetail_loaders_torch.contents import tensors_of

OTHERS = (
    "training_args",
    "optimizer",
    "scheduler",
    "rng_state",
    "random_states",
    "consolidated",
    "adapter_model",
    "ema",
)


def inspect(path: str, files: tuple[str, ...]) -> Checkpoint:
    """Describe the checkpoint at a model reference.

    Args:
        path: the folder or the file of the reference.
        files: the files found there, as full paths.

    Raises:
        CheckpointError: files are missing or damaged, ask for code, or two of them have the same tensor.
    """
    where = Path(path)
    folder = where.parent if where.is_file() else where
    names = [Path(file).name for file in files] or [where.name]
    selection = select_files(folder, names, "pytorch_model.bin", OTHERS)
    chosen = tuple(str(folder / name) for name in selection.files)
    types = Counter(tensor.type for *_, tensor in tensors_of(chosen))
    return Checkpoint(path=path, files=chosen, tensor_types=dict(sorted(types.items())))
