"""The conformance kit, with matrices of plain arithmetic."""

from __future__ import annotations

import dovetail_quant_mxfp4
import pytest
import torch
from dovetail_quant_mxfp4.format import Mxfp4Format

from dovetail.api import CheckpointError
from dovetail.nn import WeightName
from dovetail.testing import WeightSample, check_format, check_registration, lazy_tensors

(CARD,) = dovetail_quant_mxfp4.dovetail_register_quantization()
CPU = torch.device("cpu")
GATE_UP = WeightName("model.layers.0.mlp.experts.gate_up_proj", "experts")
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
LEVELS = E2M1 + [-level for level in E2M1]


def sample(n: int, groups: int) -> WeightSample:
    """Every code, from the low half of a byte to the high one, and exponents on both sides of 1."""
    generator = torch.Generator().manual_seed(n)
    blocks = torch.randint(256, (n, groups, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(117, 137, (n, groups), generator=generator, dtype=torch.uint8)
    dense = [
        [
            LEVELS[half] * 2.0 ** (int(scales[row, group]) - 127)
            for group in range(groups)
            for byte in blocks[row, group].tolist()
            for half in (byte & 15, byte >> 4)
        ]
        for row in range(n)
    ]
    tensors = {"_blocks": blocks, "_scales": scales}
    lazy = lazy_tensors({f"{GATE_UP.name}{suffix}": value for suffix, value in tensors.items()})
    return WeightSample(dict(zip(tensors, lazy, strict=True)), torch.tensor(dense))


def test_registration() -> None:
    check_registration(dovetail_quant_mxfp4)


def test_every_claim() -> None:
    check_format(CARD, [sample(37, 3), sample(32, 2)])


def test_transformers_unpacks_the_same_matrix() -> None:
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    given = sample(8, 2)
    blocks, scales = (lazy.read() for lazy in given.tensors.values())
    found = mxfp4.convert_moe_packed_tensors(blocks[None], scales[None], dtype=torch.float32)
    assert torch.equal(found[0].mT, given.dense)


@pytest.mark.parametrize(
    ("suffix", "shape", "told"),
    [
        ("_blocks", (8, 2, 8), r"_blocks is \[8, 2, 8\], wanted \[8, 2, 16\]"),
        ("_scales", (8, 3), r"_scales is \[8, 3\]"),
    ],
)
def test_other_blocks_are_refused(suffix: str, shape: tuple[int, ...], told: str) -> None:
    (bad,) = lazy_tensors({f"{GATE_UP.name}{suffix}": torch.zeros(shape, dtype=torch.uint8)})
    with pytest.raises(CheckpointError, match=told):
        Mxfp4Format({}).load(GATE_UP, {**sample(8, 2).tensors, suffix: bad}, CPU, torch.float32)
