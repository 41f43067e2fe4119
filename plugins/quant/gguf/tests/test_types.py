"""Every type against the ``gguf`` package, number by number."""

from __future__ import annotations

import gguf
import pytest
import torch
from dovetail_quant_gguf.types import TYPES

from .blocks import ENCODED, gaussian_rows, ggml_type, oracle, random_rows


@pytest.mark.parametrize("name", TYPES)
def test_sizes(name: str) -> None:
    assert (TYPES[name].weights, TYPES[name].bytes) == gguf.GGML_QUANT_SIZES[ggml_type(name)]


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_random_bits(name: str, rows: int) -> None:
    data = random_rows(name, rows, 512)
    got = TYPES[name].dequantize(data.view(-1, TYPES[name].bytes)).view(rows, 512)
    assert torch.equal(got, oracle(name, data))


@pytest.mark.parametrize("name", ENCODED)
def test_encoded(name: str) -> None:
    data = gaussian_rows(name, 5, 768)
    got = TYPES[name].dequantize(data.view(-1, TYPES[name].bytes)).view(5, 768)
    assert torch.equal(got, oracle(name, data))


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("rows", [1, 3])
def test_blocks_at_an_odd_address(name: str, rows: int) -> None:
    layout = TYPES[name]
    data = random_rows(name, rows, 256)
    shifted = torch.empty(data.numel() + 1, dtype=torch.uint8)[1:].view_as(data).copy_(data)
    blocks = data.view(-1, layout.bytes)
    assert torch.equal(layout.dequantize(shifted.view(-1, layout.bytes)), layout.dequantize(blocks))


@pytest.mark.parametrize("name", TYPES)
def test_input_is_left_alone(name: str) -> None:
    data = random_rows(name, 2, 256)
    before = data.clone()
    TYPES[name].dequantize(data.view(-1, TYPES[name].bytes))
    assert torch.equal(data, before)


@pytest.mark.parametrize("name", [name for name, layout in TYPES.items() if layout.floats])
def test_scales_that_are_not_finite(name: str) -> None:
    layout = TYPES[name]
    blocks = random_rows(name, 9, 256).view(-1, layout.bytes)
    assert not layout.has_bad_scale(blocks).any()
    for number, field in enumerate(layout.floats):
        for byte, mask in field:
            blocks[2 * number + 1, byte] |= mask
    found = layout.has_bad_scale(blocks).nonzero().flatten().tolist()
    assert found == [2 * number + 1 for number in range(len(layout.floats))]
    assert not torch.isfinite(layout.dequantize(blocks[1:2])).all()
