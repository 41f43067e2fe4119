"""The conformance kit on every form, with matrices of plain arithmetic, and on published configurations."""

from __future__ import annotations

from typing import Any

import dovetail_quant_modelopt
import pytest
import torch
from dovetail_quant_modelopt.config import ModelOptConfig
from torch import Tensor

from dovetail.testing import WeightSample, check_format, check_registration, lazy_tensors

CARDS = {card.name: card for card in dovetail_quant_modelopt.dovetail_register_quantization()}
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
LEVELS = torch.tensor(E2M1 + [-level for level in E2M1])
INPUT = torch.tensor(0.25)


def sample(algorithm: str, dense: Tensor, input_scale: bool = False, **tensors: Tensor) -> WeightSample:
    if input_scale:
        tensors["input_scale"] = INPUT
    parts = lazy_tensors({f"layer.{name}": value for name, value in tensors.items()})
    named = dict(zip((f".{name}" for name in tensors), parts, strict=True))
    scale = INPUT[None] if input_scale else None
    return WeightSample(named, dense, config={"quant_algo": algorithm}, input_scale=scale)


def fp8(algorithm: str, n: int, k: int, shape: tuple[int, ...], block: tuple[int, int], **more: Any) -> WeightSample:
    generator = torch.Generator().manual_seed(n)
    values = (10 * torch.randn(n, k, generator=generator)).to(torch.float8_e4m3fn)
    scales = 0.01 + torch.rand(shape, generator=generator)
    table = scales.reshape(-(-n // block[0]), -(-k // block[1]))
    spread = table.repeat_interleave(block[0], 0)[:n].repeat_interleave(block[1], 1)[:, :k]
    return sample(algorithm, values.float() * spread, weight=values, weight_scale=scales, **more)


def mxfp8(n: int, k: int) -> WeightSample:
    generator = torch.Generator().manual_seed(n)
    values = (10 * torch.randn(n, k, generator=generator)).to(torch.float8_e4m3fn)
    exponents = torch.randint(117, 137, (n, k // 32), generator=generator, dtype=torch.uint8)
    dense = values.float() * (exponents.float() - 127).exp2().repeat_interleave(32, 1)
    return sample("MXFP8", dense, weight=values, weight_scale=exponents)


def nvfp4(n: int, k: int, **more: Any) -> WeightSample:
    generator = torch.Generator().manual_seed(n)
    codes = torch.randint(16, (n, k), generator=generator)
    scales = (1 + 5 * torch.rand(n, k // 16, generator=generator)).to(torch.float8_e4m3fn)
    dense = LEVELS[codes] * (scales.float() * 0.125).repeat_interleave(16, 1)
    packed = (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8)
    return sample("NVFP4", dense, weight=packed, weight_scale=scales, weight_scale_2=torch.tensor(0.125), **more)


def test_registration() -> None:
    check_registration(dovetail_quant_modelopt)


def test_8_bits() -> None:
    samples = [
        fp8("FP8", 37, 24, (), (37, 24), input_scale=True),
        fp8("FP8_PER_CHANNEL_PER_TOKEN", 37, 24, (37,), (1, 24)),
        fp8("FP8_PB_WO", 256, 384, (2, 1, 3, 1), (128, 128)),
        mxfp8(37, 96),
    ]
    check_format(CARDS["modelopt"], samples)


def test_4_bits() -> None:
    check_format(CARDS["modelopt-fp4"], [nvfp4(37, 48, input_scale=True), nvfp4(32, 64)])


@pytest.mark.parametrize(
    "config",
    [
        {"quant_algo": "FP8", "producer": {"name": "modelopt"}, "ignore": ["lm_head"], "kv_cache_scheme": "FP8"},
        {
            "producer": {"name": "modelopt"},
            "quantization": {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]},
        },
        {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"model.layers.0.mlp.up_proj": {"quant_algo": "FP8"}}},
    ],
)
def test_published_configurations(config: dict[str, Any]) -> None:
    assert ModelOptConfig.model_validate(config).algorithms & {"FP8", "NVFP4"}


@pytest.mark.parametrize(
    "config",
    [
        {"quant_algo": "W4A16_AWQ"},
        {"quantization": {"quant_algo": "NVFP4_AWQ"}},
        {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"a": {"quant_algo": "W4A8_AWQ"}}},
        {},
    ],
)
def test_what_cannot_be_read_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="quant_algo"):
        ModelOptConfig.model_validate(config)
