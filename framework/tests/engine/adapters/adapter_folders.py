"""Folders with adapters in a container of numpy's, and cards that read them: the framework's tests have no plugin."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dovetail.api import Checkpoint, CheckpointError, LazyTensor, LoaderCard, SourceCard
from dovetail.kernel.registry import Registry
from dovetail.testing import make_registry

MODULE = "model.layers.0.q_proj"
ROWS, COLUMNS, RANK = 6, 8, 4


def registry(*more: LoaderCard) -> Registry:
    loader = LoaderCard(
        name="numpy", recognises=("*.npz",), inspect=f"{__name__}:inspect", target=f"{__name__}:load", rank=50
    )
    return make_registry(loader, *more, SourceCard(name="path", target="dovetail.sources:find_path"))


def inspect(path: str, files: tuple[str, ...]) -> Checkpoint:
    for file in files:
        if not Path(file).stat().st_size:
            raise CheckpointError(f"{file} is empty", "copy it again")
    return Checkpoint(path=path, files=files)


def load(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], device: Any) -> Iterator[LazyTensor]:
    for file in checkpoint.files:
        with np.load(file) as arrays:
            for name, value in arrays.items():
                tensor = torch.from_numpy(value)
                yield LazyTensor(
                    name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), partial(_of, tensor)
                )


def _of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def write(folder: Path, seed: int = 0, **config: Any) -> Path:
    """An adapter of one module, with random matrices of one rank."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, **config}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(seed)
    tensors = {
        f"base_model.model.{MODULE}.lora_A.weight": rng.standard_normal((RANK, COLUMNS), np.float32),
        f"base_model.model.{MODULE}.lora_B.weight": rng.standard_normal((ROWS, RANK), np.float32),
    }
    np.savez(folder / "adapter_model.npz", **tensors)
    return folder
