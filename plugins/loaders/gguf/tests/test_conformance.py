"""What the card claims, and what the tables of types say."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from dovetail_loaders_gguf import dovetail_register_loaders
from dovetail_loaders_gguf.types import TYPES

from dovetail.testing import check_loader

from .files import model, write


def test_card(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "token_embd.weight": rng.standard_normal((6, 64), dtype=np.float32),
        "blk.0.attn_norm.weight": np.arange(64, dtype=np.float16),
        "blk.0.ids": np.arange(5, dtype=np.int32),
    }
    packed = {"blk.0.attn_q.weight": (rng.integers(0, 256, (4, 40), dtype=np.uint8), gguf.GGMLQuantizationType.Q4_1)}
    file = write(tmp_path / "m.gguf", {**tensors, **packed})
    (card,) = dovetail_register_loaders()
    wanted = {name: torch.from_numpy(value) for name, value in tensors.items()}
    check_loader(card, file, {**wanted, "blk.0.attn_q.weight": torch.empty(4, 64)})


@pytest.mark.parametrize("type_", list(gguf.GGMLQuantizationType), ids=lambda type_: type_.name)
def test_types_agree_with_the_formats_own_package(type_: gguf.GGMLQuantizationType) -> None:
    ours = TYPES[type_.value]
    assert (ours.block, ours.nbytes) == gguf.GGML_QUANT_SIZES[type_]
    assert ours.name == type_.name.lower() or (ours.plain and getattr(torch, ours.name).itemsize == ours.nbytes)


def test_fixture_is_readable_by_the_formats_own_package(tmp_path: Path) -> None:
    reader = gguf.GGUFReader(model(tmp_path / "m.gguf"))
    assert [t.name for t in reader.tensors] == ["token_embd.weight", "blk.0.attn_norm.weight", "blk.0.attn_q.weight"]
