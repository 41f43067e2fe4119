"""The conformance kit on the loader's card, and what the kit cannot know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from dovetail.api import CheckpointError
from dovetail.testing import check_loader, check_registration

import PLUGIN_MODULE
from PLUGIN_MODULE.inspection import inspect

(CARD,) = PLUGIN_MODULE.dovetail_register_loaders()

TENSORS = {
    "model.embed_tokens.weight": torch.arange(12.0).view(3, 4),
    "lm_head.weight": torch.arange(6, dtype=torch.float16).view(3, 2),
    "model.norm.weight": torch.ones(5, dtype=torch.float64),
}


def test_registration() -> None:
    check_registration(PLUGIN_MODULE)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_claim(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "model.npz", **{name: value.numpy() for name, value in TENSORS.items()})
    check_loader(CARD, tmp_path, TENSORS)
    check_loader(CARD, tmp_path / "model.npz", TENSORS)


def test_arrays_of_other_types_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    np.savez(path, counts=np.arange(3))
    with pytest.raises(CheckpointError, match=r"counts in .* is of type int64"):
        inspect(str(path), (str(path),))
